"""`cldctl eval --compare`: runs as columns."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from cld_core.evaluation.definitions import Quantity
from cldctl.evals.compare import COUNTS, Column, quantities_of, verdict

from .fitting import plain_table
from .format import count
from .tables import result_text
from .wrap import Wrapped

_STYLE = {"better": "bold green", "worse": "bold red", "same": "", "": ""}
_MARK = {"better": "better", "worse": "worse", "same": "", "": ""}


def compared(columns: Sequence[Column]) -> Table:
    """Results of runs side by side; those that differ from the first by more than the errors are marked."""
    table = plain_table()
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(Wrapped(column.run), justify="right")
    table.add_row("step", *(count(column.step) for column in columns))
    table.add_row("steps of the run", *(count(column.steps) for column in columns))
    for quantity in quantities_of(columns):
        table.add_row(quantity.label, *(_cell(columns[0], column, quantity) for column in columns))
        table.add_row("  of", *(_of(column, quantity.key) for column in columns))
        table.add_row("  how", *(_how(column, quantity.key) for column in columns))
    return table


def _of(column: Column, key: str) -> Text:
    question = column.results[key].question if key in column.results else {}
    counts = [f"{question[name]:,} {name}" for name in COUNTS if name in question]
    return Text(counts[0] if counts else "-", style="dim")


def _how(column: Column, key: str) -> Text:
    if key not in column.results:
        return Text("-")
    result = column.results[key]
    return Text(result.how + ("" if result.nfe is None else f", {result.nfe:.0f} NFE"), style="dim")


def _cell(first: Column, column: Column, quantity: Quantity) -> Text:
    key = quantity.key
    if key not in column.results:
        return Text("-")
    number = column.results[key].number
    text = result_text(quantity, number.value, number.stderr)
    if column is first or key not in first.results:
        return Text(text)
    mark = verdict(quantity, first.results[key], column.results[key])
    return Text(f"{text} {_MARK[mark]}".rstrip(), style=_STYLE[mark])
