"""Runs and groups side by side: what is marked, what is averaged, what is not, and why; the table
of a sweep."""

import csv
import math
import statistics

import pytest

from cld_core.config import with_overrides
from cld_core.errors import NotFoundError
from cld_core.evaluate.request import request_of
from cld_core.run.evaluations import sweeps_of
from cldctl.evals import plan, results
from cldctl.evals.results import ComparedRuns, SideBySide
from cldctl.show import tables
from cldctl.show.evaluations import compared, sweep_table
from tests.support.made_up import bound, report, run_with, seeds
from tests.support.screen import text
from tests.support.tools import invoke, json_of


def evaluated(path, nll, stderr=0.1, samples=100, step=10, **sections):
    run = run_with(path, step, overrides=(f"eval.samples={samples}",))
    elbo = {"nll": nll, "stderr": stderr, "nfe_mean": 80.0}
    report(run, request_of(run.recipe(), ("elbo",), step), elbo=elbo, **sections)
    return run


def trained(path, *overrides, steps=10, metric="elbo"):
    run = run_with(path, steps, overrides=overrides)
    number = {"nll" if metric == "elbo" else "value": 1.0, "stderr": 0.1}
    report(run, request_of(run.recipe(), (metric,), steps), **{metric: number})
    return results.column(run)


def of_runs(columns):
    return SideBySide([ComparedRuns(column.run, {}, (column,)) for column in columns])


def test_a_difference_is_marked_beyond_twice_the_combined_error(tmp_path, monkeypatch):
    monkeypatch.setattr(tables.out, "_width", 240)
    # Errors of 0.3 and 0.4 combine to 0.5: the border is at 1.
    values = {
        "first": (3.0, 0.3),
        "inside": (3.99, 0.4),
        "worse": (4.01, 0.4),
        "better": (1.99, 0.4),
    }
    runs = []
    for name, (value, stderr) in values.items():
        # Of few parts: the border is at 1.25.
        energy = {"value": value, "stderr": stderr, "t95": 2.5}
        runs.append(evaluated(tmp_path / name, value, stderr, fid={"value": 3.0}, energy=energy))
    columns = [results.column(run) for run in runs]
    first, inside, worse, _ = columns
    assert results.rule([first, worse]).startswith(f"{results.RULE}; of results with t95")
    assert results.rule([first, inside]).startswith("no difference is marked")
    found = of_runs(columns)
    content = found.to_dict()
    assert [entry["nll"].get("against_first") for entry in content["runs"]] == [
        None,
        "same",
        "worse",
        "better",
    ]
    assert [entry["energy"].get("against_first") for entry in content["runs"]] == [
        None,
        *["same"] * 3,
    ]
    assert [entry["fid"].get("against_first") for entry in content["runs"]] == [None] * 4
    assert content["warnings"] == ["FID: no standard error, and so no difference is marked"]
    shown = text(compared(found.lines), 240)
    for words in (
        " 3.990 ± 0.400 ",
        " 4.010 ± 0.400 worse ",
        " 1.990 ± 0.400 better ",
        "velocities 1, probes 1",
    ):
        assert words in shown


def test_answers_to_different_questions_are_not_compared(tmp_path):
    columns = [
        results.column(evaluated(tmp_path / f"a{samples}", 3.0, samples=samples))
        for samples in (100, 50)
    ]
    content = of_runs(columns).to_dict()
    assert [entry["nll"]["points"] for entry in content["runs"]] == [100, 50]
    assert content["runs"][1]["nll"]["against_first"] is None
    assert (
        "NLL bound, nats of a100 and a50 cannot be compared: points 100 and 50"
        in content["warnings"]
    )
    with pytest.raises(NotFoundError, match=r"no finished evaluation of step '20'\. There are: 10"):
        results.column(evaluated(tmp_path / "c", 1.0), "20")
    with pytest.raises(NotFoundError, match="d has no finished evaluation"):
        results.column(run_with(tmp_path / "d", 10))


