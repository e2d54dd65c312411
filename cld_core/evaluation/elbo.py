"""The likelihood bound of a range of test data, and what it comes to over all of them."""

import math
from typing import Any

import numpy as np

from cld_core.likelihood import likelihood
from cld_core.model import Model
from cld_core.recipe.schema import ElboSpec
from cld_core.seeds import SampleNoise

from .request import EvalRequest

# Arrays of a shard file, one value a datum: bounds of log p(x) in nats, and evaluations of the network.
FIELDS = ("elbo", "paper_elbo", "importance_bound", "nfe")


def compute(model: Model, request: EvalRequest, first: int, last: int) -> dict[str, np.ndarray]:
    """`FIELDS` of the test data ``first <= i < last``, each (last - first,); a function of i, not of the range."""
    x = model.source.test_points(request.seed, first, last).to(model.device)
    noise = SampleNoise(request.seed, "elbo", first=first, last=last, device=model.device)
    found = likelihood(model.score, model.sde, ElboSpec(**request.elbo), noise, x)
    values = (found.elbo, found.paper_elbo, found.importance_bound, found.nfe_each.double().mean(1))
    return {name: value.double().cpu().numpy() for name, value in zip(FIELDS, values, strict=True)}


def summary(model: Model, request: EvalRequest, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Means and standard errors over all data; for toy data also the distance to the truth, in nats."""
    n = len(arrays["elbo"])
    report = {
        "unit": "nats",
        "nll": -float(arrays["elbo"].mean()),
        "stderr": _stderr(arrays["elbo"]),
        "nll_paper_estimator": -float(arrays["paper_elbo"].mean()),
        "stderr_paper_estimator": _stderr(arrays["paper_elbo"]),
        "nll_importance": -float(arrays["importance_bound"].mean()),
        "n": n,
        "nfe_mean": float(arrays["nfe"].mean()),
        **{name: request.elbo[name] for name in ("velocities", "probes")},
    }
    density = model.source.density
    if density is not None and density.log_density is not None:
        # The same data on both sides, so that their scatter cancels.
        truth = density.log_density(model.source.test_points(request.seed, 0, n)).numpy()
        report["gap"] = float((truth - arrays["elbo"]).mean())
        report["gap_stderr"] = _stderr(truth - arrays["elbo"])
    if density is not None and density.entropy is not None:
        report["true_entropy"] = density.entropy()
    return report


def _stderr(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values))
