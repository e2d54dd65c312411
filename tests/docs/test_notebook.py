"""docs/demo.ipynb runs, and shows what it showed when it was last run by hand."""

import nbformat
import pytest
from nbclient import NotebookClient

import cld_core
from tests.support.paths import ROOT
from tests.support.recipes import shipped_recipe

NOTEBOOK = ROOT / "docs/demo.ipynb"
MAX_BYTES = 1_000_000


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


def shown(notebook):
    """Of each cell with code, the kinds of what it shows."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    kinds = [
        [sorted(output.get("data", {"stream": ""})) for output in cell.outputs] for cell in cells
    ]
    return [[kind for output in outputs for kind in output] for outputs in kinds]


def test_it_is_stored_with_its_outputs_and_small():
    notebook = read()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum("image/png" in kinds for kinds in shown(notebook)) >= 7
    assert NOTEBOOK.stat().st_size < MAX_BYTES
    assert (ROOT / "docs/demo.safetensors").stat().st_size < MAX_BYTES


def test_the_model_of_the_documentation_is_that_of_the_recipe():
    """Of today's recipe: `benchmarks/demo_model.sh` trains it again."""
    model, recipe = (
        cld_core.load(ROOT / "docs/demo.safetensors", device="cpu"),
        shipped_recipe("toy_demo"),
    )
    for section in ("data", "sde", "network", "objective", "optim"):
        assert getattr(model.recipe, section) == getattr(recipe, section), section
    assert model.step == model.recipe.train.steps == recipe.train.steps
    assert model.recipe.train.batch_size == recipe.train.batch_size
    said = next(cell for cell in read().cells if cell.source.startswith("model = ")).outputs[0][
        "data"
    ]["text/plain"]
    assert said == repr(model)
    assert f"```\n{said}\n```" in (ROOT / "docs/api.md").read_text()


@pytest.mark.by_hand
def test_it_runs_and_shows_the_same_kinds_of_things():
    again = read()
    NotebookClient(
        again, timeout=1200, resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    ).execute()
    assert shown(again) == shown(read())
