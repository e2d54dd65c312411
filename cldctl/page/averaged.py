"""The results of a group of runs, averaged over seeds."""

from cld_core.errors import CldError
from cld_core.run.groups import Group
from cld_core.texts import one_line
from cldctl.evals import averages
from cldctl.evals.compare import quantities_of
from cldctl.ui.averaged import average_text
from cldctl.ui.format import count

from .table import Table


def table(group: Group) -> Table | None:
    """A line for each choice of the other keys, as `cldctl compare` has it; None if no run has results."""
    try:
        lines, _ = averages.of_group(group)
    except (CldError, OSError):
        # One of its runs is damaged, which its own line says.
        return None
    if not lines:
        return None
    keys = list(dict.fromkeys(key for line in lines for key in line.cell))
    quantities = quantities_of([column for line in lines for column in line.columns])
    labels = [it.label for it in quantities]
    rows = [
        [
            line.name,
            *(one_line(line.cell.get(key, "-"), 60) for key in keys),
            count(line.step),
            str(len(line.columns)),
            *(average_text(line, it) for it in quantities),
        ]
        for line in lines
    ]
    return Table(
        caption=averages.RULE[:1].upper() + averages.RULE[1:],
        headings=["group", *keys, "step", "runs", *labels],
        rows=rows,
        right=frozenset({*keys, "step", "runs", *labels}),
    )
