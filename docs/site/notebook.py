"""Pages of the site made from notebooks, with the outputs that are stored in them."""

import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

from docs.site import mathml

_FORMULA = re.compile(r"\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$\n]+)\$", re.DOTALL)


def page(file: Path) -> tuple[str, dict[str, bytes]]:
    """The Markdown of a notebook, and its pictures by the file names that the Markdown has."""
    content = nbformat.read(file, as_version=4)
    for cell in content.cells:
        if cell.cell_type == "markdown":
            cell.source = _FORMULA.sub(
                lambda match: mathml.drawn(match["block"], match["inline"]), cell.source
            )
    text, resources = MarkdownExporter().from_notebook_node(
        content, resources={"unique_key": file.stem}
    )
    outputs: dict[str, bytes] = resources["outputs"]
    return text, outputs
