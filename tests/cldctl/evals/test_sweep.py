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
    evals = {request.id: {"state": "RUNNING", "results": {}} for request in made.requests}
    (last,) = (
        line.split()
        for line in text(sweep_table(made.sweep, results.rows(run, made.sweep), evals), 120).splitlines()
        if "running" in line
    )
    assert last == ["4", "2.500", "±", "0.250", "3.000", "±", "0.250", "running"]
    answer(run, made.requests[-1], values[-1])
    results.write_finished(run)
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["eval.elbo.velocities"], row["eval.elbo.probes"], float(row["nll"])) for row in rows] == [
        (str(velocities), str(probes), values[3 * (velocities == 4) + index])
        for velocities in (1, 4)
        for index, probes in enumerate((1, 2, 8))
    ]
    assert (folder / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert sweeps_of(run) == [(folder, made.sweep)]
