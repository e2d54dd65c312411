"""What `cldctl compare` says: finished results side by side, and what their readers should know."""

import json
from collections.abc import Sequence

from cld_core.errors import NotFoundError
from cld_core.run import RunFolder
from cld_core.run.groups import Group
from cldctl.evals import averages, compare

from .console import err, out
from .evaluations import compared


def compare_runs(runs: Sequence[RunFolder], checkpoint: str, as_json: bool) -> None:
    """Compare runs.

    Raises:
        NotFoundError: one has no results.
        UsageError: these cannot be compared.
    """
    columns = [compare.column(run, checkpoint) for run in runs]
    if as_json:
        print(json.dumps(compare.to_json(columns), indent=1))
        return
    lines = [averages.Line(column.run, {}, (column,)) for column in columns]
    out.print(compared(lines, is_marked=True))
    for text in (*compare.differences(columns), *compare.warnings(columns), compare.rule(columns)):
        if text is not None:
            err.print(text, markup=False)


def compare_groups(chosen: Sequence[Group | RunFolder], checkpoint: str, as_json: bool) -> None:
    """Compare groups, averaged over seeds, and runs beside them.

    Raises:
        NotFoundError: none of the groups has results.
    """
    of_step = "" if checkpoint == "last" else f" of step {checkpoint}"
    lines: list[averages.Line] = []
    missing: list[str] = []
    for one in chosen:
        if isinstance(one, Group):
            found, without = averages.of_group(one, checkpoint)
            lines += found
            missing += without
        else:
            column = compare.column(one, checkpoint)
            lines.append(averages.Line(column.run, {}, (column,)))
    if not lines:
        names = [group.name for group in chosen]
        fix = f"Make some: `cldctl eval {names[0]} --elbo`."
        raise NotFoundError(f"no run of {', '.join(names)} has a finished evaluation{of_step}. {fix}")
    if as_json:
        print(json.dumps(averages.to_json(lines, missing), indent=1))
        return
    out.print(compared(lines))
    for text in (*(f"{name} has no finished evaluation{of_step}" for name in missing), *averages.warnings(lines)):
        err.print(text, markup=False)
    err.print(averages.RULE, markup=False)
