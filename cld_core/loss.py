"""Score matching: hybrid (HSM) and denoising (DSM), in the paper's three weightings.

See docs/math.md section 4.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from cld_core import sde
from cld_core.config import Recipe
from cld_core.config.keys import Shape
from cld_core.config.registry import implementation_of
from cld_core.config.train import ObjectiveSpec
from cld_core.errors import RecipeError
from cld_core.plugins import is_shipped, trial
from cld_core.score import NoiseModel, Score, coefficients
from cld_core.sde import Diffusion
from cld_core.sde.matrices import apply, combined, spread
from cld_core.seeds import SampleNoise

# Cells of the table of importance sampling, equally wide in log t. Only the variance of the loss
# depends on their number.
CELLS = 1024


@dataclass(frozen=True)
class Draws:
    """The random numbers of one step for a batch of B.

    Attributes:
        t: (B,), float64.
        noise: (B, nC, ...).
        initial: (B, (n - 1)C, ...), the halves other than x at time 0; for DSM only.
        importance: (B,), float64, factors of the losses.
        augmented: (B, 9), how the images were changed, an input of the network.
    """

    t: Tensor
    noise: Tensor
    initial: Tensor | None
    importance: Tensor | None = None
    augmented: Tensor | None = None

    def rows(self, rows: slice) -> "Draws":
        """The draws of the examples ``rows`` of the batch."""
        parts = {name: part[rows] for name, part in vars(self).items() if part is not None}
        return replace(self, **parts)


@dataclass(frozen=True)
class Losses:
    """Losses of the examples of a batch, (B,), summed over dimensions."""

    weighted: Tensor  # what training minimises
    plain: Tensor  # squared errors of the predicted noise, without a gradient


def build(sde: Diffusion, objective: ObjectiveSpec) -> "ScoreMatching":
    """The loss that a recipe's `objective` section describes."""
    made: ScoreMatching = implementation_of("objective", objective)(sde, objective)
    return made


def require_usable(recipe: Recipe, data_shape: Shape) -> None:
    """Compute the losses of two examples of noise of this shape, with a network that returns 0.

    Raises:
        RecipeError: the objective or the diffusion, if a plug-in has it, fails or does not return
            `Losses`.
    """
    section = "sde" if is_shipped("objective", recipe.objective.name) else "objective"
    with trial(f"{section}.name", getattr(recipe, section).name):
        diffusion = sde.build(recipe.sde)
        generator = torch.Generator().manual_seed(0)
        sde.require_stationary(diffusion)
        objective = build(diffusion, recipe.objective)
        x = torch.randn(2, *data_shape, generator=generator)
        silent: Any = nn.Module()
        silent.forward = lambda u, t: 0.0 * diffusion.scored(u)
        score = Score(diffusion, recipe.objective, silent)
        result = objective.losses(score, x, objective.draw(generator, 2, data_shape))
        for name, losses in (("weighted", result.weighted), ("plain", result.plain)):
            if losses.shape != (2,) or not losses.isfinite().all():
                raise ValueError(
                    f"the {name} losses of 2 examples are {losses.tolist()}, not 2 finite numbers"
                )


class Histogram:
    """Times whose density is constant in log t on each of `CELLS` cells from ``eps`` to 1.

    Args:
        masses: (CELLS,), float64, proportional to the probabilities of the cells.
        eps: the smallest time.
    """

    def __init__(self, masses: Tensor, eps: float) -> None:
        self._eps = eps
        self._width = -math.log(eps) / CELLS
        masses = masses / masses.sum()
        edges = torch.cat([torch.zeros(1, dtype=torch.float64), masses.cumsum(0)])
        self._tables = {torch.device("cpu"): (masses, edges / edges[-1])}

    def __call__(self, u01: Tensor) -> tuple[Tensor, Tensor]:
        """Times (B,) from uniform numbers (B,) on [0, 1), and importance factors (B,).

        A factor is the density of uniform times divided by that of these: with it, the mean of a
        loss is that over uniform times.
        """
        masses, edges = self._on(u01.device)
        cell = (torch.searchsorted(edges, u01, right=True) - 1).clamp(0, CELLS - 1)
        first = edges[cell]
        within = ((u01 - first) / (edges[cell + 1] - first)).clamp(0.0, 1.0)
        t = self._eps ** (1.0 - (cell + within) / CELLS)
        return t, t * self._width / (masses[cell] * (1.0 - self._eps))

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._tables:
            masses, edges = self._tables[torch.device("cpu")]
            self._tables[device] = (masses.to(device), edges.to(device))
        return self._tables[device]


def importance(weight: Callable[[Tensor], Tensor], eps: float) -> Histogram:
    """Times with a density nearly proportional to ``weight``, its values in the middles of cells.

    Args:
        weight: maps times (k,), float64, to positive weights (k,).
        eps: the smallest time.
    """
    middles = eps ** (1.0 - (torch.arange(CELLS, dtype=torch.float64) + 0.5) / CELLS)
    return Histogram(middles * weight(middles), eps)


