"""Tunings of class-conditional models: the flow and the samples are given labels, with guidance if it is asked for."""

from dataclasses import replace

import pytest
import torch

from cld_core import ranks
from cld_core.config import with_overrides
from cld_core.errors import UsageError
from cld_core.model import Model
from cld_core.rendezvous import Place
from cld_core.solutions import Flow
from cld_core.tune.job import Job
from cld_core.tune.linear import Fitted
from cld_core.tune.tuning import TuneRequest, Tuning
from tests.support.tools import ONE, trained

POINTS = 12
GUIDED = ("sampling.guidance=1.5", "sampling.guidance_to=0.9")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "modes", "toy_labels", *ONE)


def tuned(run, *overrides):
    """A tuning with no budget, and its job."""
    recipe = with_overrides(run.recipe(), list(overrides))
    request = TuneRequest.of(recipe, 20, 3, points=POINTS, budget_min=0.0, seed=0)
    work = Tuning(request.store(run.tuned / request.id))
    if not work.is_done:
        work.compute(ranks.alone(Place(), gpu=False))
    return work, Job(work, torch.device("cpu"), lambda: False)


@pytest.mark.parametrize("overrides", [(), GUIDED], ids=["conditional", "guided"])
def test_the_flow_is_given_labels_and_guidance(run, overrides):
    _, job = tuned(run, *overrides)
    model = Model.from_run(run.path)
    keys = {} if not overrides else {"guidance": 1.5, "guidance_to": 0.9}
    labels = model.labels(None, POINTS)
    assert len(set(labels.tolist())) > 5
    assert job._labels.tolist() == labels.tolist()
    u = torch.ones(2 * POINTS, model.sde.n * 2)
    score, spec = job._score_of(0, 2 * POINTS), job._spec
    assert (spec.guidance, spec.guidance_to) == (keys.get("guidance", 1.0), keys.get("guidance_to", 1.0))
    given = model.score(u, 0.5, labels.repeat(2))
    none = model.score(u, 0.5, torch.full_like(labels, 9).repeat(2))
    wanted = none + spec.guidance * (given - none)
    assert torch.allclose(score(u, 0.5), wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(score(u, 0.5), none, rtol=1e-2, atol=1e-2)
    assert job._flow["x"].shape == (2 * POINTS, 2)


def test_copies_of_points_have_their_labels(run):
    """In parts of any size, as derivatives evaluate them; guidance takes two evaluations of the network."""
    _, job = tuned(run, *GUIDED)
    model = Model.from_run(run.path)
    u, counted = torch.randn(3 * POINTS, model.sde.n * 2, generator=torch.Generator().manual_seed(0)).double(), []
    score = job._score_of(0, POINTS)
    one, parts = (Fitted(score, model.sde, size, counted.append, points=POINTS) for size in (1000, 5))
    whole = one.alpha(u, 0.5)
    assert counted == [2 * 3 * POINTS]
    assert torch.allclose(parts.alpha(u, 0.5), whole, rtol=1e-4, atol=1e-4)
    assert torch.allclose(one.alpha(u[POINTS : 2 * POINTS], 0.5), whole[POINTS : 2 * POINTS], rtol=1e-4, atol=1e-4)
    counted.clear()
    one.alpha(u, 0.95)
    assert counted == [3 * POINTS], "guidance does not act there"


def test_solutions_say_which_flow_they_are_for(run):
    (usual, _), (guided, _) = tuned(run), tuned(run, *GUIDED)
    assert usual.name != guided.name
    assert usual.request.flow_id != guided.request.flow_id
    assert usual.solution.flow == Flow(eps=1e-3, denoise=True, labels=True)
    assert guided.solution.flow == replace(usual.solution.flow, guidance=1.5, guidance_to=0.9)
    model = Model.from_run(run.path)
    keys = {"method": "tuned", "nfe": 3, "label": 3}
    assert model.draw(4, **keys).nfe == 3
    assert model.draw(4, **keys, guidance=1.5, guidance_to=0.9).nfe > 3
    with pytest.raises(UsageError, match=r"fitted with sampling.guidance=.*, not 4.0"):
        model.draw(4, **keys, guidance=4.0)
