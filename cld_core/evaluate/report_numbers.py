"""The numbers in reports, for everything that shows them. Loads no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cld_core.checkpoint.files import TOLD_ABOVE
from cld_core.codec import real, text, whole
from cld_core.sanitize import one_line

from . import registry
from .definitions import Metric


@dataclass(frozen=True)
class Number:
    """A result, its standard error and the number ``n`` of samples or test points; None if the report has none."""

    value: float
    stderr: float | None = None
    n: int | None = None


def numbers(report: Mapping[str, Any] | None) -> dict[str, Number]:
    """The results in a report by the `key` of their `Quantity`, in the order of the table of metrics."""
    results = {}
    for metric, quantity in registry.quantities():
        section = (report or {}).get(metric.name) or {}
        if section.get(quantity.field) is not None:
            error = section.get(quantity.stderr) if quantity.stderr else None
            value = float(section[quantity.field])
            n = whole(section.get("n", section.get("samples")))
            results[quantity.key] = Number(value, None if error is None else float(error), n)
    return results


def remarks(report: Mapping[str, Any] | None) -> list[str]:
    """In words, what readers of the numbers in a report should know, each once."""
    sections = [(metric, (report or {}).get(metric.name)) for metric in registry.metrics()]
    texts = [_remark_on_average((report or {}).get("ema")), _remark_on_solution((report or {}).get("tuned"))]
    texts += [remark_on(metric, section) for metric, section in sections if section]
    return list(dict.fromkeys(text for text in texts if text is not None))


def _remark_on_average(section: Any) -> str | None:
    """What readers should know of an average that was made of others (`cld_core.averages`)."""
    length, error = (real(section.get(name)) if isinstance(section, dict) else None for name in ("length", "error"))
    if length is None or error is None or error <= TOLD_ABOVE:
        return None
    return f"the average of length {length:g} is made of others, with a relative error of its profile of {error:.2g}"


def _remark_on_solution(section: Any) -> str | None:
    """How the network differs from the one that its tuned sampler was fitted to."""
    remark = text(section.get("remark")) if isinstance(section, dict) else None
    return one_line(remark, 400) if remark else None


def remark_on(metric: Metric, section: Mapping[str, Any]) -> str | None:
    """What readers of a section should know; None if there is nothing unusual, or the section is damaged."""
    try:
        return metric.remark(section)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
        return None


def network_evaluations(report: Mapping[str, Any] | None, key: str) -> float | None:
    """The mean number of network evaluations (NFE) behind a result; None if the report does not say."""
    nfe = _section_of(report, key).get("nfe_mean")
    return None if nfe is None else float(nfe)


def nonfinite_share(report: Mapping[str, Any] | None, key: str) -> float:
    """The fraction of the samples behind a result that are not finite; 0 if the report does not say."""
    section = _section_of(report, key)
    return (whole(section.get("nonfinite")) or 0) / (whole(section.get("samples")) or 1)


def _section_of(report: Mapping[str, Any] | None, key: str) -> Mapping[str, Any]:
    name = next(metric.name for metric, quantity in registry.quantities() if quantity.key == key)
    return (report or {}).get(name) or {}
