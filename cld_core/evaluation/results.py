"""The numbers in a report, listed once for all who show them: tables, comparisons, TensorBoard. Loads no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """Where a number stands in `report.json`, and how people read it.

    ``request`` is the metric that has to be asked for to get it.
    """

    key: str
    request: str
    field: str
    label: str
    stderr: str | None = None
    larger_is_better: bool = False
    digits: int = 3


METRICS = (
    Metric("fid", "fid", "value", "FID"),
    Metric("kid", "kid", "value", "KID", digits=5),
    Metric("isc", "isc", "value", "Inception Score", larger_is_better=True),
    Metric("precision", "prc", "precision", "precision", larger_is_better=True),
    Metric("recall", "prc", "recall", "recall", larger_is_better=True),
    Metric("bpd", "elbo", "bpd", "bits/dim", stderr="stderr"),
    Metric("nll", "elbo", "nll", "NLL bound, nats", stderr="stderr"),
    Metric("loss", "loss", "value", "test loss", stderr="stderr"),
)
BY_KEY = {metric.key: metric for metric in METRICS}


@dataclass(frozen=True)
class Number:
    """A result and its standard error; None where it has none."""

    value: float
    stderr: float | None = None


def numbers(report: Mapping[str, Any] | None) -> dict[str, Number]:
    """The results that a report holds, by `Metric.key`, in the order of `METRICS`."""
    found = {}
    for metric in METRICS:
        section = (report or {}).get(metric.request) or {}
        if section.get(metric.field) is not None:
            error = section.get(metric.stderr) if metric.stderr else None
            found[metric.key] = Number(float(section[metric.field]), None if error is None else float(error))
    return found


def evaluations_of_network(report: Mapping[str, Any] | None, key: str) -> float | None:
    """The mean number of network evaluations (NFE) behind the result ``key``; None where it says none."""
    section = (report or {}).get(BY_KEY[key].request) or {}
    nfe = section.get("nfe_mean")
    return None if nfe is None else float(nfe)
