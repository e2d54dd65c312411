"""The time at which the flow of a likelihood bound starts: never before what the network was trained on."""

import numpy as np
import pytest

from cld_core.config import load
from cld_core.config.eval import ElboSpec
from cld_core.evaluate.evaluation import Evaluation
from cld_core.evaluate.reports import remarks
from cld_core.evaluate.request import EvalRequest
from cld_core.likelihood import likelihood
from cld_core.model import Model
from cld_core.ranks import Ranks
from cld_core.seeds import SampleNoise
from tests.support.paths import RECIPES

from .on_images import gather

pytestmark = pytest.mark.usefixtures("no_pictures")

LATER = "objective.loss_eps=0.001"
RAISED = "the bound starts at t = 0.001, because training used no smaller t (objective.loss_eps)"


def toy_request(*overrides: str) -> EvalRequest:
    return EvalRequest.of(load(RECIPES / "toy.yaml", overrides), ("elbo",), 20)


def test_it_is_the_later_of_two_times():
    requests = [toy_request(), toy_request(LATER), toy_request(LATER, "eval.elbo.eps=0.01")]
    starts = [(request.elbo.eps, request.elbo_eps_asked) for request in requests]
    assert starts == [(1e-5, None), (1e-3, 1e-5), (1e-2, None)]
    assert toy_request(LATER).id == toy_request(LATER, "eval.elbo.eps=0.001").id, "they start alike"


@pytest.fixture
def later(toy):
    """A run whose network saw no t below 1e-3."""
    toy.recipe_file.write_text(toy.recipe_file.read_text().replace("loss_eps: 1.0e-05", "loss_eps: 0.001"))
    assert toy.recipe().objective.loss_eps == 1e-3
    return toy


def computed(run, *overrides: str) -> Evaluation:
    work = Evaluation(EvalRequest.of(load(run.recipe_file, overrides), ("elbo",), 20).save(run))
    assert work.compute(Ranks())
    return work


def test_the_report_says_where_it_starts_and_users_of_the_library_may_start_earlier(later, capsys):
    work = computed(later, "eval.samples=10")
    assert (work.report["elbo"]["eps"], work.report["elbo"]["eps_asked"]) == (1e-3, 1e-5)
    assert remarks(work.report) == [RAISED]
    assert capsys.readouterr().out.splitlines().count(RAISED) == 1
    model = Model.from_run(later.path)
    x = model.source.dequantised_test_data(0, 0, 10)
    at = {
        eps: likelihood(model.score, model.sde, ElboSpec(eps=eps), SampleNoise(0, "elbo", first=0, last=10), x).elbo
        for eps in (1e-3, 1e-5)
    }
    np.testing.assert_allclose(gather(work)["elbo"]["elbo"], at[1e-3].numpy(), rtol=1e-5)
    assert float((at[1e-3] - at[1e-5]).abs().max()) > 1e-3
    later_still = computed(later, "eval.samples=10", "eval.elbo.eps=0.01")
    assert later_still.report["elbo"]["eps"] == 1e-2
    assert remarks(later_still.report) == []