def test_of_several_results_those_are_taken_that_can_be_compared(tmp_path):
    first, other = results.column(evaluated(tmp_path / "a", 3.0)), evaluated(tmp_path / "b", 4.0)
    recipe = with_overrides(other.recipe(), ["eval.seed=1"], "test")
    report(other, request_of(recipe, ("elbo",), 10), elbo={"nll": 5.0, "stderr": 0.1})
    newest, like = results.column(other), results.column(other, "last", first)
    assert (newest.results["nll"].number.value, like.results["nll"].number.value) == (5.0, 4.0)
    assert "cannot be compared: eval.seed 0 and 1" in results.warnings([first, newest])[0]
    assert results.warnings([first, like]) == []


def test_it_is_said_how_runs_differ(tmp_path):
    first = trained(tmp_path / "a")
    other = trained(tmp_path / "b", "objective.name=dsm", "sde.name=vpsde", steps=1)
    assert results.differences([first, first]) == []
    (text,) = results.differences([first, other])
    for words in (
        "b differs from a",
        "objective dsm, not hsm",
        "diffusion vpsde, not cld",
        "0.1 times the steps",
    ):
        assert words in text
    assert of_runs([first, other]).to_dict()["differences"] == [text]


def test_it_is_said_that_samplers_differ(tmp_path):
    first = trained(tmp_path / "a", "sampling.method=em", metric="energy")
    other = trained(tmp_path / "b", "sampling.method=sscs", metric="energy")
    (text,) = results.differences([first, other])
    assert "energy" in text
    for sampler in ("by sscs", "not by em"):
        assert sampler in text


@pytest.mark.parametrize(
    ("overrides", "metric", "words"),
    [
        ((["objective.loss_eps=0.001"], []), "elbo", "elbo.eps 0.001 and 1e-05"),
        (([], ["data.name=diamond"]), "elbo", "data multimodal_swissroll and diamond"),
        ((["sde.beta0=4"], ["sde.beta0=5"]), "loss", "sde.beta0 4.0 and 5.0"),
    ],
)
def test_results_of_other_bounds_data_and_losses_are_not_compared(
    tmp_path, overrides, metric, words
):
    columns = [
        trained(tmp_path / name, *its, metric=metric)
        for name, its in zip("ab", overrides, strict=True)
    ]
    first, other = (next(iter(column.results.values())) for column in columns)
    assert results.verdict(first, other) == ""
    assert f"a and b cannot be compared: {words}" in results.warnings(columns)[0]


def member(path, nll, seed, lr="1e-4", **how):
    return results.column(evaluated(path, nll, **how)), {"train.seed": seed, "optim.lr": lr}


def test_seeds_of_a_cell_are_averaged_with_their_standard_deviation(tmp_path):
    values = (1.0, 2.0, 4.0)
    members = [member(tmp_path / f"a{seed}", nll, str(seed)) for seed, nll in enumerate(values)]
    members += [
        member(tmp_path / "b0", 7.0, "0", "2e-4"),
        member(tmp_path / "a3", 3.0, "3", "0.0001"),
    ]
    first, second = results.lines("g", members)
    average = first.average("nll")
    assert average.value == 2.5, "0.0001 is 1e-4"
    assert average.stderr == pytest.approx(statistics.stdev([*values, 3.0]))
    assert second.cell == {"optim.lr": "2e-4"}
    alone = second.average("nll")
    assert (alone.value, alone.stderr) == (7.0, 0.1)
    (diverged,) = results.lines(
        "g", [*members[:1], member(tmp_path / "a5", math.inf, "5", stderr=math.nan)]
    )
    entry = diverged.to_dict()["nll"]
    assert (entry["mean"], entry["values"]) == (None, {"a0": 1.0, "a5": None})
    assert results.group_warnings([first, second]) == []


