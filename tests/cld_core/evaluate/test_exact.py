"""A model whose score is exact: the bound is tight, and the whole pipeline must hit the closed form."""

import math

import numpy as np
import pytest
import torch

from cld_core.analytic import gaussian
from cld_core.checkpoint import write
from cld_core.config import load, registry
from cld_core.config.eval import ElboSpec
from cld_core.config.network import MlpSpec
from cld_core.data.source import source
from cld_core.evaluate.request import request_of
from cld_core.likelihood import likelihood
from cld_core.model import Model
from cld_core.ranks import Ranks
from cld_core.registration import Variant
from cld_core.run import RunFolder
from cld_core.run.evaluations import Evaluation, remarks
from cld_core.sde import build
from cld_core.seeds import SampleNoise
from tests.support.paths import RECIPES

from .on_images import gather


class Exact(torch.nn.Module):
    """In place of the MLP: the network whose score is that of Gaussian data."""

    def __init__(self, spec, data_shape, halves_in, halves_out):
        super().__init__()
        self.sde = build(load(RECIPES / "toy.yaml", ["sde.beta0=6"]).sde)
        self.score = gaussian(0.5).score(self.sde)
        # As many tensors as a network of this many layers has at least.
        self.unused = torch.nn.ParameterList(torch.zeros(()) for _ in range(spec.layers))

    def forward(self, u, t):
        factor = self.sde.target(t.double(), "hsm")[:, 0]
        return -self.score(u.double(), t.double()) / factor


# At beta = 6 the law at t = 1 is the prior to 1e-8, and the flow starts where the data are.
TIGHT = ("sde.beta0=6", "eval.elbo.rtol=1e-7", "eval.elbo.atol=1e-7", "eval.samples=40")
TIGHT += ("eval.elbo.eps=1e-7", "objective.loss_eps=1e-7")


def test_the_bound_of_a_gaussian_model_is_its_log_density_through_shards_merge_and_report(
    tmp_path, monkeypatch, no_pictures, chunks
):
    chunks(15)
    exact = Variant(MlpSpec, f"{__name__}:Exact")
    monkeypatch.setitem(registry.SECTIONS["network"].variants, "mlp", exact)
    recipe = load(RECIPES / "toy.yaml", ["data.name=gaussian", *TIGHT])
    run = RunFolder.create(tmp_path / "exact", recipe, {"created": 1.0})
    weights = {f"unused.{layer}": torch.zeros(()) for layer in range(recipe.network.layers)}
    averages = {"average": weights, "updates": 0}
    write(run, 1, {"model": weights, "ema": averages, "model_digest": recipe.model_digest()})
    work = Evaluation(request_of(recipe, ("elbo",), 1, shards=3).save(run))
    assert work.compute(Ranks())
    truth = gaussian(0.5).log_density(source(recipe.data).dequantised_test_data(recipe.eval.seed, 0, 40)).numpy()
    np.testing.assert_allclose(gather(work)["elbo"]["elbo"], truth, rtol=0, atol=1e-5)
    elbo = work.report["elbo"]
    assert abs(elbo["nll"] + truth.mean()) < 1e-5
    assert abs(elbo["nll_importance"] + truth.mean()) < 1e-5
    assert abs(elbo["gap"]) < 1e-5
    assert abs(elbo["true_entropy"] - math.log(2.0 * math.pi * math.e * 0.25)) < 1e-9
    assert elbo["stderr"] > 0.05, "the data scatter, though nothing else does"


pytestmark = pytest.mark.usefixtures("no_pictures")

LATER = "objective.loss_eps=0.001"
RAISED = "the bound starts at t = 0.001, because training used no smaller t (objective.loss_eps)"


def toy_request(*overrides):
    return request_of(load(RECIPES / "toy.yaml", overrides), ("elbo",), 20)


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


def computed(run, *overrides):
    work = Evaluation(request_of(load(run.recipe_file, overrides), ("elbo",), 20).save(run))
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
