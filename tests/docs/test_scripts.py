"""The scripts of `examples/` run, here with a few steps of small networks."""

import runpy

import matplotlib
import pytest
from matplotlib import pyplot

import cld_core
from tests.support.paths import ROOT

SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
# For vectors, and for all else.
_SMALL = {2: {"width": 16, "layers": 2}, 3: {"channels": 4, "multipliers": [1]}}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The working directory is a folder, and what is trained is small."""
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    fit, model = cld_core.fit, cld_core.Model
    sample, bound = model.sample, model.log_likelihood

    def short(data, steps, *arguments, **keys):
        return fit(
            data, 3, *arguments, network=_SMALL[min(data.ndim, 3)], train__batch_size=8, **keys
        )

    monkeypatch.setattr(cld_core, "fit", short)
    few = {"nfe": 5, "method": "exponential"}
    monkeypatch.setattr(model, "sample", lambda model, n, **how: sample(model, n, **{**how, **few}))
    monkeypatch.setattr(model, "log_likelihood", lambda model, x, **how: bound(model, x[:8], **how))
    yield tmp_path
    pyplot.close("all")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_runs_and_is_short_and_listed(script, small):
    runpy.run_path(str(script), run_name="__main__")
    assert 10 <= len(script.read_text().splitlines()) <= 60
    assert f"({script.name})" in (ROOT / "examples" / "README.md").read_text()
    if "savefig" in script.read_text():
        assert list(small.glob("*.png"))
