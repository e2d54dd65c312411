"""What TensorBoard shows of a finished evaluation, in a file of its own: the training's belongs to the training."""

from collections.abc import Mapping
from typing import Any

from cld_core.run import RunFolder

from . import registry
from .definitions import Metric
from .report_numbers import Number, network_evaluations, numbers
from .request import EvalRequest


def write(run: RunFolder, request: EvalRequest, report: Mapping[str, Any]) -> None:
    """Write the results of a report: for the same settings, one curve over the steps of checkpoints."""
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
