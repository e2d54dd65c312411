"""From what is typed to requests: which checkpoints, which combinations, and what is refused at
once."""

import itertools
from dataclasses import replace

import pytest

from cld_core.config.sampling import EmSpec, OdeSpec
from cld_core.errors import CheckpointError, NotFoundError, UsageError
from cld_core.evaluate import request
from cld_core.files import write_json
from cld_core.run import tunings
from cld_core.run.evaluations import FeatureInputs
from cld_core.run.tunings import Solutions
from cldctl.evals import plan
from tests.cld_core.test_solutions import SOLUTION
from tests.support.made_up import damage, run_with
from tests.support.recipes import toy_recipe


@pytest.fixture
def run(tmp_path):
    return run_with(tmp_path / "mine", 10, 20, 30)


def test_last_and_all_skip_damaged_checkpoints_but_a_named_step_is_refused(run, monkeypatch):
    assert plan.checkpoints(run, "last") == ([30], [])
    listed = run.checkpoint_steps
    monkeypatch.setattr(run, "checkpoint_steps", lambda: [5, *listed()])
    assert plan.checkpoints(run, "all") == ([10, 20, 30], []), (
        "one that was cleared away meanwhile does not count"
    )
    damage(run, 30)
    for wanted, steps in (("last", [20]), ("all", [10, 20])):
        found, damaged = plan.checkpoints(run, wanted)
        assert (found, [entry.step for entry in damaged]) == (steps, [30])
        assert "damaged" in damaged[0].reason
    for step in (10, 20):
        damage(run, step)
    for wanted, error in (
        ("30", r"step_00000030.*damaged"),
        ("15", r"no checkpoint '15'"),
        ("all", "no whole"),
    ):
        with pytest.raises((CheckpointError, NotFoundError), match=error):
            plan.checkpoints(run, wanted)


def test_every_combination_is_a_request_and_an_invalid_one_is_named(run):
    axes = plan.parse(["eval.elbo.velocities=1,4", "eval.elbo.probes=1,2,3"])
    made = plan.make(run, ("elbo",), [30], ["eval.samples=8"], axes)
    asked = [(request.elbo.velocities, request.elbo.probes) for request in made.requests]
    assert asked == [*itertools.product((1, 4), (1, 2, 3))]
    assert made.sweep.evaluations == tuple(request.id for request in made.requests)
    steps = plan.make(run, ("elbo",), [20, 30], [], axes)
    assert [axis.key for axis in steps.sweep.axes] == [
        "checkpoint",
        "eval.elbo.velocities",
        "eval.elbo.probes",
    ]
    assert len(steps.requests) == 12
    wrong = plan.parse(["eval.elbo.velocities=1,0", "eval.elbo.probes=1,2"])
    with pytest.raises(
        UsageError, match=r"at eval\.elbo\.velocities=0 eval\.elbo\.probes=1: .*velocities"
    ):
        plan.make(run, ("elbo",), [30], [], wrong)


def test_cells_that_draw_the_same_samples_share_an_evaluation(tmp_path, monkeypatch):
    # Weights and statistics that nobody looks for.
    ref = FeatureInputs(extractor="tiny", layer="all", quantisation="round", stats="abc")
    monkeypatch.setattr(request, "feature_inputs", lambda recipe, metrics: (ref, {}))
    axes = plan.parse(["sampling.method=em,exponential,ode", "sampling.nfe=20,50"])
    # The keys of the recipe's own method neither get in the way of the others nor decide for them.
    own = ("sampling.method=sscs", "sampling.sscs_order=2", "sampling.grid=quadratic")
    run = run_with(tmp_path / "mine", 30, overrides=own)
    made = plan.make(run, ("fid",), [30], [], axes)
    asked = [
        (request.sampling.method, getattr(request.sampling, "nfe", None))
        for request in made.requests
    ]
    assert asked == [
        ("em", 20),
        ("em", 50),
        ("exponential", 20),
        ("exponential", 50),
        ("ode", None),
    ]
    assert made.requests[0].sampling == EmSpec(nfe=20, grid="linear")
    assert made.requests[-1].sampling == OdeSpec()
    assert [cell.evaluation for cell in made.sweep.cells[-2:]] == [made.requests[-1].id] * 2


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["eval.seed=1,,2"], "KEY=a,b,c"),
        (["eval.seed=1", "eval.seed=2"], "is given twice"),
        (["eval.seed=1,2,1"], "has a value twice"),
        (["sampling.nfee=20"], r"--sweep 'sampling\.nfee': there is no such key\. .*sampling\.nfe"),
        # The default sampler takes no number of evaluations.
        (["sampling.nfe=20"], r"sampling\.nfe=20: .*nfe"),
        (["sampling.nfe=20,50"], r"'sampling\.nfe' has no effect"),
    ],
)
def test_what_is_not_an_axis_is_refused(run, texts, words):
    with pytest.raises(UsageError, match=words):
        plan.make(run, ("elbo",), [30], [], plan.parse(texts))


def test_each_checkpoint_is_evaluated_with_the_solution_that_was_tuned_to_it(run):
    steps = (10, 20, 30)
    for step in steps:
        (run.tuned / f"of-{step}").mkdir(parents=True)
        coefficients = replace(SOLUTION.coefficients, times=(1.0, 0.1 + step / 1000))
        solution = replace(SOLUTION, step=step, coefficients=coefficients)
        write_json(run.tuned / f"of-{step}" / tunings.SOLUTION, solution.content())
    made = plan.make(run, ("elbo", "w2"), steps, ["sampling.method=tuned", "sampling.nfe=2"])
    found = {request.checkpoint_step: request.sampling.solution for request in made.requests}
    assert found == {one.step: one.digest for one in Solutions.of_run(run).read()}
    assert len(set(found.values())) == 3


def test_plugins_are_beside_those_of_the_run_or_in_place_of_a_file_of_the_same_name():
    recipe = replace(toy_recipe(), plugins=("/run/a.py", "json"))
    other = "sampling.nfe=5"
    assert plan.beside_own(recipe, [other, "plugins=/x/b.py"]) == [
        "plugins=[/run/a.py, json, /x/b.py]",
        other,
    ]
    assert plan.beside_own(recipe, ["plugins=/x/a.py", "plugins=[c]"]) == [
        "plugins=[json, /x/a.py, c]"
    ]
    assert plan.beside_own(recipe, [other]) == [other]
