"""Metrics of vectors: distances from true samples or test data, and true densities of toy data.

See docs/evaluation.md. Samples given an observation are compared with the exact conditional
density.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cld_core.conditioning import Observation
from cld_core.data.source import test_count
from cld_core.errors import UsageError
from cld_core.metrics import Section
from cld_core.model import Model
from cld_core.pictures import Plane
from cld_core.run.shards import Columns

from .rows import SampleRows, Table, means_of, standard_error

DIRECTIONS = 64
# Distances between points that are computed at once.
_BLOCK = 1 << 22
# The most points of a part in an energy distance.
_ENERGY_POINTS = 4096
# Test points that are searched for those of a class, at first and at most, in multiples of the
# samples.
_FIRST = 2
_MOST = 64
# Nodes of the integrals over what an observation leaves unknown: on a line, and on each side of the
# plane.
_LINE = 20_001
_SIDE = 601
# In nats: if an integral changes by more with half the nodes, they are too few for the density.
_RESOLVED = 0.01
# How far beyond the data the integrals reach, in multiples of the data's range.
_REACH = 0.5


class VectorRows(SampleRows):
    """Rows of samples: ``x`` (last - first, d), float32, ``nfe`` and ``nonfinite``."""

    def compute(self, first: int, last: int) -> Columns:
        samples = self.draw(first, last)
        return {"x": samples.x.flatten(1).float().cpu().numpy(), **self.about(samples)}


def w2(table: Table) -> Section:
    """Sliced 2-Wasserstein distance of samples from sets of as many true samples.

    The value is the mean over the true sets; the floor is the mean distance between two of them.
    The true sets are the same for every request of as many samples, so that samplers are compared
    with the same points. If test data are finite, both are cut into parts instead, see `w2_of`.
    """
    x = table.finite()
    source = table.model.source
    spec = table.request.w2
    if test_count(source) is not None:
        return _of_parts(table, lambda ours, true: w2_of(ours, true, spec.directions))
    section: dict[str, Any] = {"value": math.inf}
    if len(x):
        sets = [source.dequantised_test_data(number, 0, len(x)) for number in range(spec.sets)]
        section["value"], between = from_sets(torch.from_numpy(x), sets, spec.directions)
        section["floor"] = float(between.mean())
        section["floor_stderr"] = standard_error(between)
    return {**section, **asdict(spec), **table.about_drawn()}


def energy(table: Table) -> Section:
    """Energy distance of samples from true samples or test data, see `energy_of`."""
    return _of_parts(table, lambda ours, true: energy_of([*ours], [*true]), _ENERGY_POINTS)


def _of_parts(
    table: Table,
    compare: Callable[[Iterable[Tensor], Iterable[Tensor]], Section],
    most: int | None = None,
) -> Section:
    """The section of a metric that compares parts of samples with parts of true examples.

    There are `eval.w2.sets` disjoint parts of each, (k, d), of at most ``most`` points. They are in
    units of the standard deviation, over these true examples, of each feature (d) or channel
    (C, ...).
    """
    source = table.model.source
    form = table.model.form
    spec = table.request.w2
    x = torch.from_numpy(table.finite())
    if (available := test_count(source)) is None:
        size = len(x) // spec.sets
        units = "standard deviations of the true samples"
    else:
        size = min(len(x), available) // spec.sets
        units = "standard deviations of the test data"
    if most is not None:
        size = min(size, most)
    about = {"units": units, "points": size, **asdict(spec), **table.about_drawn()}
    if size < 2:
        return {"value": math.inf, **about}
    n = spec.sets * size
    # Three axes: examples, channels or features, and the rest.
    truth = form.to_data(source.test_data(0, 0, n).cpu()).view(n, form.shape[0], -1)
    std, mean = torch.std_mean(truth.double(), (0, 2), keepdim=True)
    unit = torch.where(std > 0, std, 1.0)

    def parts_of(examples: Tensor) -> Iterator[Tensor]:
        # One at a time: all images in float64 would take too much memory.
        for part in torch.split(examples[:n].view(truth.shape), size):
            yield ((part - mean) / unit).flatten(1)

    return {**compare(parts_of(x), parts_of(truth)), **about}


def density(table: Table) -> Section:
    """The mean true log-density of samples, and of true samples (minus the entropy), in nats."""
    toy = table.model.source.density
    if toy is None or toy.log_density is None:
        raise UsageError(
            f"--density: the density of data.name={table.model.recipe.data.name} is not known. "
            "Leave it out, or register it."
        )
    values = toy.log_density(torch.from_numpy(table.finite())).numpy()
    section = {"value": _mean_density(values), "stderr": standard_error(values)}
    if toy.entropy is not None:
        section["true"] = -toy.entropy()
    return {**section, **table.about_drawn()}


def _mean_density(values: np.ndarray) -> float:
    """The mean of log-densities (n,), nats; minus infinity if there are none."""
    return float(values.mean()) if len(values) else -math.inf


def class_law(table: Table) -> Section:
    """Compare samples of each class of labelled toy data with the known law of that class.

    If a label is a function of x, then p(x | label) is p(x) / P(label) where x has this label, and
    0 elsewhere. The mean density is over all samples that lie in their class.
    """
    model = table.model
    classes = model.classes
    toy = model.source.density
    assert classes is not None, "the metric is for class-conditional models"
    assert toy is not None, "the metric is for toy data"
    assert toy.label is not None, "toy data with classes have labels"
    spec = table.request.w2
    x = table.arrays["x"]
    is_finite = ~table.arrays["nonfinite"]
    label = np.array(classes.drawn(0, len(x)))
    # By class, as many true points as finite samples, and at least one.
    counts = np.bincount(label[is_finite], minlength=len(classes))
    sizes = {int(number): max(int(counts[number]), 1) for number in np.unique(label)}
    sets = [_true_points(model.source, seed, sizes, len(x)) for seed in range(spec.sets)]
    by_class: dict[str, Section] = {}
    densities = [np.zeros(0)]
    for number in sizes:
        is_member = label == number
        count = int(is_member.sum())
        mine = torch.from_numpy(x[is_finite & is_member])
        inside = mine[toy.label(mine) == number]
        value, between = from_sets(mine, [points[number] for points in sets], spec.directions)
        section: dict[str, Any] = {
            "w2": value,
            "floor": float(between.mean()),
            "samples": count,
            "accuracy": len(inside) / count,
        }
        if toy.log_density is not None and len(inside):
            values = toy.log_density(inside).numpy() - math.log(classes.shares[number])
            section["density"] = float(values.mean())
            section["density_stderr"] = standard_error(values)
            densities.append(values)
        by_class[classes.names[number]] = section
    report = means_of(by_class.values(), ("w2", "floor", "accuracy"))
    if toy.log_density is not None:
        values = np.concatenate(densities)
        report["density"] = _mean_density(values)
        report["density_stderr"] = standard_error(values)
        if toy.entropy is not None:
            # Of true samples: minus the entropy given the label.
            report["density_true"] = classes.entropy - toy.entropy()
    return {**report, "classes": by_class, **asdict(spec), **table.about_drawn()}


def _true_points(
    source: Any, seed: int, sizes: Mapping[int, int], samples: int
) -> dict[int, Tensor]:
    """The first points (n, 2) of each class in a seed's test data.

    Args:
        sizes: by class, the number of points.
        samples: the number of samples of all classes. As many test points have about as many of
            each class.

    Raises:
        UsageError: the data have hardly any of a class.
    """
    times = _FIRST
    while True:
        labels = source.test_labels(seed, 0, times * samples)
        lacking = [number for number, n in sizes.items() if int((labels == number).sum()) < n]
        if not lacking:
            x = source.dequantised_test_data(seed, 0, times * samples)
            return {number: x[labels == number][:n] for number, n in sizes.items()}
        times *= 2
        if times > _MOST:
            count = int((labels == lacking[0]).sum())
            raise UsageError(
                f"--class-law: of {len(labels):,} test points, {count} are of class {lacking[0]}. "
                "Correct the `label` or the `classes` of the toy data."
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

    In one dimension, optimal transport pairs the sorted points. So the distance is exact, except
    for the integral over directions.
    """
    return float((a - b).square().mean(0).mean().sqrt())


