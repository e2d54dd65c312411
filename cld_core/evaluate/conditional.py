"""Samples given an observation: beside it for images, and against the exact conditional density for toy data."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cld_core import pictures
from cld_core.conditioning import Observation
from cld_core.data.images import to_pixels
from cld_core.model import Model
from cld_core.pictures import Plane

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Nodes of the integrals over what is not known: on a line, and on a side of the plane.
_LINE, _SIDE = 20_001, 601
# In nats: an integral that changes by more with half the nodes does not see the density's details.
_RESOLVED = 0.01
# How far beyond the data the integrals reach, in multiples of the data's range.
_REACH = 0.5


@dataclass(frozen=True)
class ConditionalDensity:
    """p(x | y) of a toy density on the plane, or of one of its classes, normalised by quadrature.

    Attributes:
        prior: log p(x) of points (n, 2), in nats.
        line: for one coordinate known exactly, the nodes of the other one (k,) and the density there (k,), per unit
            length; None otherwise, when densities are per unit area.
        evidence: log p(y) in nats, of the density of y.
        mean_log_density: that of true samples, in nats.
    """

    prior: Callable[[Tensor], Tensor]
    observation: Observation
    line: tuple[Tensor, Tensor] | None
    evidence: float
    mean_log_density: float

    @classmethod
    def of(cls, model: Model, observation: Observation, label: int | None = None) -> "ConditionalDensity | None":
        """That of a model's data, or of those of a class.

        None if it is not known: for lack of a density, or because the nodes are too few for its details.
        """
        exact = observation.sigma == 0
        mask = observation.mask
        toy = model.source.density
        prior = None if toy is None else toy.log_density_of(label)
        if prior is None or (exact and (mask is None or observation.count != 1)):
            return None
        plane = Plane.of(model.source)
        low, high = (torch.as_tensor(corner, dtype=torch.float64) for corner in (plane.low, plane.high))
        low, high = low - _REACH * (high - low), high + _REACH * (high - low)
        if exact:
            assert mask is not None, "looked for above"
            free = int((~mask).nonzero()[0])
            axes = [torch.linspace(float(low[free]), float(high[free]), _LINE, dtype=torch.float64)]
            nodes = observation.transpose(observation.y[None]).expand(_LINE, -1).clone()
            nodes[:, free] = axes[0]
            log_p = prior(nodes)
        else:
            ends = zip(low, high, strict=True)
            axes = [torch.linspace(float(a), float(b), _SIDE, dtype=torch.float64) for a, b in ends]
            nodes = torch.cartesian_prod(*axes)
            log_p = prior(nodes) + _log_likelihood(observation, nodes)
        weight = math.prod(float(axis[1] - axis[0]) for axis in axes)
        evidence, mean = _normalised(log_p, weight)
        every_other = log_p.view([len(axis) for axis in axes])[(slice(None, None, 2),) * len(axes)]
        coarse, _ = _normalised(every_other.flatten(), 2.0 ** len(axes) * weight)
        if not abs(coarse - evidence) < _RESOLVED:
            return None
        line = (axes[0], (log_p - evidence).exp()) if exact else None
        return cls(prior, observation, line, evidence, mean)

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x | y), (n,), float64, nats, of samples x (n, 2); an exact y is taken to hold."""
        x = x.to(torch.float64)
        mask = self.observation.mask
        if self.line is not None and mask is not None:
            known = self.observation.transpose(self.observation.y[None])
            return self.prior(torch.where(mask, known, x)) - self.evidence
        return self.prior(x) + _log_likelihood(self.observation, x) - self.evidence


def _log_likelihood(observation: Observation, x: Tensor) -> Tensor:
    """log N(y; H x, sigma^2 I), (n,)."""
    squares = (observation.residual(x) / observation.sigma).square().sum(1)
    constant = observation.count * (math.log(observation.sigma) + 0.5 * math.log(2.0 * math.pi))
    return -0.5 * squares - constant


def _normalised(log_p: Tensor, weight: float) -> tuple[float, float]:
    """The log of the integral of p, and the mean of log p under p over its integral; ``weight`` is that of a node."""
    evidence = float(torch.logsumexp(log_p, 0)) + math.log(weight)
    p = (log_p - evidence).exp() * weight
    return evidence, float(torch.where(p > 0, p * (log_p - evidence), 0.0).sum())


def show(
    path: Path,
    x: Tensor,
    model: Model,
    observation: Observation,
    density: ConditionalDensity | None,
    how: str,
    label: int | None = None,
) -> None:
    """Save samples given an observation, with the ``density`` of its data, or of those of the ``label`` of all of them.

    Images: a grid whose first image is what was observed, grey where nothing is known. Toy data: the samples over the
    density, and the distribution of the unknown coordinate against the exact one if one is known exactly.
    """
    title = pictures.title(x, model, how)
    if model.is_image:
        observed = to_pixels(observation.backprojected()[None])
        made = pictures.enlarged(pictures.tile(torch.cat([observed, to_pixels(x).cpu()])))
    else:
        mask = observation.mask

        def draw(figure: "Figure") -> None:
            if density is None or density.line is None or mask is None:
                pictures.beside_data(figure, x.cpu(), model, title, label)
                return
            right, left = figure.subplots(1, 2)
            _against_line(left, x.cpu()[:, ~mask][:, 0], *density.line)
            Plane.of(model.source, len(x), label).draw_samples(right, x.cpu())
            figure.suptitle(title)

        made = pictures.rendered(draw)
    pictures.write(path, made, title)


def agreement(x: Tensor, observation: Observation, density: ConditionalDensity | None) -> str:
    """How far samples are from what was observed, and for toy data how probable they are given it, in a line."""
    distance = float(observation.residual(x.double()).square().mean().sqrt())
    told = f"y - H x is {distance:.3g} (root mean square)"
    if density is None:
        return told
    mean = float(density.log_density(x.cpu()).mean())
    return f"{told}; mean conditional log-density {mean:.3f} nats, of true samples {density.mean_log_density:.3f}"


def _against_line(axes: "Axes", values: Tensor, nodes: Tensor, p: Tensor) -> None:
    """A histogram of the unknown coordinate (n,), and its exact density p at nodes."""
    shown = nodes[p > 1e-4 * p.max()]
    low, high = float(shown[0]), float(shown[-1])
    margin = 0.1 * (high - low)
    axes.hist(values.numpy(), bins=120, range=(low - margin, high + margin), density=True, color="tab:red", alpha=0.5)
    axes.plot(nodes.numpy(), p.numpy(), color="black", linewidth=1.0)
    axes.set_xlim(low - margin, high + margin)
    axes.set_title("unknown coordinate: samples, and the exact density")