def test_cells_of_a_sweep_are_marked_by_the_standard_errors_of_their_means(tmp_path):
    # Means of two have errors of 0.3 and 0.4, which combine to 0.5: times 12.71, the border is at
    # 6.35.
    seeds = {"1e-4": (2.7, 3.3), "2e-4": (8.93, 9.73), "3e-4": (8.97, 9.77), "4e-4": (-3.77, -2.97)}
    members = []
    for lr, values in seeds.items():
        members += [member(tmp_path / f"{lr}-{nll}", nll, str(nll), lr) for nll in values]
    found = results.lines("g", members)
    entries = [line["nll"] for line in SideBySide(found, has_groups=True).to_dict()["lines"]]
    verdicts = [entry.get("against_first") for entry in entries]
    assert verdicts == [None, "same", "worse", "better"]
    assert " -3.370 ± 0.566 better " in text(compared(found), 240)
    assert results.rule(found, "marked") == "marked"


def test_compare_shows_groups_and_runs(tmp_path):
    """Two seeds with results and one without, beside a run of no group."""
    for run, nll in zip(seeds(tmp_path, "g", 3, 10, infix="-seed"), (1.0, 3.0), strict=False):
        bound(run, 10, nll)
    evaluated(tmp_path / "alone", 2.0)
    done = invoke("compare g alone")
    assert ["2.000 ± 1.414" in done.stdout, "2.000 ± 0.100" in done.stdout] == [True, True]
    assert "g-seed2 has no finished evaluation" in done.stderr
    assert invoke("eval --compare g alone").stdout == done.stdout
    assert json_of("compare g --json")["missing"] == ["g-seed2"]


def test_a_run_that_cannot_be_read_is_left_out_and_named(tmp_path):
    for run in seeds(tmp_path, "g", 2, 10, infix="-seed"):
        bound(run, 10, 1.0)
    for name in ("alone", "other", "third"):
        evaluated(tmp_path / name, 2.0)
    for name in ("g-seed1", "other"):
        (tmp_path / name / "recipe.yaml").write_text("sde: [")
    for names, damaged in ((("g", "alone"), "g-seed1"), (("other", "alone", "third"), "other")):
        done = invoke("compare", *names)
        assert f"{damaged} is left out: " in done.stderr
        assert "alone" in done.stdout
        assert damaged not in done.stdout
    (tmp_path / "third" / "recipe.yaml").write_text("sde: [")
    assert "no run of other, third" in invoke("compare other third", code=3).stderr


def test_other_steps_and_other_numbers_of_examples_are_shown_apart(tmp_path):
    members = [
        member(tmp_path / "a", 1.0, "0"),
        member(tmp_path / "b", 2.0, "1", samples=50),
        member(tmp_path / "c", 3.0, "2", step=20),
        member(tmp_path / "d", 4.0, "3", "2e-4"),
        member(tmp_path / "e", 5.0, "4"),
    ]
    found = results.lines("g", members)
    assert [[column.run for column in line.columns] for line in found] == [
        ["a", "e"],
        ["b"],
        ["c"],
        ["d"],
    ]
    assert results.group_warnings(found) == [
        "a and b are not averaged: they differ in points",
        "b and c are not averaged: they were evaluated at steps 10 and 20",
        "NLL bound, nats of a and b cannot be compared: points 100 and 50",
    ]


def answer(run, request, nll):
    report(run, request, elbo={"nll": nll, "stderr": 0.25, "nfe_mean": 80.0})


def test_table_csv_and_plot_of_a_sweep(run):
    made = plan.make(
        run, ("elbo",), [20], [], plan.parse(["eval.elbo.velocities=1,4", "eval.elbo.probes=1,2,8"])
    )
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
        for line in text(
            sweep_table(made.sweep, results.rows(run, made.sweep), evals), 120
        ).splitlines()
        if "running" in line
    )
    assert last == ["4", "2.500", "±", "0.250", "3.000", "±", "0.250", "running"]
    answer(run, made.requests[-1], values[-1])
    results.write_finished(run)
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [
        (row["eval.elbo.velocities"], row["eval.elbo.probes"], float(row["nll"])) for row in rows
    ] == [
        (str(velocities), str(probes), values[3 * (velocities == 4) + index])
        for velocities in (1, 4)
        for index, probes in enumerate((1, 2, 8))
    ]
    assert (folder / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert sweeps_of(run) == [(folder, made.sweep)]
