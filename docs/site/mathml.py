"""Formulas: TeX, in a block fenced as `math` or in a notebook, becomes MathML, which browsers draw
without a script."""

from typing import Any

from latex2mathml.converter import convert


def block(
    source: str, language: str, css_class: str, options: dict[str, Any], md: Any, **_: Any
) -> str:
    """The formatter of a fence, as pymdownx.superfences calls it."""
    return f'<div class="formula">{convert(source.strip(), display="block")}</div>'


def drawn(block: str | None, inline: str | None) -> str:
    """A formula on lines of its own, or else one within a line, as HTML."""
    return convert(block.strip(), display="block") if block else convert((inline or "").strip())
