"""`cldctl compare GROUP`: a line for each cell of a sweep of trainings, averaged over seeds."""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from cld_core.evaluation.definitions import Quantity
from cldctl.evals.averages import Line
from cldctl.evals.compare import COUNTS, quantities_of

from .fitting import fitted
from .format import count

_LEFT_OUT = ("how",)


def averaged(lines: Sequence[Line]) -> RenderableType:
    """Results of groups, and of runs beside them."""
    keys = list(dict.fromkeys(key for line in lines for key in line.cell))
    heads = {key: key.rpartition(".")[2] for key in keys}
    if len(set(heads.values())) < len(keys):
        heads = {key: key for key in keys}
    quantities = quantities_of([column for line in lines for column in line.columns])
    columns: dict[str, list[RenderableType]] = {
        "group or run": [line.name for line in lines],
        **{head: [line.cell.get(key, "-") for line in lines] for key, head in heads.items()},
        "step": [count(line.step) for line in lines],
        "runs": [str(len(line.columns)) for line in lines],
        **{it.label: [average_text(line, it) for line in lines] for it in quantities},
        "of": [_of(line, quantities) for line in lines],
        "how": [_how(line, quantities) for line in lines],
    }
    right = (*heads.values(), "step", "runs", *(quantity.label for quantity in quantities))
    return fitted(columns, _LEFT_OUT, right, names="group or run")


def average_text(line: Line, quantity: Quantity) -> str:
    """A mean with its error, and of how many runs it is if not of all of the line; "-" if there is none."""
    average, runs = line.average(quantity.key), len(line.columns)
    if average is None:
        return "-"
    error = average.spread if average.n > 1 else average.stderr
    text = f"{average.mean:.{quantity.digits}f}" + ("" if error is None else f" ± {error:.{quantity.digits}f}")
    return text if average.n == runs else f"{text} ({average.n} run{'' if average.n == 1 else 's'})"


def _of(line: Line, quantities: Sequence[Quantity]) -> Text:
    questions = [average.one.question for it in quantities if (average := line.average(it.key)) is not None]
    texts = [f"{question[name]:,} {name}" for question in questions for name in COUNTS if name in question]
    return Text(", ".join(dict.fromkeys(texts)) or "-", style="dim")


def _how(line: Line, quantities: Sequence[Quantity]) -> Text:
    texts = [average.one.how for it in quantities if (average := line.average(it.key)) is not None]
    return Text("; ".join(dict.fromkeys(texts)) or "-", style="dim")
