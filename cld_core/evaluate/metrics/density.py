"""The mean true log-density of samples of toy data, in nats; that of true samples is minus the entropy."""

import math
from typing import TYPE_CHECKING, Any

from cld_core.errors import UsageError
from cld_core.evaluate.definitions import Metric, Quantity

from .common import about_drawn, finite, remark, sampler

if TYPE_CHECKING:
    from cld_core.evaluate.joined import Joined


def _section(joined: "Joined") -> dict[str, Any]:
    import torch

    from cld_core.evaluate.moments import standard_error

    x, density = finite(joined), joined.model.source.density
    if density is None or density.log_density is None:
        name = joined.model.recipe.data.name
        raise UsageError(f"--density: the density of data.name={name} is not known. Leave it out, or register it.")
    values = density.log_density(torch.from_numpy(x)).numpy()
    truth = {} if density.entropy is None else {"true": -density.entropy()}
    value = float(values.mean()) if len(values) else -math.inf
    return {"value": value, "stderr": standard_error(values), **truth, **about_drawn(joined)}


DENSITY = Metric(
    name="density",
    help="Mean true log-density of the samples (toy data).",
    rows="vectors",
    same=("samples",),
    quantities=(Quantity(key="density", label="log-density, nats", stderr="stderr", larger_is_better=True),),
    section=_section,
    how=sampler,
    remark=remark,
)
