"""Best numbers, what they are compared with, and the tables of evaluations."""

import math

from cld_core.evaluation.request import EvalRequest
from cld_core.recipe import with_overrides
from cldctl.page import results
from cldctl.runs.status import status_of
from cldctl.runs.survey import Answers
from tests.support.made_up import report, run_with
from tests.support.reported import everything


def answered(run, nll, *overrides, **section):
    recipe = with_overrides(run.recipe(), list(overrides), "test")
    elbo = {"nll": nll, "stderr": 0.1, "nfe_mean": 80.0} | section.pop("elbo", {})
    report(run, EvalRequest.of(recipe, ("elbo",), 10), elbo=elbo, **section)


def seen(run, recipe=None):
    row = status_of(run, Answers({}))
    return results.best_of(row, results.asked_of(run), recipe), row


def test_the_best_number_is_over_the_most_examples(tmp_path):
    run = run_with(tmp_path / "mine", 10)
    answered(run, -9.0, "eval.points=50", elbo={"true_entropy": -1.5})
    answered(run, -1.0, "eval.points=800", "eval.seed=1", elbo={"true_entropy": -1.5})
    answered(run, -1.25, "eval.points=800", elbo={"true_entropy": -1.5})
    answered(run, math.nan, "eval.points=900")
    (best,), _ = seen(run)
    assert (best.label, best.value, best.error) == ("NLL bound, nats", "-1.250", "± 0.100")
    assert best.reference == "true entropy -1.500, gap 0.250"
    assert best.made == "step 10, 800 points, 80 NFE"


def test_numbers_of_a_shipped_recipe_stand_beside_the_published_ones(tmp_path):
    run = run_with(tmp_path / "mine", 10)
    report(run, EvalRequest.of(run.recipe(), ("elbo",), 10), elbo={"bpd": 3.4, "stderr": 0.01}, fid={"value": 2.5})
    found, _ = seen(run, "cifar10")
    assert {best.label: best.reference for best in found} == {
        "FID": "published 2.25 (probability flow, 312 NFE, 50,000 samples)",
        "bits/dim": "published ≤ 3.31 (bound)",
    }
    assert [best.reference for best in seen(run, "toy")[0]] == ["", ""]


def test_the_table_and_the_curve_by_step(tmp_path):
    run = everything(tmp_path / "mine", points=2)
    row = status_of(run, Answers({}))
    asked = results.asked_of(run)
    alone = [entry for entry in row.evals if entry["id"] not in row.sweeps[0]["evaluations"]]
    table = results.table(alone, asked)
    assert table.headings == ["evaluation", "state", "step", "of", "NLL bound, nats", "true entropy", "NFE"]
    assert [cells[1:] for cells in table.rows] == [
        ["finished", "4,000", "2,000 points", "-0.500 ± 0.040", "-1.400", "312"],
        ["finished", "8,000", "2,000 points", "-1.100 ± 0.040", "-1.400", "312"],
    ]
    (chart,) = results.against_step(row.evals, asked)
    assert [(drawn.line.label, drawn.data) for drawn in chart.lines] == [
        ("elbo of 2,000 points", "4000,-0.5,0.04 8000,-1.1,0.04"),
        ("true entropy", "4000,-1.4 8000,-1.4"),
    ]
    assert results.table([], {}) is None


def test_a_remark_is_told_once():
    rows = [{"id": f"e{place}", "checkpoint_step": 1, "remarks": ["odd"]} for place in range(5)]
    assert results.remarks(rows) == ["5 evaluations: odd"]
    assert results.remarks(rows[:2]) == ["e0, e1: odd"]
