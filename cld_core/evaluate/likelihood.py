"""Metrics of the model itself: its likelihood bound, its loss on test data, and how far samplers
are from its flow."""

import functools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cld_core.analytic import gaussian
from cld_core.checkpoint import tensors_digest
from cld_core.config.eval import ElboSpec
from cld_core.config.loader import sampling_spec
from cld_core.errors import SolverError
from cld_core.likelihood import likelihood
from cld_core.loss import build as objective_of
from cld_core.nets import execution
from cld_core.run.shards import Arrays
from cld_core.sde import Diffusion
from cld_core.sde.base import TYPICAL_DATA_STD
from cld_core.seeds import SampleNoise

from .rows import RowComputer, SampleRows, Table, given_labels, standard_error

# One value per example: bounds of log p(x) in nats, and evaluations of the network.
_BOUNDS = ("elbo", "paper_elbo", "importance_bound", "nfe")
# Where the flow ends is kept for the next evaluations of this process, which are of the same noise:
# of 40 settings that are compared, it would take most of the time.
_MOST_BYTES = 256 << 20
_ENDS: dict[Any, tuple[Tensor, Tensor]] = {}


class ElboRows(RowComputer):
    """Bounds of the test points ``first <= i < last``, each (last - first,); given their labels if
    they have some."""

    @execution.using(tf32=False)
    def compute(self, first: int, last: int) -> Arrays:
        model = self.model
        seed = self.request.seed
        spec = self.request.elbo
        x = model.source.dequantised_test_data(seed, first, last).to(model.device)
        noise = SampleNoise(seed, "elbo", first=first, last=last, device=model.device)
        score = given_labels(model.score_of(compiled=spec.compile), model, seed, first, last)
        bounds = likelihood(score, model.sde, spec, noise, x).rescaled(model.form.log_det)
        values = (
            bounds.elbo,
            bounds.paper_elbo,
            bounds.importance_bound,
            bounds.nfe_each.double().mean(1),
        )
        return {
            name: value.double().cpu().numpy() for name, value in zip(_BOUNDS, values, strict=True)
        }


def elbo(table: Table) -> dict[str, Any]:
    """The likelihood bound and its estimators, in nats or bits/dim; for toy data also the distance
    to the truth."""
    model = table.model
    arrays = table.arrays
    spec = table.request.elbo
    # A negative log-density in nats is reported as scale nats + offset.
    unit, key, (scale, offset) = (
        ("bits/dim", "bpd", model.bits_of_nats) if model.is_image else ("nats", "nll", (1.0, 0.0))
    )
    means = {name: offset - scale * float(arrays[name].mean()) for name in _BOUNDS if name != "nfe"}
    report = {
        "unit": unit,
        key: means["elbo"],
        "stderr": standard_error(scale * arrays["elbo"]),
        f"{key}_paper_estimator": means["paper_elbo"],
        "stderr_paper_estimator": standard_error(scale * arrays["paper_elbo"]),
        f"{key}_importance": means["importance_bound"],
        "n": len(arrays["elbo"]),
        "eps": spec.eps,
        "nfe_mean": float(arrays["nfe"].mean()),
        "velocities": spec.velocities,
        "probes": spec.probes,
    }
    raised = raised_by_tolerance(model.sde, spec, math.prod(model.data_shape))
    if raised is not None:
        report["tolerance_bias"] = -scale * raised
    if model.classes is not None:
        # Of log p(x | label), each test point given its own label.
        report["conditional"] = True
    if (asked := table.request.elbo_eps_asked) is not None:
        report["eps_asked"] = asked
    return report | _against_truth(table)


@functools.lru_cache(maxsize=16)
def raised_by_tolerance(sde: Diffusion, spec: ElboSpec, dimensions: int) -> float | None:
    """By how much the solver's tolerance raises the bound of an example, in nats.

    It is measured on Gaussian data, against a hundredth of the tolerance, in up to 64 dimensions
    (docs/math.md section 8). One probe is exact there. None if the solver fails, and for tolerances
    that are too tight to matter.
    """
    if min(spec.rtol, spec.atol) < 1e-8:
        return None
    size = min(dimensions, 64)
    law = gaussian(TYPICAL_DATA_STD, size)
    x = law.sample(8, torch.Generator().manual_seed(0)).double()
    loose = replace(spec, velocities=1, probes=1)
    tight = replace(loose, rtol=0.01 * spec.rtol, atol=0.01 * spec.atol)
    bounds = []
    for each in (loose, tight):
        noise = SampleNoise(0, first=0, last=len(x))
        try:
            bounds.append(likelihood(law.score(sde), sde, each, noise, x).mean)
        except SolverError:
            return None
    return (bounds[0] - bounds[1]) * dimensions / size


