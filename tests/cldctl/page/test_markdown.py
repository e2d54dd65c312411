"""Texts of others in Markdown: they are shown as they are, and are no markup."""

import pytest
from markdown_it import MarkdownIt

from cld_core.texts import fenced
from cldctl.page.markdown import escaped, table

HOSTILE = [
    "plain words, 1.5 and a-b_c",
    "*bold* _it_ **b** ~~gone~~ `code`",
    "<script>alert(1)</script> <!-- x --> &lt;b&gt;",
    "[text](https://evil.example) ![picture](x.png) [a]: b",
    "https://evil.example and www.evil.example and <https://evil.example>",
    "| cell | cell |",
    "$x^2$ and \\(y\\) @someone #1",
    "\\*escaped\\*",
    "line one\n# heading\n- list",
    "\x1b[31mred\x1b[0m",
]


def inline(text: str) -> tuple[set[str], str]:
    """The kinds of elements in a paragraph, and the text that a reader sees, as GitHub reads it."""
    parser = MarkdownIt("gfm-like", {"html": True})
    children = [child for token in parser.parse(text) for child in token.children or ()]
    return {child.type for child in children}, "".join(child.content for child in children)


@pytest.mark.parametrize("text", HOSTILE)
def test_an_escaped_text_is_text(text):
    kinds, seen = inline(f"A: {escaped(text)}")
    assert kinds == {"text"} or kinds == {"text", "text_special"}
    words = "".join(character for character in text if character.isprintable() or character == "\n")
    if "\x1b" not in text:
        assert seen == f"A: {' '.join(words.split())}"


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_stays_a_cell(text):
    tokens = MarkdownIt("gfm-like", {"html": True}).parse(table(["a", "b"], [[text, "end"]]))
    assert [token.type for token in tokens].count("td_open") == 2
    assert tokens[0].type == "table_open"
    kinds = {child.type for token in tokens for child in token.children or ()}
    assert kinds <= {"text", "text_special"}


@pytest.mark.parametrize("text", ["a: b", "```\nout\n```", "`````\n# out", "~~~"])
def test_nothing_ends_a_block_of_code(text):
    (token,) = MarkdownIt("gfm-like").parse(fenced(text, "yaml"))
    assert (token.type, token.info, token.content) == ("fence", "yaml", f"{text}\n")
