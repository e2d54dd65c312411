"""The mean over seeds: what is averaged, what is shown apart, and why."""

import dataclasses
import statistics

import pytest

from cld_core.evaluation.request import EvalRequest
from cld_core.run.groups import Group
from cldctl.evals import compare
from tests.support.made_up import report, run_with
from tests.support.tools import invoke


def evaluated(path, nll, samples=100, step=10):
    run = run_with(path, step)
    recipe = run.recipe()
    recipe = dataclasses.replace(recipe, eval=dataclasses.replace(recipe.eval, samples=samples))
    report(run, EvalRequest.of(recipe, ("elbo",), step), elbo={"nll": nll, "stderr": 0.1, "nfe_mean": 80.0})
    return run


def member(path, nll, seed, lr="1e-4", **how):
    return compare.column(evaluated(path, nll, **how)), {"train.seed": seed, "optim.lr": lr}


def test_seeds_of_a_cell_are_averaged_with_their_standard_deviation(tmp_path):
    values = (1.0, 2.0, 4.0)
    members = [member(tmp_path / f"a{seed}", nll, str(seed)) for seed, nll in enumerate(values)]
    members += [member(tmp_path / "b0", 7.0, "0", "2e-4"), member(tmp_path / "a3", 3.0, "3", "0.0001")]
    first, second = compare.lines("g", members)
    average = first.average("nll")
    assert (average.mean, average.n) == (2.5, 4), "0.0001 is 1e-4"
    assert average.spread == pytest.approx(statistics.stdev([*values, 3.0]))
    assert second.cell == {"optim.lr": "2e-4"}
    alone = second.average("nll")
    assert (alone.mean, alone.spread, alone.stderr, alone.n) == (7.0, None, 0.1, 1)
    assert compare.group_warnings([first, second]) == []


@pytest.fixture
def group(tmp_path):
    """Two seeds with results and one without, beside a run of no group."""
    for name, nll in (("g-seed0", 1.0), ("g-seed1", 3.0), ("alone", 2.0)):
        evaluated(tmp_path / name, nll)
    run_with(tmp_path / "g-seed2", 10)
    members = {f"g-seed{seed}": {"train.seed": str(seed)} for seed in range(3)}
    Group(tmp_path, "g").add(members)
    for name, values in members.items():
        file = tmp_path / name / "run.json"
        file.write_text(
            f'{{"format": 3, "created": 1.0, "group": "g", "sweep": {{"train.seed": "{values["train.seed"]}"}}}}'
        )
    return tmp_path


def test_compare_shows_groups_and_runs(group):
    done = invoke("compare", "g", "alone", runs=group)
    (first, second) = (line.split() for line in done.stdout.splitlines() if "±" in line)
    assert first[:6] == ["g", "10", "2", "2.000", "±", "1.414"]
    assert second[:6] == ["alone", "10", "1", "2.000", "±", "0.100"]
    assert "g-seed2 has no finished evaluation" in done.stderr
    assert invoke("eval", "--compare", "g", "alone", runs=group).stdout == done.stdout
    content = invoke("compare", "g", "--json", runs=group).stdout
    assert '"std": 1.4142135623730951' in content
    assert '"missing": [\n  "g-seed2"\n ]' in content


def test_other_steps_and_other_numbers_of_examples_are_shown_apart(tmp_path):
    members = [
        member(tmp_path / "a", 1.0, "0"),
        member(tmp_path / "b", 2.0, "1", samples=50),
        member(tmp_path / "c", 3.0, "2", step=20),
        member(tmp_path / "d", 4.0, "3", "2e-4"),
        member(tmp_path / "e", 5.0, "4"),
    ]
    found = compare.lines("g", members)
    assert [[column.run for column in line.columns] for line in found] == [["a", "e"], ["b"], ["c"], ["d"]]
    assert compare.group_warnings(found) == [
        "a and b are not averaged: they differ in points",
        "b and c are not averaged: they were evaluated at steps 10 and 20",
    ]
