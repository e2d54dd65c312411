"""`cldctl compare`: finished results of runs and groups side by side."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cld_core.errors import NotFoundError, UsageError
from cld_core.run.groups import Group
from cldctl.show.console import err, out

from . import completing
from .options import RunsDir, find_run, group_named, runs_dir

if TYPE_CHECKING:
    from cldctl.evals.averages import Line


def compare(
    names: Annotated[
        list[str],
        typer.Argument(metavar="RUN | GROUP", help="Two or more runs, or groups.", autocompletion=completing.runs),
    ],
    checkpoint: Annotated[
        str,
        typer.Option(
            metavar="last|STEP",
            help="The step whose results are compared; last: the newest that has some.",
            autocompletion=completing.checkpoints,
        ),
    ] = "last",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    directory: RunsDir = None,
) -> None:
    """Show finished results side by side; of groups, mean and standard deviation over seeds.

    Example: cldctl compare toy-0102-101112-ab12 toy-0102-101530-cd34
    """
    show(names, checkpoint, as_json, runs_dir(directory))


def show(names: Sequence[str], checkpoint: str, as_json: bool, root: Path) -> None:
    """Compare the runs or groups with these names.

    Raises:
        NotFoundError: there is no such run, or it has no results.
        UsageError: these cannot be compared.
    """
    if checkpoint == "all":
        raise UsageError("one checkpoint of each run can be compared: --checkpoint last or STEP.")
    groups = {name: group for name in dict.fromkeys(names) if (group := group_named(name, root)) is not None}
    if groups:
        _show_groups(names, groups, checkpoint, as_json, root)
    elif len(names) < 2:
        run = find_run(names[0], root)
        raise UsageError(f"{run.name} is one run: compare takes a group, or two or more runs.")
    else:
        _show_runs(names, checkpoint, as_json, root)


def _show_runs(names: Sequence[str], checkpoint: str, as_json: bool, root: Path) -> None:
    from cldctl.evals import averages, compare
    from cldctl.show.evaluations import compared

    columns = [compare.column(find_run(name, root), checkpoint) for name in names]
    if as_json:
        typer.echo(json.dumps(compare.to_json(columns), indent=1))
        return
    lines = [averages.Line(column.run, {}, (column,)) for column in columns]
    out.print(compared(lines, is_marked=True))
    for text in (*compare.differences(columns), *compare.warnings(columns)):
        err.print(text, markup=False)
    if (rule := compare.rule(columns)) is not None:
        err.print(rule, markup=False)


def _show_groups(names: Sequence[str], groups: dict[str, Group], checkpoint: str, as_json: bool, root: Path) -> None:
    from cldctl.evals import averages, compare
    from cldctl.show.evaluations import compared

    lines: list[Line] = []
    missing: list[str] = []
    for name in dict.fromkeys(names):
        if name in groups:
            found, without = averages.of_group(groups[name], checkpoint)
            lines += found
            missing += without
        else:
            column = compare.column(find_run(name, root), checkpoint)
            lines.append(averages.Line(column.run, {}, (column,)))
    if not lines:
        some = ", ".join(groups)
        fix = f"Make some: `cldctl eval {next(iter(groups))} --elbo`."
        raise NotFoundError(f"no run of {some} has a finished evaluation{_of_step(checkpoint)}. {fix}")
    if as_json:
        typer.echo(json.dumps(averages.to_json(lines, missing), indent=1))
        return
    out.print(compared(lines))
    for name in missing:
        err.print(f"{name} has no finished evaluation{_of_step(checkpoint)}", markup=False)
    for warning in averages.warnings(lines):
        err.print(warning, markup=False)
    err.print(averages.RULE, markup=False)


def _of_step(checkpoint: str) -> str:
    return "" if checkpoint == "last" else f" of step {checkpoint}"
