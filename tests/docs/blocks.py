"""The blocks of code of all pages, and the commands in them."""

import re
import shlex
from dataclasses import dataclass

from markdown_it import MarkdownIt

from tests.support.paths import ROOT

SHELL = ("", "sh", "bash", "console")
# What keeps a block from being run: an HTML comment right above it, with the reason.
_NOT_RUN = re.compile(r"<!-- not run: \S.* -->")
_OPTIONAL = re.compile(r"\[(--[^\]]*)\]")
# Words of a synopsis that stand for something: RUN, STEP, FILE.png.
_PLACEHOLDER = re.compile(r"^[A-Z][A-Z_]*(?:\.[a-z]+)?$")
_OPERATORS = ("|", "||", "&", "&&", ";", ">", ">>", "<", "<<<", "2>", ")")


@dataclass(frozen=True)
class Block:
    """A fenced block: the page's path in the repository, the line of its fence, the language and
    the text."""

    page: str
    line: int
    language: str
    text: str
    run: bool

    @property
    def place(self):
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A call of `cldctl` in a page: where it is, and the words after `cldctl`. Prose may leave out
    arguments."""

    place: str
    words: tuple[str, ...]
    prose: bool = False

    def __str__(self):
        return f"{self.place} cldctl {shlex.join(self.words)}"


def pages():
    """All Markdown files that users read, except for the changelog, which tells of commands as they
    were."""
    found = [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))]
    return [page for page in found if page.name != "CHANGELOG.md"]


def blocks():
    """Every fenced block of every page."""
    for page in pages():
        above = ""
        for token in MarkdownIt("commonmark").parse(page.read_text()):
            if token.type == "fence":
                run = not _NOT_RUN.search(above)
                name = str(page.relative_to(ROOT))
                yield Block(name, token.map[0] + 1, token.info.strip(), token.content, run)
            above = token.content


def commands():
    """Every `cldctl ...` line of the shell blocks, and every piece of code in prose that is a whole
    command."""
    found = [
        Command(block.place, words)
        for block in blocks()
        if block.language in SHELL
        for words in _lines(block)
    ]
    return found + list(_in_prose())


def _lines(block):
    for line in block.text.replace("\\\n", " ").splitlines():
        words = _words(line.removeprefix("$ "))
        if words:
            yield words


def _in_prose():
    parser = MarkdownIt("commonmark").enable("table")
    for page in pages():
        for token in parser.parse(page.read_text()):
            for child in token.children or ():
                if (
                    child.type == "code_inline"
                    and child.content.startswith("cldctl ")
                    and "..." not in child.content
                ):
                    words = _words(child.content)
                    line = token.map[0] + 1 if token.map else 0
                    if words and "COMMAND" not in words and not set("[|") & set(child.content):
                        yield Command(f"{page.relative_to(ROOT)}:{line}", words, prose=True)


def _words(line):
    """The words after `cldctl` if the line calls it, without comments, redirections, and what
    follows a pipe."""
    if not line.startswith("cldctl "):
        return ()
    lexer = shlex.shlex(_OPTIONAL.sub(r"\1", line), posix=True, punctuation_chars=True)
    lexer.wordchars += ",[]{}%@+:"
    words = []
    for word in lexer:
        if word in _OPERATORS:
            break
        words.append(word)
    return tuple(words[1:])


def filled_in(words):
    """The words with something valid for each placeholder."""
    return ["toy" if word == "RECIPE" else _PLACEHOLDER.sub("1", word) for word in words]
