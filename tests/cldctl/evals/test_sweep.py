"""A sweep's table, its CSV and plot, and what is shown while cells are missing."""

import csv

import pytest
from rich.console import Console

from cld_core.errors import CheckpointError
from cld_core.ranks import Ranks
from cld_core.stop import StopFlag
from cldctl.cluster import worker
from cldctl.cluster.slurm import Seen
from cldctl.cluster.state import eval_status, status_of
from cldctl.evals import plan, sweep
from cldctl.ui.sweeps import by_step, sweep_table
from tests.support.made_up import report, run_with


def text(view) -> str:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(view)
    return console.export_text()


def gone(job):
    return Seen("gone")


@pytest.fixture
def run(tmp_path):
    return run_with(tmp_path / "mine", 10, 20)


def answer(run, request, nll):
    report(run, request, elbo={"nll": nll, "stderr": 0.25, "nfe_mean": 80.0})


def test_table_csv_and_plot_of_a_sweep(run):
    made = plan.make(run, ("elbo",), [20], [], sweep.parse(["eval.elbo.velocities=1,4", "eval.elbo.probes=1,2,8"]))
    folder = made.sweep.save(run)
    values = [1.0, 1.5, 2.0, 2.5, 3.0, 3.5]
    for request, value in zip(made.requests[:-1], values[:-1], strict=True):
        answer(run, request, value)
    made.requests[-1].save(run)
    sweep.write_finished(run)
    assert not (folder / "table.csv").exists(), "a cell is missing"
    states = {made.requests[-1].id: "RUNNING"}
    shown = text(sweep_table(made.sweep, sweep.rows(run, made.sweep), states)).splitlines()
    assert shown[0].strip() == "NLL bound, nats by eval.elbo.velocities and eval.elbo.probes"
    assert [line.split() for line in shown if "±" in line] == [
        ["1", "1.000", "±", "0.250", "1.500", "±", "0.250", "2.000", "±", "0.250"],
        ["4", "2.500", "±", "0.250", "3.000", "±", "0.250", "running"],
    ]
    assert status_of(run, gone).sweeps[0]["done"] == 5
    answer(run, made.requests[-1], values[-1])
    sweep.write_finished(run)
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["eval.elbo.velocities"], row["eval.elbo.probes"], float(row["nll"])) for row in rows] == [
        (str(velocities), str(probes), values[3 * (velocities == 4) + index])
        for velocities in (1, 4)
        for index, probes in enumerate((1, 2, 8))
    ]
    assert rows[0]["nll_stderr"] == "0.25"
    assert (folder / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert sweep.Sweep.load(folder) == made.sweep


def test_an_evaluation_that_fails_leaves_the_others_alone(run, monkeypatch):
    computed = []

    def compute(folder, name, ranks, should_stop, only):
        computed.append((name, only))
        if name == "b":
            raise CheckpointError("b is damaged. Mend it.")
        return True

    monkeypatch.setattr("cld_core.evaluation.shard.compute", compute)
    work = [("a", 0), ("b", 0), ("c", 1)]
    with pytest.raises(CheckpointError, match="b is damaged"):
        worker._evaluate(run, work, Ranks(), StopFlag())
    assert computed == work


def test_results_against_the_step_are_those_of_the_same_settings(run):
    for step, nll in ((20, 1.0), (10, 2.0)):
        (request,) = plan.make(run, ("elbo",), [step], []).requests
        answer(run, request, nll)
    (other,) = plan.make(run, ("elbo",), [20], ["eval.elbo.probes=7"]).requests
    answer(run, other, 9.0)
    rows = [eval_status(path, gone) for path in run.evals.iterdir()]
    (table,) = by_step(rows)
    lines = [line.split() for line in text(table).splitlines() if "±" in line]
    assert lines == [["10", "2.000", "±", "0.250"], ["20", "1.000", "±", "0.250"]]
