"""Metrics of vectors: distances from true samples or test data (docs/evaluation.md), and true
densities of toy data.

Samples given an observation are compared with the exact conditional density.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cld_core.conditioning import Observation
from cld_core.data.source import test_count
from cld_core.errors import UsageError
from cld_core.model import Model
from cld_core.pictures import Plane
from cld_core.run.shards import Arrays

from .rows import SampleRows, Table, standard_error

DIRECTIONS = 64
# Numbers of distances that are computed at once, and points of a part between which energy
# distances are.
_BLOCK, _ENERGY_POINTS = 1 << 22, 4096
# Test points that are searched for those of a class, in multiples of the samples.
_FIRST, _MOST = 2, 64
# Nodes of the integrals over what an observation leaves unknown: on a line, and on a side of the
# plane.
_LINE, _SIDE = 20_001, 601
# In nats: an integral that changes by more with half the nodes does not see the density's details.
_RESOLVED = 0.01
# How far beyond the data the integrals reach, in multiples of the data's range.
_REACH = 0.5


class VectorRows(SampleRows):
    """Of the samples ``first <= i < last``: ``x`` (last - first, d), float32, ``nfe`` and
    ``nonfinite``."""

    def compute(self, first: int, last: int) -> Arrays:
        drawn = self.draw(first, last)
        return {"x": drawn.x.flatten(1).float().cpu().numpy(), **self.about(drawn)}


def w2(table: Table) -> dict[str, Any]:
    """Sliced 2-Wasserstein distance of samples from as many true samples, and that of two true
    sets.

    It is the mean over the true sets, and the floor is the mean over the pairs of them. The true
    sets are the same for every request of as many samples, so that samplers are compared with the
    same points. If test data are finite, both are cut into parts instead, see `w2_of`.
    """
    x = table.finite()
    source = table.model.source
    spec = table.request.w2
    if test_count(source) is not None:
        return _of_parts(table, lambda ours, true: w2_of(ours, true, spec.directions))
    value, floor = math.inf, {}
    if len(x):
        sets = [source.dequantised_test_data(number, 0, len(x)) for number in range(spec.sets)]
        value, between = from_sets(torch.from_numpy(x), sets, spec.directions)
        floor = {"floor": float(between.mean()), "floor_stderr": standard_error(between)}
    return {"value": value, **floor, **asdict(spec), **table.about_drawn()}


def energy(table: Table) -> dict[str, Any]:
    """Energy distance of samples from true samples or test data, with its standard error; see
    `energy_of`."""
    return _of_parts(table, lambda ours, true: energy_of([*ours], [*true]), _ENERGY_POINTS)


def _of_parts(
    table: Table,
    compare: Callable[[Iterable[Tensor], Iterable[Tensor]], dict[str, Any]],
    most: int | None = None,
) -> dict[str, Any]:
    """The section of a metric that compares disjoint parts of samples with disjoint parts of true
    examples.

    There are `eval.w2.sets` parts of each, all with the same number k of points, at most ``most``,
    (k, d), in units of the standard deviation of each feature (d), or of each channel (C, ...), of
    these true examples.
    """
    source, form, spec = table.model.source, table.model.form, table.request.w2
    x, held = torch.from_numpy(table.finite()), test_count(source)
    size = min(len(x), len(x) if held is None else held) // spec.sets
    size = size if most is None else min(size, most)
    n, whole = spec.sets * size, "test data" if held is not None else "true samples"
    about = {
        "units": f"standard deviations of the {whole}",
        "points": size,
        **asdict(spec),
        **table.about_drawn(),
    }
    if size < 2:
        return {"value": math.inf, **about}
    # Of three axes: examples, channels or features, and the rest.
    truth = form.to_data(source.test_data(0, 0, n).cpu()).view(n, form.shape[0], -1)
    std, mean = torch.std_mean(truth.double(), (0, 2), keepdim=True)
    unit = torch.where(std > 0, std, 1.0)
    # Made when they are compared: images are too many to be held in float64.
    parts = (torch.split(of[:n].view(truth.shape), size) for of in (x, truth))
    ours, true = ((((part - mean) / unit).flatten(1) for part in of) for of in parts)
    return {**compare(ours, true), **about}


def density(table: Table) -> dict[str, Any]:
    """The mean true log-density of samples, in nats; that of true samples is minus the entropy."""
    x, known = table.finite(), table.model.source.density
    if known is None or known.log_density is None:
        name = table.model.recipe.data.name
        raise UsageError(
            f"--density: the density of data.name={name} is not known. Leave it out, or register "
            f"it."
        )
    values = known.log_density(torch.from_numpy(x)).numpy()
    truth = {} if known.entropy is None else {"true": -known.entropy()}
    value = float(values.mean()) if len(values) else -math.inf
    return {"value": value, "stderr": standard_error(values), **truth, **table.about_drawn()}


def class_law(table: Table) -> dict[str, Any]:
    """Samples of each class of labelled data against the law of that class, which is known; and
    means over classes.

    If a label is a function of x, then p(x | label) is p(x) / P(label) where x has this label, and
    0 elsewhere. The mean density is over all samples that lie in their class.
    """
    model, x, good = table.model, table.arrays["x"], ~table.arrays["nonfinite"]
    assert model.classes is not None, "only class-conditional models are asked"
    label, density = np.array(model.classes.drawn(0, len(x))), model.source.density
    assert density is not None, "only toy data are asked"
    assert density.label is not None, "toy data with classes have labels"
    shares, log_density = model.classes.shares, density.log_density
    number_of = np.bincount(label[good], minlength=len(shares))
    # Without samples, the true sets are of one point.
    wanted = {int(of): max(int(number_of[of]), 1) for of in np.unique(label)}
    sets = [
        _true_points(model.source, seed, wanted, len(x)) for seed in range(table.request.w2.sets)
    ]
    by_class: dict[str, dict[str, Any]] = {}
    densities = [np.zeros(0)]
    for number in wanted:
        asked, mine = int((label == number).sum()), torch.from_numpy(x[good & (label == number)])
        inside = mine[density.label(mine) == number]
        value, between = from_sets(
            mine, [points[number] for points in sets], table.request.w2.directions
        )
        about = {"samples": asked, "accuracy": len(inside) / asked}
        name = model.classes.names[number]
        by_class[name] = {"w2": value, "floor": float(between.mean()), **about}
        if log_density is not None and len(inside):
            values = log_density(inside).numpy() - math.log(shares[number])
            by_class[name] |= {
                "density": float(values.mean()),
                "density_stderr": standard_error(values),
            }
            densities.append(values)
    report: dict[str, Any] = {
        key: float(np.mean([one[key] for one in by_class.values()]))
        for key in ("w2", "floor", "accuracy")
    }
    if log_density is not None:
        every = np.concatenate(densities)
        mean = float(every.mean()) if len(every) else -math.inf
        report |= {"density": mean, "density_stderr": standard_error(every)}
        if density.entropy is not None:
            # That of true samples: minus the entropy given the label.
            report["density_true"] = model.classes.entropy - density.entropy()
    return {**report, "classes": by_class, **asdict(table.request.w2), **table.about_drawn()}


def _true_points(
    source: Any, seed: int, wanted: Mapping[int, int], samples: int
) -> dict[int, Tensor]:
    """By class, so many points (n, 2): the first ones of the test data of a seed with this label.

    Args:
        samples: so many test points have about as many of a class as samples that are drawn have.

    Raises:
        UsageError: the data have hardly any of a class.
    """
    times = _FIRST
    while True:
        labels = source.test_labels(seed, 0, times * samples)
        lacking = [of for of, n in wanted.items() if int((labels == of).sum()) < n]
        if not lacking:
            x = source.dequantised_test_data(seed, 0, times * samples)
            return {of: x[labels == of][:n] for of, n in wanted.items()}
        if (times := 2 * times) > _MOST:
            found = int((labels == lacking[0]).sum())
            searched = f"of {len(labels):,} test points, {found} are of class {lacking[0]}"
            raise UsageError(
                f"--class-law: {searched}. Correct the `label` or the `classes` of the toy data."
            )


def projections(points: Tensor, directions: int = DIRECTIONS) -> Tensor:
    """Points (n, d) projected on directions and sorted along each: (n, directions), float64.

    In the plane, directions are equally spaced; otherwise they are random ones, always the same.
    """
    if points.shape[1] == 2:
        angle = torch.arange(directions, dtype=torch.float64) * (math.pi / directions)
        axes = torch.stack([angle.cos(), angle.sin()])
    else:
        generator = torch.Generator().manual_seed(0)
        axes = torch.randn(points.shape[1], directions, dtype=torch.float64, generator=generator)
        axes /= axes.norm(dim=0)
    return (points.double() @ axes).sort(0).values


def distance(a: Tensor, b: Tensor) -> float:
    """The distance between two sets of n points each, from their `projections`.

    In one dimension, the best plan of transport pairs the sorted points, so that nothing is
    approximated except for the integral over directions.
    """
    return float((a - b).square().mean(0).mean().sqrt())


def from_sets(
    points: Tensor, sets: Sequence[Tensor], directions: int = DIRECTIONS
) -> tuple[float, npt.NDArray[np.float64]]:
    """The mean distance of points (n, d) from sets of as many, and the distances of each pair of
    these.

    Without points, the first is infinite.
    """
    others = [projections(one, directions) for one in sets]
    between = np.array([distance(a, b) for a, b in itertools.combinations(others, 2)])
    if not len(points):
        return math.inf, between
    ours = projections(points, directions)
    return float(np.mean([distance(ours, one) for one in others])), between


def w2_of(
    ours: Iterable[Tensor], true: Iterable[Tensor], directions: int = DIRECTIONS
) -> dict[str, float | None]:
    """Sliced W2 of parts of samples from parts of true examples, each (k, d), and the floor: that
    of true ones.

    Both are means over all pairs of parts. Standard errors are those of the jackknife that leaves
    parts out. ``t95`` standard errors are half the width of a 95 % interval, by Student's t.
    """
    a, b = ([projections(part, directions) for part in parts] for parts in (ours, true))
    across = _across(np.array([[distance(x, y) for y in b] for x in a]))
    floor = np.array([[distance(x, y) for y in b] for x in b])
    n = len(b)
    # Of each part, the mean distance from the others.
    means = floor.sum(1) / (n - 1)
    error = standard_error(means) if n > 2 else None
    floor_stderr = None if error is None else 2.0 * (n - 1) / (n - 2) * error
    return {**across, "floor": float(means.mean()), "floor_stderr": floor_stderr}


def energy_of(ours: Sequence[Tensor], true: Sequence[Tensor]) -> dict[str, float | None]:
    """Energy distance 2 E|x - y| - E|x - x'| - E|y - y'| of parts of samples x and of true examples
    y, each (k, d).

    It has no bias, so it is around 0 for samples of the same law. The numbers are as in `w2_of`.
    """
    within = [np.array([_mean_distance(part, part) for part in parts]) for parts in (ours, true)]
    between = np.array([[_mean_distance(x, y) for y in true] for x in ours])
    return _across(2.0 * between - within[0][:, None] - within[1])


def _across(pairs: npt.NDArray[np.float64]) -> dict[str, float | None]:
    """The mean over pairs of parts (s, s), its standard error, and the t95 of `w2_of`.

    Rows and columns are drawn independently; the degrees of freedom are Welch and Satterthwaite's.
    """
    from scipy.stats import t

    value = float(pairs.mean())
    errors = standard_error(pairs.mean(0)), standard_error(pairs.mean(1))
    stderr = None if None in errors else math.hypot(*filter(None, errors))
    t95 = None
    if stderr:
        share = sum((error / stderr) ** 4 for error in filter(None, errors))
        t95 = float(t.ppf(0.975, (len(pairs) - 1) / share))
    return {"value": value, "stderr": stderr, "t95": t95}


def _mean_distance(a: Tensor, b: Tensor) -> float:
    """E|x - y| of points (k, d) of two sets; of a set and itself, of two different points."""
    total = sum(
        float(torch.cdist(rows, b).sum()) for rows in torch.split(a, max(1, _BLOCK // len(b)))
    )
    return total / (len(a) * (len(b) - 1 if a is b else len(b)))


def sliced_w2(a: Tensor, b: Tensor, directions: int = DIRECTIONS) -> float:
    """The distance between two sets (n, d): the root of the squared W2 of their projections,
    averaged."""
    return distance(projections(a, directions), projections(b, directions))


@dataclass(frozen=True)
class ConditionalDensity:
    """p(x | y) of a toy density on the plane, or of one of its classes, normalised by quadrature.

    Attributes:
        log_density: log p(x | y), (n,), float64, nats, of samples x (n, 2); an exact y is taken to
            hold.
        line: for one coordinate known exactly, the nodes of the other one (k,) and the density
            there (k,), per unit length; None otherwise, when densities are per unit area.
        mean_log_density: that of true samples, in nats.
    """

    log_density: Callable[[Tensor], Tensor]
    line: tuple[Tensor, Tensor] | None
    mean_log_density: float

    @classmethod
    def of(
        cls, model: Model, observation: Observation, label: int | None = None
    ) -> "ConditionalDensity | None":
        """That of a model's data, or of those of a class.

        None if it is not known: for lack of a density, or because the nodes are too few for its
        details.
        """
        exact, mask, toy = observation.sigma == 0, observation.mask, model.source.density
        prior = None if toy is None else toy.log_density_of(label)
        if prior is None or (exact and (mask is None or observation.count != 1)):
            return None

        def joint(x: Tensor) -> Tensor:
            """log p(x, y), (n,); of an exact y, log p of x with it in its place."""
            x = x.to(torch.float64)
            if exact and mask is not None:
                return prior(torch.where(mask, observation.transpose(observation.y[None]), x))
            squares = (observation.residual(x) / observation.sigma).square().sum(1)
            constant = observation.count * (
                math.log(observation.sigma) + 0.5 * math.log(2.0 * math.pi)
            )
            return prior(x) + (-0.5 * squares - constant)

        plane = Plane.of(model.source)
        low, high = (
            torch.as_tensor(corner, dtype=torch.float64) for corner in (plane.low, plane.high)
        )
        low, high = low - _REACH * (high - low), high + _REACH * (high - low)
        free = [i for i in range(2) if not (exact and mask is not None and mask[i])]
        nodes = _LINE if exact else _SIDE
        axes = [
            torch.linspace(float(low[i]), float(high[i]), nodes, dtype=torch.float64) for i in free
        ]
        log_p = joint(torch.cartesian_prod(*axes).view(-1, len(axes)).expand(-1, 2))
        weight = math.prod(float(axis[1] - axis[0]) for axis in axes)
        evidence, mean = _normalised(log_p, weight)
        every_other = log_p.view([len(axis) for axis in axes])[(slice(None, None, 2),) * len(axes)]
        coarse, _ = _normalised(every_other.flatten(), 2.0 ** len(axes) * weight)
        if not abs(coarse - evidence) < _RESOLVED:
            return None
        return cls(
            lambda x: joint(x) - evidence,
            (axes[0], (log_p - evidence).exp()) if exact else None,
            mean,
        )


def _normalised(log_p: Tensor, weight: float) -> tuple[float, float]:
    """The log of the integral of p, and the mean of log p under p over its integral; ``weight`` is
    that of a node."""
    evidence = float(torch.logsumexp(log_p, 0)) + math.log(weight)
    p = (log_p - evidence).exp() * weight
    return evidence, float(torch.where(p > 0, p * (log_p - evidence), 0.0).sum())


def agreement(x: Tensor, observation: Observation, density: ConditionalDensity | None) -> str:
    """How far samples are from what was observed, and for toy data how probable they are given it,
    in a line."""
    distance = float(observation.residual(x.double()).square().mean().sqrt())
    told = f"y - H x is {distance:.3g} (root mean square)"
    if density is None:
        return told
    mean = float(density.log_density(x.cpu()).mean())
    return (
        f"{told}; mean conditional log-density {mean:.3f} nats, of true samples "
        f"{density.mean_log_density:.3f}"
    )
