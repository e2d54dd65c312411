"""Metrics of the model itself: likelihood bound, test loss, distance of samplers from its flow."""

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
from cld_core.metrics import Section
from cld_core.nets import execution
from cld_core.run.shards import Columns
from cld_core.score import Conditional, Score
from cld_core.sde import Diffusion
from cld_core.sde.base import TYPICAL_DATA_STD
from cld_core.seeds import SampleNoise

from .rows import RowComputer, SampleRows, Table, standard_error

# Bounds of log p(x) in nats, one value per example.
_BOUNDS = ("elbo", "paper_elbo", "importance_bound")
# Ends of the flow are cached for further evaluations with the same noise in this process: in a
# comparison of 40 settings, computing them would take most of the time.
_MOST_BYTES = 256 << 20
_ENDS: dict[Any, tuple[Tensor, Tensor]] = {}


class PointRows(RowComputer):
    """Computes rows of test points."""

    def noise(self, purpose: str, first: int, last: int) -> SampleNoise:
        """The noise of the points ``first <= i < last``."""
        place: dict[str, Any] = {"first": first, "last": last, "device": self.model.device}
        return SampleNoise(self.request.seed, purpose, **place)

    def given_labels(self, score: Score, first: int, last: int) -> Score | Conditional:
        """The score given the labels of the points, if there are classes."""
        model = self.model
        if model.classes is None:
            return score
        labels = model.source.test_labels(self.request.seed, first, last)
        return Conditional(score, labels.to(model.device))


class ElboRows(PointRows):
    """Rows of test points: bounds of log p(x), given their labels if any, and ``nfe``.

    Each is of shape (last - first,).
    """

    @execution.using(tf32=False)
    def compute(self, first: int, last: int) -> Columns:
        model = self.model
        spec = self.request.elbo
        x = model.source.dequantised_test_data(self.request.seed, first, last).to(model.device)
        score = self.given_labels(model.score_of(compiled=spec.compile), first, last)
        noise = self.noise("elbo", first, last)
        bounds = likelihood(score, model.sde, spec, noise, x).rescaled(model.form.log_det)
        rows = {name: getattr(bounds, name) for name in _BOUNDS}
        rows["nfe"] = bounds.nfe_each.double().mean(1)
        return {name: values.double().cpu().numpy() for name, values in rows.items()}


def elbo(table: Table) -> Section:
    """The likelihood bound and its estimators, in nats or bits/dim, and the gap to the truth."""
    model = table.model
    arrays = table.arrays
    spec = table.request.elbo
    # A negative log-density of x nats is reported as scale x + offset.
    if model.is_image:
        unit = "bits/dim"
        key = "bpd"
        scale, offset = model.bits_of_nats
    else:
        unit = "nats"
        key = "nll"
        scale = 1.0
        offset = 0.0
    means = {name: offset - scale * float(arrays[name].mean()) for name in _BOUNDS}
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
        # A bound of log p(x | label), each test point given its own label.
        report["conditional"] = True
    if table.request.elbo_eps_asked is not None:
        report["eps_asked"] = table.request.elbo_eps_asked
    return {**report, **_against_truth(table)}


