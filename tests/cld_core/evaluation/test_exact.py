"""A model whose score is exact: the bound is tight, and the whole pipeline must hit the closed form."""

import math

import numpy as np

from cld_core import checkpoint
from cld_core.analytic import gaussian
from cld_core.data.source import source
from cld_core.evaluation.computing import gather
from cld_core.evaluation.evaluation import Evaluation
from cld_core.evaluation.request import EvalRequest
from cld_core.recipe import load
from cld_core.recipe.schema import ToyDataSpec
from cld_core.run import RunFolder
from cld_core.run.atomic import read_json
from tests.support.paths import RECIPES
from tests.support.tools import cldctl

# A plug-in that brings the exact score of Gaussian data in the place of the MLP.
PLUGIN = """
import torch
from cld_core import nets
from cld_core.analytic import gaussian
from cld_core.sde import CLD

class Exact(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.sde = CLD(beta0=6.0)
        self.score = gaussian(0.5).score(self.sde)

    def forward(self, u, t):
        ell, _ = self.sde.score_coefficients(t.double(), "hsm")
        return -self.score(u.double(), t.double()) / ell[:, None]

nets.NETWORKS["mlp"] = lambda spec, shape, halves: Exact()
"""
# At beta = 6 the law at t = 1 is the prior to 1e-8, and the flow starts where the data are.
TIGHT = ("sde.beta0=6", "eval.elbo.rtol=1e-8", "eval.elbo.atol=1e-8", "eval.elbo.eps=1e-7", "eval.samples=40")
# For the picture.
QUICK = ("sampling.method=em", "sampling.nfe=2")


def test_the_bound_of_a_gaussian_model_is_its_log_density_through_shards_merge_and_report(tmp_path):
    plugin = tmp_path / "exact.py"
    plugin.write_text(PLUGIN)
    recipe = load(RECIPES / "toy.yaml", ["data.name=gaussian", f"data.plugin={plugin}", *TIGHT, *QUICK])
    run = RunFolder.create(tmp_path / "runs" / "exact", recipe, {"created": 1.0})
    checkpoint.write(run, 1, {"model": {}, "ema": {"average": {}, "updates": 0}, "model_digest": recipe.model_digest()})
    cldctl("eval", "exact", "--elbo", "--shards", "3", "--cluster", "debug", runs=tmp_path / "runs")
    (path,) = run.evals.iterdir()
    arrays, _ = merge.gather(path, EvalRequest.load(path))
    # Without the plug-in, which is to change the network of the other process alone.
    data = source(ToyDataSpec(name="gaussian"))
    truth = gaussian(0.5).log_density(data.test_points(recipe.eval.seed, 0, 40)).numpy()
    np.testing.assert_allclose(arrays["elbo"]["elbo"], truth, rtol=0, atol=1e-5)
    elbo = read_json(path / "report.json")["elbo"]
    assert abs(elbo["nll"] + truth.mean()) < 1e-5
    assert abs(elbo["nll_importance"] + truth.mean()) < 1e-5
    assert abs(elbo["gap"]) < 1e-5
    assert abs(elbo["true_entropy"] - math.log(2.0 * math.pi * math.e * 0.25)) < 1e-9
    assert elbo["stderr"] > 0.05, "the data scatter, though nothing else does"
