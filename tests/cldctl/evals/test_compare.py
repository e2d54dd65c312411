"""Runs side by side: what is marked, what is not, and why."""

import dataclasses
import io

import pytest
from rich.console import Console

from cld_core.errors import NotFoundError
from cld_core.evaluation.request import EvalRequest
from cldctl.evals import compare
from cldctl.show.compared import compared
from tests.support.made_up import report, run_with


def evaluated(path, nll, stderr, samples=100):
    run = run_with(path, 10)
    request = EvalRequest.of(plain(run, samples), ("elbo",), 10)
    report(run, request, elbo={"nll": nll, "stderr": stderr, "nfe_mean": 80.0}, fid={"value": 3.0})
    return run


def plain(run, samples):
    recipe = run.recipe()
    return dataclasses.replace(recipe, eval=dataclasses.replace(recipe.eval, samples=samples))


def test_a_difference_is_marked_beyond_twice_the_combined_error(tmp_path):
    # Errors of 0.3 and 0.4 combine to 0.5: the border is at 1.
    others = {"inside": 3.99, "worse": 4.01, "better": 1.99}
    runs = [evaluated(tmp_path / name, nll, 0.4) for name, nll in others.items()]
    columns = [compare.column(run) for run in (evaluated(tmp_path / "first", 3.0, 0.3), *runs)]
    content = compare.to_json(columns)
    assert [entry["nll"].get("against_first") for entry in content["runs"]] == [None, "same", "worse", "better"]
    assert [entry["fid"].get("against_first") for entry in content["runs"]] == [None] * 4
    assert content["warnings"] == ["FID has no standard error: no difference is marked"]
    console = Console(width=240, record=True, file=io.StringIO())
    console.print(compared(columns))
    lines = console.export_text().splitlines()
    line, of, how = next(lines[index : index + 3] for index, line in enumerate(lines) if "NLL" in line)
    assert of.split() == " ".join(["of", *["100 points"] * 4]).split()
    assert how.split() == " ".join(["how", *["velocities 1, probes 1, from t = 1e-05, 80 NFE"] * 4]).split()
    cells = ["3.000 ± 0.300", "3.990 ± 0.400", "4.010 ± 0.400 worse", "1.990 ± 0.400 better"]
    assert line.split() == " ".join(["NLL bound, nats", *cells]).split()


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
