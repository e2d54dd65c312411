"""Runs side by side: what is marked, what is not, and why."""

import dataclasses
import io

import pytest
from rich.console import Console

from cld_core.errors import NotFoundError
from cld_core.evaluation.request import EvalRequest
from cldctl.evals import compare
from cldctl.evals.compare import Line
from cldctl.show import tables
from cldctl.show.evaluations import compared
from tests.support.made_up import report, run_with


def evaluated(path, nll, stderr, samples=100):
    run = run_with(path, 10)
    request = EvalRequest.of(plain(run, samples), ("elbo",), 10)
    report(run, request, elbo={"nll": nll, "stderr": stderr, "nfe_mean": 80.0}, fid={"value": 3.0})
    return run


def plain(run, samples):
    recipe = run.recipe()
    return dataclasses.replace(recipe, eval=dataclasses.replace(recipe.eval, samples=samples))


def test_a_difference_is_marked_beyond_twice_the_combined_error(tmp_path, monkeypatch):
    monkeypatch.setattr(tables.out, "_width", 240)
    # Errors of 0.3 and 0.4 combine to 0.5: the border is at 1.
    others = {"inside": 3.99, "worse": 4.01, "better": 1.99}
    runs = [evaluated(tmp_path / name, nll, 0.4) for name, nll in others.items()]
    columns = [compare.column(run) for run in (evaluated(tmp_path / "first", 3.0, 0.3), *runs)]
    content = compare.to_json(columns)
    assert [entry["nll"].get("against_first") for entry in content["runs"]] == [None, "same", "worse", "better"]
    assert [entry["fid"].get("against_first") for entry in content["runs"]] == [None] * 4
    assert content["warnings"] == ["FID has no standard error: no difference is marked"]
    console = Console(width=240, record=True, file=io.StringIO())
    console.print(compared([Line(column.run, {}, (column,)) for column in columns], is_marked=True))
    rows = console.export_text().splitlines()[3:-1]
    cells = ["3.000 ± 0.300", "3.990 ± 0.400", "4.010 ± 0.400 worse", "1.990 ± 0.400 better"]
    for column, row, cell in zip(columns, rows, cells, strict=True):
        assert row.split()[:2] == [column.run, "10"]
        assert f" {cell} " in row
        assert "100 points" in row
        assert "velocities 1, probes 1, from t = 1e-05, 80 NFE" in row


def test_the_rule_is_said_only_where_something_is_marked(tmp_path):
    values = {"first": (3.0, 0.3), "inside": (3.99, 0.4), "worse": (4.01, 0.4), "bare": (9.0, None)}
    columns = {name: compare.column(evaluated(tmp_path / name, *value)) for name, value in values.items()}

    def said(other):
        return compare.rule([columns["first"], columns[other]])

    assert said("worse") == compare.RULE
    assert said("inside").startswith("no difference is marked")
    assert said("bare") is None, "the warning says why"


def test_answers_to_different_questions_are_not_compared(tmp_path):
    columns = [
        compare.column(evaluated(tmp_path / "a", 3.0, 0.1)),
        compare.column(evaluated(tmp_path / "b", 9.0, 0.1, samples=50)),
    ]
    content = compare.to_json(columns)
    assert [entry["nll"]["points"] for entry in content["runs"]] == [100, 50]
    assert content["runs"][1]["nll"]["against_first"] is None
    assert "NLL bound, nats of a and b cannot be compared: points 100 and 50" in content["warnings"]
    with pytest.raises(NotFoundError, match=r"no finished evaluation of step '20'\. There are: 10"):
        compare.column(evaluated(tmp_path / "c", 1.0, 0.1), "20")
    with pytest.raises(NotFoundError, match="d has no finished evaluation"):
        compare.column(run_with(tmp_path / "d", 10))


def asked(path, metric, *overrides):
    """A run with a result of this metric."""
    run = run_with(path, 10, overrides=overrides)
    sections = {"elbo": {"nll": 1.0, "stderr": 0.1}, "loss": {"value": 1.0, "stderr": 0.1}}
    report(run, EvalRequest.of(run.recipe(), (metric,), 10), **{metric: sections[metric]})
    return compare.column(run)


def test_bounds_are_compared_by_where_they_start(tmp_path):
    later = "objective.loss_eps=0.001"
    columns = [asked(tmp_path / "a", "elbo"), asked(tmp_path / "b", "elbo", later)]
    assert "NLL bound, nats of a and b cannot be compared: elbo.eps 1e-05 and 0.001" in compare.warnings(columns)
    same = [*columns[1:], asked(tmp_path / "c", "elbo", "eval.elbo.eps=0.001")]
    assert compare.warnings(same) == []
    assert [it.results["nll"].how for it in (*columns, same[1])] == [
        "velocities 1, probes 1, from t = 1e-05",
        "velocities 1, probes 1, from t = 0.001",
        "velocities 1, probes 1, from t = 0.001",
    ]


def trained(path, *overrides, stderr=0.1, steps=10, metric="elbo"):
    run = run_with(path, steps, overrides=overrides)
    sections = {"elbo": {"nll": 1.0, "stderr": stderr}, "loss": {"value": 1.0, "stderr": stderr}}
    report(run, EvalRequest.of(run.recipe(), (metric,), steps), **{metric: sections[metric]})
    return compare.column(run)


def test_it_is_said_how_runs_differ(tmp_path):
    first = trained(tmp_path / "a")
    other = trained(tmp_path / "b", "objective.name=dsm", "sde.name=vpsde", steps=1)
    assert compare.differences([first, first]) == []
    (text,) = compare.differences([first, other])
    for words in ("b differs from a", "objective dsm, not hsm", "diffusion vpsde, not cld", "0.1 times the steps"):
        assert words in text
    (text,) = compare.differences([first, trained(tmp_path / "c", "network.width=8")])
    assert text == f"c differs from a: network.width 8, not {first.keys['network.width']}"
    assert compare.to_json([first, other])["differences"] == compare.differences([first, other])


def test_results_on_other_data_and_losses_of_other_diffusions_are_not_compared(tmp_path):
    pairs = [
        ("nll", [trained(tmp_path / "a"), trained(tmp_path / "b", "data.name=diamond", stderr=0.001)]),
        ("loss", [trained(tmp_path / name, f"sde.beta0={beta}", metric="loss") for name, beta in (("c", 4), ("d", 5))]),
    ]
    for key, columns in pairs:
        first, other = (column.results[key] for column in columns)
        assert compare.verdict(first, other) == ""
        assert "cannot be compared" in compare.warnings(columns)[0]