def from_sets(
    points: Tensor, sets: Sequence[Tensor], directions: int = DIRECTIONS
) -> tuple[float, np.ndarray]:
    """The mean distance of n points (n, d) from sets of n, and the distances between the sets.

    Without points, the first is infinite.
    """
    others = [projections(points_of_set, directions) for points_of_set in sets]
    between = np.array([distance(a, b) for a, b in itertools.combinations(others, 2)])
    if not len(points):
        return math.inf, between
    ours = projections(points, directions)
    return float(np.mean([distance(ours, other) for other in others])), between


def w2_of(
    ours: Iterable[Tensor], true: Iterable[Tensor], directions: int = DIRECTIONS
) -> dict[str, float | None]:
    """Sliced W2 of parts of samples from parts of true examples, (k, d) each.

    The value is the mean over all pairs of parts; the floor is that of pairs of true parts.
    Standard errors are those of the jackknife that leaves parts out. ``t95`` standard errors are
    half the width of a 95 % interval, by Student's t.
    """
    a = [projections(part, directions) for part in ours]
    b = [projections(part, directions) for part in true]
    across = _across(np.array([[distance(x, y) for y in b] for x in a]))
    floor = np.array([[distance(x, y) for y in b] for x in b])
    n = len(b)
    # The mean distance of each part from the others.
    means = floor.sum(1) / (n - 1)
    error = standard_error(means) if n > 2 else None
    floor_stderr = None if error is None else 2.0 * (n - 1) / (n - 2) * error
    return {**across, "floor": float(means.mean()), "floor_stderr": floor_stderr}


