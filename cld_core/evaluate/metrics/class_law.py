"""Samples of each class of labelled toy data against the law of that class, which is known.

If a label is a function of x, then p(x | label) is p(x) / P(label) where x has this label, and 0 elsewhere.
"""

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cld_core.errors import UsageError
from cld_core.evaluate.definitions import Metric, Quantity

from .common import about_drawn, remark, sampler

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from cld_core.evaluate.joined import Joined

# Test points that are searched for those of a class, in multiples of the samples.
_FIRST, _MOST = 2, 64


def _section(joined: "Joined") -> dict[str, Any]:
    """Of each class, and means over the classes; of the density, over all samples that lie in their class."""
    import numpy as np
    import torch

    from cld_core.data.source import labelled
    from cld_core.evaluate.moments import standard_error
    from cld_core.evaluate.wasserstein import from_sets

    model, x, good = joined.model, joined.arrays["x"], ~joined.arrays["nonfinite"]
    assert model.classes is not None, "only class-conditional models are asked"
    label, density = np.array(model.classes.drawn(0, len(x))), model.source.density
    assert density is not None, "only toy data are asked"
    assert density.label is not None, "toy data with classes have labels"
    shares, log_density = model.classes.shares, density.log_density
    sets = _TrueSets(labelled(model.source), joined.request.w2.sets, len(x))
    by_class: dict[str, dict[str, Any]] = {}
    densities = [np.zeros(0)]
    for number, name in enumerate(model.classes.names):
        asked, mine = label == number, torch.from_numpy(x[good & (label == number)])
        if not asked.any():
            continue
        inside = mine[density.label(mine) == number]
        about = {"samples": int(asked.sum()), "accuracy": len(inside) / int(asked.sum())}
        # Without samples, the true sets are of one point.
        true = sets.of(number, max(len(mine), 1))
        value, between = from_sets(mine, true, joined.request.w2.directions)
        by_class[name] = {"w2": value, "floor": float(between.mean()), **about}
        if log_density is not None and len(inside):
            values = log_density(inside).numpy() - math.log(shares[number])
            by_class[name] |= {"density": float(values.mean()), "density_stderr": standard_error(values)}
            densities.append(values)
    means = {key: float(np.mean([one[key] for one in by_class.values()])) for key in ("w2", "floor", "accuracy")}
    return {
        **means,
        **_densities(np.concatenate(densities), joined),
        "classes": by_class,
        **asdict(joined.request.w2),
        **about_drawn(joined),
    }


def _densities(values: "np.ndarray", joined: "Joined") -> dict[str, Any]:
    """The mean log-density given the label, and that of true samples: minus the entropy given the label."""
    from cld_core.evaluate.moments import standard_error

    toy, classes = joined.model.source.density, joined.model.classes
    assert toy is not None, "the section looks"
    assert classes is not None, "the section looks"
    if toy.log_density is None:
        return {}
    value = float(values.mean()) if len(values) else -math.inf
    truth = {} if toy.entropy is None else {"density_true": classes.entropy - toy.entropy()}
    return {"density": value, "density_stderr": standard_error(values), **truth}


class _TrueSets:
    """Sets of true points of each class: the first ones of the test data with its label.

    Args:
        samples: so many test points have about as many of a class as samples that are drawn have.
    """

    def __init__(self, source: Any, sets: int, samples: int) -> None:
        self._source, self._sets, self._samples = source, sets, samples
        self._known: dict[int, tuple[Tensor, Tensor]] = {}

    def of(self, label: int, n: int) -> "list[Tensor]":
        """So many points (n, 2) of a class in each set.

        Raises:
            UsageError: the data have hardly any.
        """
        found, times = [], _FIRST
        for number in range(self._sets):
            while len(points := self._with(label, number, times)) < n:
                if (times := 2 * times) > _MOST:
                    searched = f"of {_MOST * self._samples:,} test points, {len(points)} are of class {label}"
                    raise UsageError(f"--class-law: {searched}. Correct the `label` or the `classes` of the toy data.")
            found.append(points[:n])
        return found

    def _with(self, label: int, number: int, times: int) -> "Tensor":
        wanted = times * self._samples
        if number not in self._known or len(self._known[number][0]) < wanted:
            x = self._source.dequantised_test_data(number, 0, wanted)
            self._known[number] = x, self._source.test_labels(number, 0, wanted)
        x, labels = self._known[number]
        return x[labels == label]


CLASS_LAW = Metric(
    name="class-law",
    help="Sliced W2 and log-density of the samples of each class against its true distribution (labelled toy data).",
    rows="vectors",
    depends=("w2",),
    same=("samples", "w2"),
    needs_labels=True,
    quantities=(
        Quantity(key="class_w2", field="w2", label="sliced W2 in a class", digits=4),
        Quantity(
            key="class_w2_floor", field="floor", label="W2 of two true sets of a class", digits=4, is_reference=True
        ),
        Quantity(
            key="class_density",
            field="density",
            stderr="density_stderr",
            label="log-density given the label, nats",
            larger_is_better=True,
        ),
        Quantity(
            key="class_accuracy", field="accuracy", label="samples in their class", digits=4, larger_is_better=True
        ),
    ),
    section=_section,
    how=sampler,
    remark=remark,
)
