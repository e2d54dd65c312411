"""A sweep's table, its CSV and plot, and what is shown while cells are missing."""

import csv

import pytest
from PIL import Image

from cld_core.evaluate.statistics import Statistics, StatsRequest
from cld_core.ranks import Ranks
from cld_core.run.evaluations import Evaluation, sweeps_of
from cldctl.evals import plan, results
from cldctl.show.evaluations import sweep_table
from tests.support.extractor import TINY
from tests.support.images import make_images, run_folder
from tests.support.made_up import report
from tests.support.screen import text
from tests.support.tools import train


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


@pytest.mark.slow
def test_fid_by_sampler_and_nfe(tmp_path):
    """The paper's table of a tiny model of images: every cell is drawn as it says."""
    settings = ("train.steps=2", "eval.samples=24", "eval.batch_size=24")
    run = run_folder(tmp_path, make_images(tmp_path / "set"), *settings, *TINY)
    train(run)
    assert Statistics(StatsRequest.of(run.recipe(), None, features=False, shards=1).save()).compute(Ranks())
    axes = plan.parse(["sampling.method=em,exponential", "sampling.nfe=2,3"])
    made = plan.make(run, ("fid",), [2], [], axes, shards=2)
    made.sweep.save(run)
    for request in made.requests:
        assert Evaluation(request.save(run)).compute(Ranks())
    results.write_finished(run)
    rows = results.rows(run, made.sweep)
    assert [row["fid_nfe"] for row in rows] == [2.0, 3.0, 2.0, 3.0], "each cell is drawn as it says"
    assert len({row["fid"] for row in rows}) == 4
    for row in rows:
        work = Evaluation(run.evals / row["evaluation"])
        assert row["fid"] == work.report["fid"]["value"]
        about = Image.open(work.folder / "samples.png").info["Description"]
        how = f"{row['sampling.method']}, {row['sampling.nfe']} NFE"
        assert about.endswith(f" samples, {how}"), "the picture is drawn in the same way"
    assert (run.evals / made.sweep.id / "table.csv").read_text() == results.to_csv(rows)
