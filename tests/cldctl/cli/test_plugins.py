"""A plug-in with a sampler and a metric: trained with, evaluated, and looked at without it."""

import json

import pytest

from cld_core import registration
from cld_core.run import RunFolder
from tests.support.tools import DEBUG, ONE, invoke

MINE = """
import dataclasses
from cld_core import register
from cld_core.config.sampling import EmSpec
from cld_core.evaluate.registry import metric
from cld_core.samplers.euler_maruyama import sample


@dataclasses.dataclass(frozen=True, kw_only=True)
class MineSpec(EmSpec):
    method: str = dataclasses.field(default="mine", metadata={"doc": "mine", "bounds": {}})


register("sampling", "mine", sample, MineSpec)
register("metrics", "mine", dataclasses.replace(metric("loss"), name="mine"))
"""
ASKED = ("sampling.method=mine", "sampling.nfe=5", "eval.samples=8", "eval.points=8")


def forget():
    """As in another process."""
    for table, name in (("sampling", "mine"), ("metrics", "mine")):
        registration._TABLES[table].pop(name, None)


@pytest.fixture
def plugin(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    return file


def test_a_run_with_a_sampler_and_a_metric_of_a_plugin(tmp_path, plugin):
    runs = tmp_path / "runs"
    submit = ("submit", "toy", *ONE, *ASKED, f"plugins={plugin}", *DEBUG)
    invoke(*submit, "--eval", "w2,mine", "--name", "both", runs=runs)
    invoke(*submit, "--eval", "mine", "--name", "one", runs=runs)
    (report,) = RunFolder(runs / "one").evals.glob("*/report.json")
    assert json.loads(report.read_text())["mine"]["n"] == 8
    plugin.write_text("raise SystemExit('those who look import nothing')")
    forget()
    for name in ("both", "one"):
        assert invoke("status", name, runs=runs).stdout.count("FINISHED") >= 2
        (row,) = json.loads(invoke("status", name, "--json", runs=runs).stdout)
        assert row["evals"][0]["state"] == "FINISHED"
    invoke("status", runs=runs)
    invoke("recipes", runs=runs)
    # The run has its copy, which other commands import.
    invoke("eval", "both", "--loss", *DEBUG, runs=runs)
    forget()
    invoke("eval", "both", "--w2", "--metric", "mine,density", *DEBUG, runs=runs)
    (report,) = RunFolder(runs / "both").evals.glob("w2-density-mine-*/report.json")
    assert json.loads(report.read_text())["mine"]["n"] == 8
    assert "'our' is not a metric" in invoke("eval", "both", "--metric", "our", *DEBUG, runs=runs, code=2).stderr
    forget()
    invoke("sample", "both", "-n", "4", "-o", str(tmp_path / "x.npz"), runs=runs)


def test_another_version_of_the_file_is_another_evaluation(tmp_path, plugin):
    runs = tmp_path / "runs"
    submit = ("submit", "toy", *ONE, *ASKED, f"plugins={plugin}", *DEBUG, "--eval", "w2")
    invoke(*submit, "--name", "first", runs=runs)
    plugin.write_text(f"{MINE}\n# another one\n")
    invoke(*submit, "--name", "second", runs=runs)
    ids = {folder.name for name in ("first", "second") for folder in RunFolder(runs / name).evals.glob("w2-*")}
    assert len(ids) == 2
