"""A sweep's table, its CSV and plot, and what is shown while cells are missing."""

import csv

from cld_core.run.evaluations import sweeps_of
from cldctl.evals import plan, results
from cldctl.show.evaluations import sweep_table
from tests.support.made_up import report
from tests.support.screen import text


def answer(run, request, nll):
    report(run, request, elbo={"nll": nll, "stderr": 0.25, "nfe_mean": 80.0})


def test_table_csv_and_plot_of_a_sweep(run):
    made = plan.make(run, ("elbo",), [20], [], plan.parse(["eval.elbo.velocities=1,4", "eval.elbo.probes=1,2,8"]))
    folder = made.sweep.save(run)
    values = [1.0, 1.5, 2.0, 2.5, 3.0, 3.5]
    for request, value in zip(made.requests[:-1], values[:-1], strict=True):
        answer(run, request, value)
    made.requests[-1].save(run)
    results.write_finished(run)
    assert not (folder / "table.csv").exists(), "a cell is missing"
    finished = {"state": "FINISHED", "results": {"nll": {"value": 1.0, "stderr": 0.25, "n": 2000}}}
    evals = {request.id: finished for request in made.requests[:-1]}
    evals[made.requests[-1].id] = {"state": "RUNNING", "results": {}}
    shown = text(sweep_table(made.sweep, results.rows(run, made.sweep), evals), 120).splitlines()
    assert shown[0].strip() == "NLL bound, nats by eval.elbo.velocities and eval.elbo.probes, 2,000 points"
    assert [line.split() for line in shown if "±" in line] == [
        ["1", "1.000", "±", "0.250", "1.500", "±", "0.250", "2.000", "±", "0.250"],
        ["4", "2.500", "±", "0.250", "3.000", "±", "0.250", "running"],
    ]
    answer(run, made.requests[-1], values[-1])
    results.write_finished(run)
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["eval.elbo.velocities"], row["eval.elbo.probes"], float(row["nll"])) for row in rows] == [
        (str(velocities), str(probes), values[3 * (velocities == 4) + index])
        for velocities in (1, 4)
        for index, probes in enumerate((1, 2, 8))
    ]
    assert rows[0]["nll_stderr"] == "0.25"
    assert (folder / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert sweeps_of(run) == [(folder, made.sweep)]
