"""docs/demo.ipynb runs, and shows what it showed when it was last run by hand."""

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.paths import ROOT

NOTEBOOK = ROOT / "docs/demo.ipynb"
MAX_BYTES = 1_000_000


def read() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def shown(notebook: nbformat.NotebookNode) -> list[list[str]]:
    """Of each cell with code, the kinds of what it shows."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    kinds = [[sorted(output.get("data", {"stream": ""})) for output in cell.outputs] for cell in cells]
    return [[kind for output in outputs for kind in output] for outputs in kinds]


def test_it_is_stored_with_its_outputs_and_small():
    notebook = read()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum("image/png" in kinds for kinds in shown(notebook)) >= 7
    assert NOTEBOOK.stat().st_size < MAX_BYTES
    assert (ROOT / "docs/demo.safetensors").stat().st_size < MAX_BYTES


@pytest.mark.slow
def test_it_runs_and_shows_the_same_kinds_of_things():
    again = read()
    NotebookClient(again, timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    assert shown(again) == shown(read())
