"""Formulas: TeX in a `math` fence or a notebook becomes MathML, which browsers draw."""

from typing import Any

from latex2mathml.converter import convert


def block(
    source: str, language: str, css_class: str, options: dict[str, Any], md: Any, **_: Any
) -> str:
    """The formatter of a fence, as pymdownx.superfences calls it."""
    return f'<div class="formula">{convert(source.strip(), display="block")}</div>'


def drawn(block: str | None, inline: str | None) -> str:
    """A formula as HTML: ``block`` on lines of its own, or else ``inline`` within a line."""
    if block:
        return convert(block.strip(), display="block")
    return convert((inline or "").strip())