def _against_truth(table: Table) -> dict[str, Any]:
    """How far the bound is from the true density, given the label if there are classes, if that is
    known."""
    source, bound = table.model.source, table.arrays["elbo"]
    density = source.density
    known = {}
    classes = table.model.classes
    if density is not None and density.log_density is not None:
        # The same examples on both sides, so that their scatter cancels.
        seed, n = table.request.seed, len(bound)
        x = table.model.form.to_data(source.dequantised_test_data(seed, 0, n))
        truth = density.log_density(x).numpy()
        if classes is not None:
            # A toy's label is a function of the point: p(x | label) = p(x)/p(label).
            truth = truth - np.log(classes.shares)[source.test_labels(seed, 0, n).numpy()]
        known = {"gap": float((truth - bound).mean()), "gap_stderr": standard_error(truth - bound)}
    if density is not None and density.entropy is not None:
        known["true_entropy"] = density.entropy() - (0.0 if classes is None else classes.entropy)
    return known


class LossRows(RowComputer):
    """The training objective ``loss`` of the test points ``first <= i < last``, (last - first,);
    draws are keyed."""

    @execution.using(tf32=False)
    @torch.no_grad()
    def compute(self, first: int, last: int) -> Arrays:
        model = self.model
        seed = self.request.seed
        draws = self.request.loss.draws
        x = model.source.test_data(seed, first, last).to(model.device)
        objective = objective_of(model.sde, self.request.objective)
        noise = SampleNoise(seed, "loss", first=first, last=last, device=model.device)
        score = given_labels(model.score, model, seed, first, last)
        total = torch.zeros(len(x), dtype=torch.float64, device=model.device)
        for _ in range(draws):
            total += objective.losses(
                score, x, objective.draw_each(noise, model.data_shape)
            ).weighted
        return {"loss": (total / draws).cpu().numpy()}


def loss(table: Table) -> dict[str, Any]:
    """The mean training objective of test points; the sum over dimensions, like the training
    loss."""
    losses, request = table.arrays["loss"], table.request
    return {
        "value": float(losses.mean()),
        "stderr": standard_error(losses),
        "n": len(losses),
        "draws": request.loss.draws,
        "objective": request.objective.name,
        "weighting": request.objective.weighting,
    }


class FlowRows(SampleRows):
    """Of the samples ``first <= i < last``, (last - first,) each: ``square``, ``flow_nfe``,
    ``nfe``, ``nonfinite``.

    ``square`` is the mean square, over the numbers of a sample, of the difference from the end of
    the flow, which took ``flow_nfe`` network evaluations.
    """

    @property
    def total(self) -> int:
        return self.request.sizes["flow"]

    def compute(self, first: int, last: int) -> Arrays:
        drawn = self.draw(first, last)
        end, nfe = self._flow(first, last)
        # In the units of the model, whatever those of the data are.
        samples, end = (self.model.form.to_model(x.cpu().double()) for x in (drawn.x, end))
        square = (samples - end).flatten(1).square().mean(1)
        return {"square": square.numpy(), "flow_nfe": nfe.double().numpy(), **self.about(drawn)}

    def _flow(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """The ends of the flow (last - first, ...) and its evaluations (last - first,), on the CPU.

        Raises:
            SolverError: the tolerance is out of reach.
        """
        asked, seed = self.request.flow, self.request.seed
        solver: dict[str, Any] = {
            "rtol": asked.rtol,
            "atol": asked.atol,
            "precision": "fp32",
            "compile": False,
        }
        spec = sampling_spec(self.model.recipe, {"method": "ode", **solver}, "flow")
        key = (self._weights, self.request.model_digest, spec, seed, first, last)
        known = _ENDS.get(key)
        if known is None:
            drawn = self.model.draw(last - first, method="ode", seed=seed, first=first, **solver)
            known = _ENDS[key] = drawn.x.cpu(), drawn.nfe_each.cpu()
            while len(_ENDS) > 1 and sum(x.nbytes for x, _ in _ENDS.values()) > _MOST_BYTES:
                del _ENDS[next(iter(_ENDS))]
        return known

    @functools.cached_property
    def _weights(self) -> str:
        return tensors_digest(
            {name: tensor.cpu() for name, tensor in self.model.net.state_dict().items()}
        )


def flow_distance(table: Table) -> dict[str, Any]:
    """Root mean square distance of samples from the network's own probability flow from the same
    noise."""
    arrays, spec = table.arrays, table.request.flow
    square = arrays["square"][~arrays["nonfinite"]]
    value = math.sqrt(square.mean()) if len(square) else math.inf
    spread = standard_error(square)
    # Of the root, to first order.
    stderr = spread / (2.0 * value) if spread is not None and value > 0 else None
    return {
        "value": value,
        "stderr": stderr,
        **table.about_drawn(),
        "flow_nfe_mean": float(arrays["flow_nfe"].mean()),
        "rtol": spec.rtol,
        "atol": spec.atol,
    }
