"""A model whose score is exact: the bound is tight, and the whole pipeline must hit the closed form."""

import math

import numpy as np
import torch

from cld_core.analytic import gaussian
from cld_core.checkpoint.tensors import write
from cld_core.config import load, registry
from cld_core.config.network import MlpSpec
from cld_core.data.source import source
from cld_core.evaluate.evaluation import Evaluation
from cld_core.evaluate.request import EvalRequest
from cld_core.ranks import Ranks
from cld_core.registration import Variant
from cld_core.run import RunFolder
from cld_core.sde import build
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
    work = Evaluation(EvalRequest.of(recipe, ("elbo",), 1, shards=3).save(run))
    assert work.compute(Ranks())
    truth = gaussian(0.5).log_density(source(recipe.data).dequantised_test_data(recipe.eval.seed, 0, 40)).numpy()
    np.testing.assert_allclose(gather(work)["elbo"]["elbo"], truth, rtol=0, atol=1e-5)
    elbo = work.report["elbo"]
    assert abs(elbo["nll"] + truth.mean()) < 1e-5
    assert abs(elbo["nll_importance"] + truth.mean()) < 1e-5
    assert abs(elbo["gap"]) < 1e-5
    assert abs(elbo["true_entropy"] - math.log(2.0 * math.pi * math.e * 0.25)) < 1e-9
    assert elbo["stderr"] > 0.05, "the data scatter, though nothing else does"