def noise_levels(sde: Diffusion, objective: ObjectiveSpec) -> Histogram:
    """Times at which the noise levels sigma have the law that ``objective.times`` names.

    They are cut to those from loss_eps to 1. A share ``log_share`` is uniform in log t.

    Raises:
        RecipeError: no time has such levels.
    """
    eps = objective.loss_eps
    edges = eps ** (1.0 - torch.arange(CELLS + 1, dtype=torch.float64) / CELLS)
    levels = sde.noise_level(edges)
    if objective.times == "flow":
        below = levels / (1.0 + levels)
    else:
        log_ratio = (levels / objective.data_std).log()
        below = torch.special.ndtr((log_ratio - objective.noise_mean) / objective.noise_std)
    masses = below.diff()
    total = masses.sum()
    if total == 0.0:
        lowest, highest = (levels[[0, -1]] / objective.data_std).log().tolist()
        raise RecipeError(
            f"'objective.noise_mean': {objective.noise_mean:g}, in a law with a standard deviation "
            f"of {objective.noise_std:g}, is far from all noise levels of this diffusion, whose "
            f"log(sigma / data_std) is {lowest:.1f} to {highest:.1f}. Choose a mean in between."
        )
    share = objective.log_share
    return Histogram((1.0 - share) * masses / total + share / CELLS, eps)


class ScoreMatching:
    """Per-example losses whose mean over data, times and noise is the training objective."""

    def __init__(self, sde: Diffusion, objective: ObjectiveSpec) -> None:
        self.sde = sde
        self.objective = objective
        self._draws_initial = sde.n > 1 and objective.kernel == "dsm"
        self._histogram: Histogram | None = None
        if objective.times == "importance":

            def loss_of_zero(t: Tensor) -> Tensor:
                """The mean loss of a network that returns 0, per dimension of x."""
                return self.weight_root(t).square().sum((-2, -1))

            self._histogram = importance(loss_of_zero, objective.loss_eps)
        elif objective.times in ("lognormal", "flow"):
            self._histogram = noise_levels(sde, objective)

    def draw(
        self,
        generator: torch.Generator,
        batch: int,
        data_shape: Shape,
        device: torch.device | str = "cpu",
    ) -> Draws:
        """Draws for the *global* batch: every rank takes its `Draws.rows` of the same numbers."""
        where = generator.device

        def normal(halves: int) -> Tensor:
            shape = (batch, *_with_halves(data_shape, halves))
            return torch.randn(shape, generator=generator, device=where).to(device)

        u01 = torch.rand(batch, generator=generator, device=where, dtype=torch.float64)
        return self._draws(u01.to(device), normal)

    def draw_each(self, noise: SampleNoise, data_shape: Shape) -> Draws:
        """Draws on the device of ``noise``, in which an example depends on its own noise only."""
        u01 = noise.uniform((), torch.float64)
        return self._draws(u01, lambda halves: noise.normal(_with_halves(data_shape, halves)))

    def _draws(self, u01: Tensor, normal: Callable[[int], Tensor]) -> Draws:
        """Draws from uniform numbers (B,); ``normal`` draws noise of a number of halves."""
        noise = normal(self.sde.n)
        initial = None
        if self._draws_initial:
            stds = self.sde.initial_std
            parts = zip(normal(len(stds)).chunk(len(stds), dim=1), stds, strict=True)
            initial = torch.cat([part * std for part, std in parts], dim=1)
        eps = self.objective.loss_eps
        factors = None
        if self._histogram is not None:
            t, factors = self._histogram(u01)
            if self.objective.times != "importance":
                factors = None
        elif self.objective.times == "log":
            t = eps ** (1.0 - u01)
        else:
            t = eps + (1.0 - eps) * u01
        return Draws(t, noise, initial, factors)

    def perturb(self, x: Tensor, draws: Draws) -> Tensor:
        """u_t (B, nC, ...), the data x (B, C, ...) moved to the times of ``draws``."""
        matrix = self.sde.perturbation(draws.t, self.objective.kernel)
        parts = [x, *self.sde.halves(draws.noise)]
        if self._draws_initial and draws.initial is not None:
            parts += draws.initial.chunk(self.sde.n - 1, dim=1)
        return combined(matrix, parts)

    def weight_root(self, t: Tensor) -> Tensor:
        """R (B, m, m) at times t (B,): the loss is |R e|^2 for the error e of the predicted
        noise."""
        if self.objective.weighting == "reweightedv2":
            eye = torch.eye(self.sde.m, dtype=torch.float64, device=t.device)
            return eye.expand(*t.shape, -1, -1)
        if self.objective.weighting == "edm":
            # The score's error is the output's times a diagonal matrix, and E e.
            output = coefficients(self.sde, self.objective, t).output
            target = self.sde.target(t, self.objective.kernel)
            return target / output.diagonal(dim1=-2, dim2=-1)[..., None]
        roots = (0.5 * self.sde.diffusion2(t)).sqrt()
        if self.objective.weighting == "reweightedv1":
            return torch.diag_embed(roots)
        # The score's error is E e.
        return roots[..., None] * self.sde.target(t, self.objective.kernel)

    def losses(self, score: NoiseModel, x: Tensor, draws: Draws) -> Losses:
        """Losses of the data x (B, C, ...), with and without weights."""
        predicted = score.predicted_noise(
            self.perturb(x, draws), draws.t, augmented=draws.augmented
        )
        error = predicted - self.sde.scored(draws.noise)
        if self.objective.weighting == "reweightedv2":
            plain = error.square().flatten(1).sum(1)  # R = I
            return Losses(plain, plain.detach())
        weighted = apply(self.weight_root(draws.t), error).square().flatten(1).sum(1)
        if draws.importance is not None:
            weighted = weighted * spread(draws.importance, weighted)
        return Losses(weighted, error.detach().square().flatten(1).sum(1))


def _with_halves(data_shape: Shape, halves: int) -> Shape:
    channels, *rest = data_shape
    return (channels * halves, *rest)
