"""The one table of metrics and the one of rows. To add either is to add a line, or `cld_core.register` in a plug-in.

The entries of `METRICS` are in the order in which they are listed everywhere. They are names, which are imported when
they are looked up; metric files load no torch.
"""

from collections.abc import Collection, Iterable
from typing import Any

from cld_core.config import registry
from cld_core.errors import UsageError, did_you_mean
from cld_core.imports import resolve

from .definitions import Metric, Quantity, RowKind

_METRICS = {
    "fid": "cld_core.evaluate.metrics.fid:FID",
    "kid": "cld_core.evaluate.metrics.kid:KID",
    "isc": "cld_core.evaluate.metrics.isc:ISC",
    "prc": "cld_core.evaluate.metrics.prc:PRC",
    "classes": "cld_core.evaluate.metrics.classes:CLASSES",
    "w2": "cld_core.evaluate.metrics.w2:W2",
    "density": "cld_core.evaluate.metrics.density:DENSITY",
    "flow-distance": "cld_core.evaluate.metrics.flow_distance:FLOW_DISTANCE",
    "class-law": "cld_core.evaluate.metrics.class_law:CLASS_LAW",
    "elbo": "cld_core.evaluate.metrics.elbo:ELBO",
    "loss": "cld_core.evaluate.metrics.loss:LOSS",
}
_ROWS = {
    "features": RowKind(
        over="samples",
        depends=("sampling", "fid"),
        implementation="cld_core.evaluate.rows.features:FeatureRows",
        version=2,
        of="images",
    ),
    "vectors": RowKind(
        over="samples",
        depends=("sampling",),
        implementation="cld_core.evaluate.rows.vectors:VectorRows",
        of="vectors",
    ),
    "flow": RowKind(
        over="samples",
        depends=("sampling", "flow.rtol", "flow.atol"),
        implementation="cld_core.evaluate.rows.flow:FlowRows",
        most="flow.samples",
        along_flow=True,
    ),
    "elbo": RowKind(over="points", depends=("elbo",), implementation="cld_core.evaluate.rows.elbo:ElboRows"),
    "loss": RowKind(
        over="points", depends=("loss", "objective"), implementation="cld_core.evaluate.rows.loss:LossRows"
    ),
}
METRICS = registry.table("metrics", _METRICS)
ROWS: dict[str, RowKind] = registry.table("rows", _ROWS)


def metric(name: str) -> Metric:
    """The metric of a registered name."""
    registered: Metric = resolve(METRICS[name])
    return registered


def metrics(names: Iterable[str] | None = None) -> list[Metric]:
    """The metrics of these names, in the order of the table; all of them by default."""
    wanted = METRICS.keys() if names is None else {*names}
    return [metric(name) for name in METRICS if name in wanted]


def row_computer(kind: str) -> Any:
    """The class that computes rows of a kind, a `rows.base.RowComputer`. Loads torch."""
    return resolve(ROWS[kind].implementation)


def row_versions(kinds: Iterable[str]) -> dict[str, str]:
    """What shards say about the versions of rows of these kinds; nothing about the first ones."""
    return {f"{kind} version": str(ROWS[kind].version) for kind in kinds if ROWS[kind].version > 1}


def quantities() -> list[tuple[Metric, Quantity]]:
    """All numbers that reports may hold, with the metric whose section they are in."""
    return [(metric, quantity) for metric in metrics() for quantity in metric.quantities]


def quantity(key: str) -> Quantity:
    """The number of this key."""
    return next(quantity for _, quantity in quantities() if quantity.key == key)


def fitting(*, images: bool) -> list[Metric]:
    """The metrics that images, or vectors, can have."""
    of = "images" if images else "vectors"
    return [metric for metric in metrics() if ROWS[metric.rows].of in (None, of)]


def draws_samples(names: Iterable[str]) -> bool:
    """Whether any of these metrics looks at samples, rather than at test data alone."""
    return any(ROWS[metric.rows].over == "samples" for metric in metrics(names))


def parse_metrics(
    text: str | None, option: str = "--eval", listed: Collection[str] = tuple(METRICS)
) -> tuple[str, ...]:
    """The metrics of a comma-separated list, in the order of the table.

    Args:
        option: where the list comes from, for messages.
        listed: those that messages offer.

    Raises:
        UsageError: one is unknown; names the nearest.
    """
    words = [word.strip() for word in (text or "").split(",") if word.strip()]
    known = ", ".join(listed)
    for word in words:
        if word not in METRICS:
            raise UsageError(f"{option}: '{word}' is not a metric; there are: {known}.{did_you_mean(word, listed)}")
    if text is not None and not words:
        raise UsageError(f"{option} names no metric; there are: {known}. Name some, or leave the option out.")
    return tuple(name for name in METRICS if name in words)
