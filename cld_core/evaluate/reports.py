"""Reports of evaluations: while they are current, their numbers for everything that shows them. Loads no torch."""

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cld_core.checkpoint.files import TOLD_ABOVE, weights_digest
from cld_core.codec import real, text, whole
from cld_core.files import read_object
from cld_core.run import RunFolder
from cld_core.sanitize import one_line

from . import registry
from .registry import Metric
from .request import EvalRequest

# Numbers of a section that are no results, but shown beside them.
_NUMBERS = frozenset({"nfe_mean", "true_entropy"})


def current_report(folder: Path) -> dict[str, Any] | None:
    """The report in an evaluation's folder, unless the run has another checkpoint of that step by now.

    A checkpoint that was cleared away leaves its numbers valid.
    """
    report = _typed(read_object(folder / "report.json"))
    if "checkpoint_step" not in report:
        return None
    checksum = None
    with contextlib.suppress(OSError):
        checksum = weights_digest(RunFolder(folder.parent.parent), report["checkpoint_step"])
    return report if checksum in (None, report.get("checkpoint")) else None


def _typed(report: dict[str, Any]) -> dict[str, Any]:
    """A report without the sections, and the numbers of sections, that have another type than they should."""
    names = [metric.name for metric in registry.metrics()]
    typed = {name: value for name, value in report.items() if name not in names or isinstance(value, dict)}
    for name in names:
        if name in typed:
            numbers = _NUMBERS.union(
                *((quantity.field, quantity.stderr) for quantity in registry.metric(name).quantities)
            )
            typed[name] = {key: value for key, value in typed[name].items() if key not in numbers or _is_number(value)}
    kept = {"checkpoint_step": whole, "created": real}
    return {name: value for name, value in typed.items() if name not in kept or kept[name](value) is not None}


def _is_number(value: Any) -> bool:
    """Whether it is None, a number that fits a float, or one that is not finite: that is a result, too."""
    return value is None or real(value) is not None or (isinstance(value, float) and not math.isfinite(value))


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


def to_tensorboard(run: RunFolder, request: EvalRequest, report: Mapping[str, Any]) -> None:
    """Show results in TensorBoard, in a file of their own: for the same settings, one curve over the steps."""
    from torch.utils.tensorboard import SummaryWriter

    step, rows = request.checkpoint_step, []
    found = numbers(report)
    with SummaryWriter(str(run.tensorboard / f"eval-{request.settings}")) as writer:
        for metric, quantity in registry.quantities():
            if (number := found.get(quantity.key)) is None:
                continue
            how = _how(request, metric, number)
            writer.add_scalar(f"evaluation/{quantity.key}{how}", number.value, step)
            if number.stderr is not None:
                writer.add_scalar(f"evaluation/{quantity.key} standard error{how}", number.stderr, step)
            nfe = network_evaluations(report, quantity.key)
            if nfe is not None:
                writer.add_scalar(f"evaluation/{quantity.key} NFE{how}", nfe, step)
            rows.append(_row(quantity.label, number, nfe))
        table = "\n".join(["| result | value | standard error | n | NFE |", "| -- | -- | -- | -- | -- |", *rows])
        writer.add_text("evaluation/results", f"{request.id}\n\n{table}", step)


def _how(request: EvalRequest, metric: Metric, number: Number) -> str:
    """In brackets, what sets a result apart from others of its kind: how it was sampled, and over how many examples."""
    parts = [request.ema.words] if request.ema.words else []
    if registry.ROWS[metric.rows].over == "samples":
        sampling = request.sampling
        parts.append(sampling.method)
        # An adaptive solver takes as many as it needs, and at each step others.
        if (nfe := getattr(sampling, "nfe", None)) is not None:
            parts.append(f"{nfe} NFE")
    if number.n is not None:
        parts.append(f"n={number.n}")
    return f" ({', '.join(parts)})" if parts else ""


def _row(label: str, number: Number, nfe: float | None) -> str:
    error = "" if number.stderr is None else f"{number.stderr:.3g}"
    cells = [label, f"{number.value:.6g}", error, str(number.n or ""), "" if nfe is None else f"{nfe:.0f}"]
    return f"| {' | '.join(cells)} |"
