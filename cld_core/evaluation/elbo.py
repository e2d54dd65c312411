"""The likelihood bound of a range of test data, and what it comes to over all of them."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from cld_core.likelihood import likelihood
from cld_core.model import Model
from cld_core.recipe.eval_spec import ElboSpec
from cld_core.seeds import SampleNoise

from .moments import standard_error
from .request import EvalRequest

# Arrays of a shard file, one value a datum: bounds of log p(x) in nats, and evaluations of the network.
FIELDS = ("elbo", "paper_elbo", "importance_bound", "nfe")


def compute(model: Model, request: EvalRequest, first: int, last: int) -> dict[str, np.ndarray]:
    """`FIELDS` of the test data ``first <= i < last``, each (last - first,); a function of i, not of the range."""
    x = model.source.test_points(request.seed, first, last).to(model.device)
    noise = SampleNoise(request.seed, "elbo", first=first, last=last, device=model.device)
    spec = ElboSpec(**request.elbo)
    found = likelihood(model.score_of(compiled=spec.compile), model.sde, spec, noise, x)
    values = (found.elbo, found.paper_elbo, found.importance_bound, found.nfe_each.double().mean(1))
    return {name: value.double().cpu().numpy() for name, value in zip(FIELDS, values, strict=True)}


def summary(model: Model, request: EvalRequest, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Means and standard errors over all data, in nats of the density or in bits/dim of an image's pixels.

    For toy data also the distance to the truth.
    """
    n = len(arrays["elbo"])
    unit = bits_per_dim(model) if model.is_image else Unit("nats", "nll")
    name = unit.key
    report = {
        "unit": unit.name,
        name: unit.of(-arrays["elbo"].mean()),
        "stderr": standard_error(unit.scale * arrays["elbo"]),
        f"{name}_paper_estimator": unit.of(-arrays["paper_elbo"].mean()),
        "stderr_paper_estimator": standard_error(unit.scale * arrays["paper_elbo"]),
        f"{name}_importance": unit.of(-arrays["importance_bound"].mean()),
        "n": n,
        "nfe_mean": float(arrays["nfe"].mean()),
        **{name: request.elbo[name] for name in ("velocities", "probes")},
    }
    density = model.source.density
    if density is not None and density.log_density is not None:
        # The same data on both sides, so that their scatter cancels.
        truth = density.log_density(model.source.test_points(request.seed, 0, n)).numpy()
        report["gap"] = float((truth - arrays["elbo"]).mean())
        report["gap_stderr"] = standard_error(truth - arrays["elbo"])
    if density is not None and density.entropy is not None:
        report["true_entropy"] = density.entropy()
    return report


@dataclass(frozen=True)
class Unit:
    """How a negative log-density in nats is told: ``scale`` nats + ``offset``, under ``key`` of the report."""

    name: str
    key: str
    scale: float = 1.0
    offset: float = 0.0

    def of(self, nats: float) -> float:
        return self.scale * float(nats) + self.offset


def bits_per_dim(model: Model) -> Unit:
    """Bits/dim of images with grey levels a = 2/levels apart on [-1, 1]: NLL/(D ln 2) - log2 a (docs/math.md 8)."""
    levels = model.source.grey_levels
    assert levels is not None, "only what has grey levels has bits"
    return Unit("bits/dim", "bpd", 1.0 / (math.prod(model.data_shape) * math.log(2.0)), math.log2(levels / 2.0))
