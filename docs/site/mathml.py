"""Formulas: a block of TeX, fenced as `math`, becomes MathML, which browsers draw without a script."""

from typing import Any

from latex2mathml.converter import convert


def block(source: str, language: str, css_class: str, options: dict[str, Any], md: Any, **_: Any) -> str:
    """The formatter of a fence, as pymdownx.superfences calls it."""
    return f'<div class="formula">{convert(source.strip(), display="block")}</div>'