@functools.lru_cache(maxsize=16)
def raised_by_tolerance(sde: Diffusion, spec: ElboSpec, dimensions: int) -> float | None:
    """The amount in nats by which the solver's tolerance raises the bound of an example.

    It is measured on Gaussian data, against a hundredth of the tolerance, in up to 64 dimensions
    (docs/math.md section 8), where one probe is exact. None if the solver fails, and for tolerances
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
    for settings in (loose, tight):
        noise = SampleNoise(0, first=0, last=len(x))
        try:
            bounds.append(likelihood(law.score(sde), sde, settings, noise, x).mean)
        except SolverError:
            return None
    return (bounds[0] - bounds[1]) * dimensions / size


def _against_truth(table: Table) -> Section:
    """The gap between the true log-density and the bound, and the true entropy, as far as known.

    Both are given the label if the model has classes.
    """
    source = table.model.source
    toy = source.density
    section: dict[str, Any] = {}
    if toy is None:
        return section
    classes = table.model.classes
    if toy.log_density is not None:
        # The same examples on both sides, so that their scatter cancels.
        seed = table.request.seed
        bound = table.arrays["elbo"]
        n = len(bound)
        x = table.model.form.to_data(source.dequantised_test_data(seed, 0, n))
        truth = toy.log_density(x).numpy()
        if classes is not None:
            # A toy's label is a function of the point: p(x | label) = p(x)/p(label).
            truth = truth - np.log(classes.shares)[source.test_labels(seed, 0, n).numpy()]
        gap = truth - bound
        section["gap"] = float(gap.mean())
        section["gap_stderr"] = standard_error(gap)
    if toy.entropy is not None:
        of_labels = 0.0 if classes is None else classes.entropy
        section["true_entropy"] = toy.entropy() - of_labels
    return section


class LossRows(PointRows):
    """Rows of test points: ``loss`` (last - first,), the training objective with keyed draws."""

    @execution.using(tf32=False)
    @torch.no_grad()
    def compute(self, first: int, last: int) -> Columns:
        model = self.model
        draws = self.request.loss.draws
        x = model.source.test_data(self.request.seed, first, last).to(model.device)
        objective = objective_of(model.sde, self.request.objective)
        noise = self.noise("loss", first, last)
        score = self.given_labels(model.score, first, last)
        total = torch.zeros(len(x), dtype=torch.float64, device=model.device)
        for _ in range(draws):
            numbers = objective.draw_each(noise, model.data_shape)
            total += objective.losses(score, x, numbers).weighted
        return {"loss": (total / draws).cpu().numpy()}


def loss(table: Table) -> Section:
    """The mean training objective of test points, summed over dimensions, as in training."""
    losses = table.arrays["loss"]
    objective = table.request.objective
    return {
        "value": float(losses.mean()),
        "stderr": standard_error(losses),
        "n": len(losses),
        "draws": table.request.loss.draws,
        "objective": objective.name,
        "weighting": objective.weighting,
    }


class FlowRows(SampleRows):
    """Rows of samples: ``square``, ``flow_nfe``, ``nfe`` and ``nonfinite``, (last - first,) each.

    ``square`` is the mean square, over the numbers of a sample, of the difference from the end of
    the flow, which took ``flow_nfe`` network evaluations.
    """

    @property
    def total(self) -> int:
        return self.request.sizes["flow"]

    def compute(self, first: int, last: int) -> Columns:
        samples = self.draw(first, last)
        end, nfe = self._flow(first, last)
        # In the units of the model, which do not depend on those of the data.
        to_model = self.model.form.to_model
        difference = to_model(samples.x.cpu().double()) - to_model(end.double())
        square = difference.flatten(1).square().mean(1)
        return {"square": square.numpy(), "flow_nfe": nfe.double().numpy(), **self.about(samples)}

    def _flow(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """The ends of the flow (last - first, ...) and its evaluations (last - first,), on the CPU.

        Raises:
            SolverError: the tolerance cannot be met.
        """
        seed = self.request.seed
        flow = self.request.flow
        solver: dict[str, Any] = {"method": "ode", "rtol": flow.rtol, "atol": flow.atol}
        solver |= {"precision": "fp32", "compile": False}
        spec = sampling_spec(self.model.recipe, solver, "flow")
        key = (self._weights, self.request.model_digest, spec, seed, first, last)
        if key in _ENDS:
            return _ENDS[key]
        samples = self.model.draw(last - first, seed=seed, first=first, **solver)
        ends = (samples.x.cpu(), samples.nfe_each.cpu())
        _ENDS[key] = ends
        # The oldest ends go first.
        while len(_ENDS) > 1 and sum(x.nbytes for x, _ in _ENDS.values()) > _MOST_BYTES:
            del _ENDS[next(iter(_ENDS))]
        return ends

    @functools.cached_property
    def _weights(self) -> str:
        weights = self.model.net.state_dict()
        return tensors_digest({name: tensor.cpu() for name, tensor in weights.items()})


def flow_distance(table: Table) -> Section:
    """Root mean square distance of samples from the network's flow from the same noise."""
    arrays = table.arrays
    spec = table.request.flow
    square = arrays["square"][~arrays["nonfinite"]]
    value = math.sqrt(square.mean()) if len(square) else math.inf
    stderr = standard_error(square)
    if stderr is not None:
        # The standard error of the root, to first order.
        stderr = stderr / (2.0 * value) if value > 0 else None
    nfe = float(arrays["flow_nfe"].mean())
    return {
        "value": value,
        "stderr": stderr,
        **table.about_drawn(),
        "flow_nfe_mean": nfe,
        "rtol": spec.rtol,
        "atol": spec.atol,
    }
