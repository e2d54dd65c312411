"""HTML as a browser without scripts reads it, for tests that look for what must not be there."""

from html.parser import HTMLParser

_WITHIN_A_LINE = ("a", "b", "code", "span", "small")
_TEXTS = ("figcaption", "li")


class Parsed(HTMLParser):
    """The elements and the text of a page.

    Attributes:
        elements: name and attributes, in their order.
        texts: what stands in captions and items of lists, with the name of the element.
        text: everything but styles, scripts and drawings.
    """

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.elements = []
        self.texts = []
        self.text = ""
        self._inside = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style", "svg"):
            self._inside.append(tag)
        if tag in _TEXTS:
            self.texts.append((tag, ""))

    def handle_endtag(self, tag):
        if self._inside and tag == self._inside[-1]:
            self._inside.pop()
        elif tag not in _WITHIN_A_LINE:
            self.text += " "

    def handle_data(self, data):
        if self._inside:
            return
        self.text += data
        if self.texts and data.strip():
            tag, before = self.texts[-1]
            self.texts[-1] = (tag, before or data.strip())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]
