"""Reports of evaluations: while they are current, their numbers for everything that shows them. Loads no torch."""

import contextlib
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from cld_core.checkpoint.files import TOLD_ABOVE, weights_digest
from cld_core.codec import RecordError, Result, from_plain, whole
from cld_core.files import read_object
from cld_core.run import RunFolder
from cld_core.sanitize import one_line

from . import registry
from .registry import Metric
from .request import EvalRequest


class _RowsOf(TypedDict, total=False):
    id: str


@functools.cache
def _layout(metrics: tuple[Metric, ...]) -> Any:
    """The fields of a report that others rely on. What is of another type is left out when it is read."""
    record: Any = TypedDict  # mypy knows none whose fields come from a table.
    fields: dict[str, Any] = {"checkpoint_step": int, "created": float}
    fields["ema"] = record("Average", {"length": float, "error": float}, total=False)
    fields["tuned"] = record("Tuned", {"remark": str | None}, total=False)
    fields["rows"] = dict[str, _RowsOf]
    for metric in metrics:
        names = {name for quantity in metric.quantities for name in (quantity.field, quantity.stderr) if name}
        # These are no results, but shown beside them.
        numbers = dict.fromkeys([*names, "nfe_mean", "true_entropy"], Result | None)
        fields[metric.name] = record(metric.name, numbers, total=False)
    return record("Report", fields, total=False)


def read(folder: Path) -> dict[str, Any]:
    """What the report in an evaluation's folder holds; empty if there is none."""
    with contextlib.suppress(RecordError):
        report: dict[str, Any] = from_plain(_layout(tuple(registry.metrics())), read_object(folder / "report.json"))
        return report
    return {}


def current_report(folder: Path) -> dict[str, Any] | None:
    """The report in an evaluation's folder, unless the run has another checkpoint of that step by now.

    A checkpoint that was cleared away leaves its numbers valid.
    """
    report = read(folder)
    if "checkpoint_step" not in report:
        return None
    checksum = None
    with contextlib.suppress(OSError):
        checksum = weights_digest(RunFolder(folder.parent.parent), report["checkpoint_step"])
    return report if checksum in (None, report.get("checkpoint")) else None


@dataclass(frozen=True)
class Number:
    """A result; None is what the report does not say.

    Attributes:
        n: the number of samples or test points.
        nfe: the mean number of network evaluations behind it.
        lost: the fraction of samples that are not finite, and not part of it.
    """

    value: float
    stderr: float | None = None
    n: int | None = None
    nfe: float | None = None
    lost: float = 0.0


def numbers(report: Mapping[str, Any] | None) -> dict[str, Number]:
    """The results in a report by the `key` of their `Quantity`, in the order of the table of metrics."""
    results = {}
    for metric, quantity in registry.quantities():
        section = (report or {}).get(metric.name) or {}
        if section.get(quantity.field) is not None:
            value = float(section[quantity.field])
            names = quantity.stderr, "nfe_mean"
            error, nfe = (None if (it := section.get(name)) is None else float(it) for name in names)
            n = whole(section.get("n", section.get("samples")))
            lost = (whole(section.get("nonfinite")) or 0) / (whole(section.get("samples")) or 1)
            results[quantity.key] = Number(value, error, n, nfe, lost)
    return results


def remarks(report: Mapping[str, Any] | None) -> list[str]:
    """In words, what readers of the numbers in a report should know, each once."""
    report = report or {}
    average, texts = report.get("ema", {}), [one_line(report.get("tuned", {}).get("remark") or "", 400)]
    if (error := average.get("error", 0.0)) > TOLD_ABOVE and "length" in average:
        profile = f"with a relative error of its profile of {error:.2g}"
        texts.append(f"the average of length {average['length']:g} is made of others, {profile}")
    texts += [remark_on(metric, report[metric.name]) or "" for metric in registry.metrics() if metric.name in report]
    return list(dict.fromkeys(filter(None, texts)))


def remark_on(metric: Metric, section: Mapping[str, Any]) -> str | None:
    """What readers of a section should know; None if there is nothing unusual, or the section is damaged."""
    try:
        return metric.remark(section)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
        return None


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
            values = {"": number.value, " standard error": number.stderr, " NFE": number.nfe}
            known = {what: value for what, value in values.items() if value is not None}
            for what, value in known.items():
                writer.add_scalar(f"evaluation/{quantity.key}{what}{how}", value, step)
            error, took = (f"{known[what]:.3g}" if what in known else "" for what in (" standard error", " NFE"))
            rows.append(f"| {quantity.label} | {number.value:.6g} | {error} | {number.n or ''} | {took} |")
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
