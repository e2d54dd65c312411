"""What the pictures of terminals in the documentation have in common."""

import re

_FONT_FACE = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)


def without_fonts(picture: str) -> str:
    """An SVG by rich or textual that loads no font: a page of the documentation asks nobody for anything."""
    return _FONT_FACE.sub("", picture)