def energy_of(ours: Sequence[Tensor], true: Sequence[Tensor]) -> dict[str, float | None]:
    """Energy distance 2 E|x - y| - E|x - x'| - E|y - y'| of samples x from true examples y.

    Both come in parts (k, d). The distance has no bias: it is around 0 for samples of the same law.
    The numbers are as in `w2_of`.
    """
    within_ours = np.array([_mean_distance(x, x) for x in ours])
    within_true = np.array([_mean_distance(y, y) for y in true])
    between = np.array([[_mean_distance(x, y) for y in true] for x in ours])
    return _across(2.0 * between - within_ours[:, None] - within_true)


def _across(pairs: np.ndarray) -> dict[str, float | None]:
    """The mean over pairs of parts (s, s), its standard error, and the t95 of `w2_of`.

    Rows and columns are drawn independently; the degrees of freedom are Welch and Satterthwaite's.
    """
    from scipy.stats import t

    value = float(pairs.mean())
    of_columns = standard_error(pairs.mean(0))
    of_rows = standard_error(pairs.mean(1))
    if of_columns is None or of_rows is None:
        return {"value": value, "stderr": None, "t95": None}
    stderr = math.hypot(of_columns, of_rows)
    t95 = None
    if stderr > 0:
        share = (of_columns / stderr) ** 4 + (of_rows / stderr) ** 4
        t95 = float(t.ppf(0.975, (len(pairs) - 1) / share))
    return {"value": value, "stderr": stderr, "t95": t95}


