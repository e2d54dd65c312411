"""The requests of the pages of a built site to other hosts."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

# Attributes that browsers load with the page. A link (`a href`) is not among them.
_LOADING = {"src", "srcset", "poster", "data"}
_LOADING_LINKS = {
    "stylesheet",
    "preconnect",
    "dns-prefetch",
    "preload",
    "modulepreload",
    "prefetch",
    "icon",
    "manifest",
}
_IN_CSS = re.compile(r"""(?:url\(\s*["']?|@import\s+["'])((?:https?:)?//[^"')\s]+)""")


class _Loads(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        loads = [value for name, value in values.items() if name in _LOADING]
        if tag == "link" and _LOADING_LINKS & set(values.get("rel", "").split()):
            loads.append(values.get("href", ""))
        self.found += [
            f"<{tag}> {url}" for url in loads if url.startswith(("http:", "https:", "//"))
        ]
        self.found += [f"style= {url}" for url in _IN_CSS.findall(values.get("style", ""))]
        self._in_style = tag == "style"

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.found += [f"<style> {url}" for url in _IN_CSS.findall(data)]

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False


def outside(site: Path) -> list[str]:
    """A line for each request to another host: the file, and the address. Scripts are not read."""
    return [
        f"{path.relative_to(site)}: {load}"
        for path in sorted(site.rglob("*"))
        for load in _loads(path)
    ]


def _loads(path: Path) -> Iterator[str]:
    if path.suffix == ".html":
        parser = _Loads()
        parser.feed(path.read_text())
        yield from parser.found
    elif path.suffix == ".css":
        yield from (f"css {url}" for url in _IN_CSS.findall(path.read_text()))