def _mean_distance(a: Tensor, b: Tensor) -> float:
    """E|x - y| for x and y from two sets (k, d); within one set, for two different points."""
    blocks = torch.split(a, max(1, _BLOCK // len(b)))
    total = sum(float(torch.cdist(block, b).sum()) for block in blocks)
    others = len(b) - 1 if a is b else len(b)
    return total / (len(a) * others)


def sliced_w2(a: Tensor, b: Tensor, directions: int = DIRECTIONS) -> float:
    """The root of the mean squared W2 over projections of two sets of points (n, d)."""
    return distance(projections(a, directions), projections(b, directions))


@dataclass(frozen=True)
class ConditionalDensity:
    """p(x | y) of a toy density on the plane, or of one of its classes, normalised by quadrature.

    Attributes:
        log_density: log p(x | y), (n,), float64, nats, of samples x (n, 2); an exact y replaces the
            observed coordinate.
        line: if one coordinate is known exactly, the nodes of the other one (k,) and the density
            there (k,), per unit length; None otherwise, when densities are per unit area.
        mean_log_density: the mean over true samples, in nats.
    """

    log_density: Callable[[Tensor], Tensor]
    line: tuple[Tensor, Tensor] | None
    mean_log_density: float

    @classmethod
    def of(
        cls, model: Model, observation: Observation, label: int | None = None
    ) -> "ConditionalDensity | None":
        """The density of a model's data, or of one of its classes, given an observation.

        None if the data have no known density, if the observation is exact and not of a single
        coordinate, or if the nodes are too few for the details of the density.
        """
        toy = model.source.density
        prior = None if toy is None else toy.log_density_of(label)
        is_exact = observation.sigma == 0
        mask = observation.mask if is_exact else None
        if prior is None or (is_exact and (mask is None or observation.count != 1)):
            return None

        def joint(x: Tensor) -> Tensor:
            """log p(x, y), (n,); for an exact y, log p(x) with y in place of its coordinate."""
            x = x.double()
            if mask is not None:
                return prior(torch.where(mask, observation.transpose(observation.y[None]), x))
            squares = (observation.residual(x) / observation.sigma).square().sum(1)
            log_unit = math.log(observation.sigma) + 0.5 * math.log(2.0 * math.pi)
            return prior(x) + (-0.5 * squares - observation.count * log_unit)

        axes = _axes(Plane.of(model.source), mask)
        log_p = joint(torch.cartesian_prod(*axes).view(-1, len(axes)).expand(-1, 2))
        weight = math.prod(float(axis[1] - axis[0]) for axis in axes)
        evidence, mean = _normalised(log_p, weight)
        every_other = log_p.view([len(axis) for axis in axes])[(slice(None, None, 2),) * len(axes)]
        coarse, _ = _normalised(every_other.flatten(), 2.0 ** len(axes) * weight)
        if not abs(coarse - evidence) < _RESOLVED:
            return None
        line = (axes[0], (log_p - evidence).exp()) if is_exact else None
        return cls(lambda x: joint(x) - evidence, line, mean)


def _axes(plane: Plane, mask: Tensor | None) -> list[Tensor]:
    """The nodes of the coordinates that an observation leaves unknown, beyond the data, too.

    Args:
        mask: (2,), bool, the coordinates that are known exactly; None if neither is.
    """
    nodes = _SIDE if mask is None else _LINE
    axes = []
    for i in range(2):
        if mask is None or not mask[i]:
            low = float(plane.low[i])
            high = float(plane.high[i])
            margin = _REACH * (high - low)
            axes.append(torch.linspace(low - margin, high + margin, nodes, dtype=torch.float64))
    return axes


def _normalised(log_p: Tensor, weight: float) -> tuple[float, float]:
    """The log of the integral of p, and the mean of log p under p, once p is normalised.

    Args:
        log_p: log p at all nodes.
        weight: the weight of each node in the integral.
    """
    evidence = float(torch.logsumexp(log_p, 0)) + math.log(weight)
    p = (log_p - evidence).exp() * weight
    return evidence, float(torch.where(p > 0, p * (log_p - evidence), 0.0).sum())


def agreement(x: Tensor, observation: Observation, density: ConditionalDensity | None) -> str:
    """A line on how far samples are from an observation and, if known, how probable given it."""
    distance = float(observation.residual(x.double()).square().mean().sqrt())
    line = f"y - H x is {distance:.3g} (root mean square)"
    if density is not None:
        mean = float(density.log_density(x.cpu()).mean())
        line += (
            f"; mean conditional log-density {mean:.3f} nats, of true samples "
            f"{density.mean_log_density:.3f}"
        )
    return line
