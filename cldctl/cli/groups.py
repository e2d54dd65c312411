"""Pieces of commands that act on a group: `submit --sweep`, `resume GROUP`, `eval GROUP`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cld_core.run import RunFolder
from cld_core.run.groups import Group
from cldctl.hints import command
from cldctl.runs.asked import Asked
from cldctl.show.console import err, out, strong
from cldctl.show.format import keys_differ

from .options import refuse_twice

if TYPE_CHECKING:
    from cld_core.checkpoint.verify import DamagedCheckpoint
    from cld_core.recipe import Recipe
    from cldctl.clusters.base import Cluster
    from cldctl.clusters.records import JobSpec
    from cldctl.runs.cells import Cell
    from cldctl.runs.groups import BegunGroup, WantedGroup
    from cldctl.runs.resume import Continuation


@dataclass(frozen=True, kw_only=True)
class Sweeping(Asked):
    """What somebody typed behind `submit` with ``--sweep``."""

    recipe: str
    sweep: tuple[str, ...]
    name: str | None = None
    cluster: str | None = None
    parallel: int | None = None


def submit_group(asked: Sweeping, root: Path, *, follow: bool, dry_run: bool) -> None:
    """Start the missing runs of a sweep of training runs.

    Raises:
        CldError: nothing was started.
    """
    from cldctl.runs import groups as policy
    from cldctl.runs import home

    wanted = _wanted(asked, root)
    members = wanted.group.runs()
    where = home.chosen(asked.cluster, members[0] if members else None)
    spec = policy.check(wanted, where)
    tell_remark(where, wanted.cells[0].recipe)
    if dry_run:
        _preview(wanted, where, spec)
        return
    begun = policy.start(wanted, where, continues, _started)
    _finish(begun, follow)


def _wanted(asked: Sweeping, root: Path) -> "WantedGroup":
    from cld_core.recipe import load
    from cld_core.run.identity import new_name
    from cldctl.evals.plan import named
    from cldctl.lookup import find_profile, find_recipe
    from cldctl.runs.cells import axes_of, cells_of
    from cldctl.runs.groups import WantedGroup

    axes = axes_of(asked.sweep)
    refuse_twice("--sweep", [axis.key for axis in axes], asked.given)
    file, profile = find_recipe(asked.recipe), find_profile(asked.profile)
    # A recipe may be complete only with the values of a cell: its name is in any of them.
    first = [f"{axis.key}={axis.values[0]}" for axis in axes]
    name = new_name(load(file, [*asked.given, *first], profile).name) if asked.name is None else asked.name
    cells = cells_of(name, axes, file, asked.given, profile)
    for cell in cells:
        with named(_settings(cell.values)):
            given = [*asked.given, *_settings(cell.values)]
            check_plugin(cell.recipe, file, given, profile, _swept_with(cell, cells))
    return WantedGroup(group=Group(root, name), cells=cells, file=file, parallel=asked.parallel, **asked.common())


def _swept_with(cell: "Cell", cells: Sequence["Cell"]) -> list[str]:
    """The values of `data.name` that a sweep over it has with the plug-in of this cell."""
    if "data.name" not in cell.values:
        return []
    plugin = getattr(cell.recipe.data, "plugin", None)
    return [other.recipe.data.name for other in cells if getattr(other.recipe.data, "plugin", None) == plugin]


def _settings(values: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


def resume_group(group: Group, asked: "Continuation", cluster: str | None, follow: bool) -> None:
    """Resume the runs of a group that can be resumed.

    Raises:
        CldError: nothing was started.
    """
    from cldctl.runs import groups as policy
    from cldctl.runs import home

    where = home.chosen(cluster, group.runs()[-1])
    begun = policy.resume(group, asked, where, continues, _started)
    _finish(begun, follow)


def _preview(wanted: "WantedGroup", cluster: "Cluster", spec: "JobSpec") -> None:
    """What would be written and submitted."""
    from cld_core.recipe import dump
    from cldctl.lookup import find_profile
    from cldctl.runs.groups import missing

    def show(text: str) -> None:
        out.print(text, markup=False, no_wrap=True)

    show_differences(wanted.file, wanted.given, find_profile(wanted.profile))
    open_cells = [cell.name for cell in missing(wanted)]
    existing = {run.name for run in wanted.group.runs()}
    show(f"# group: {wanted.group.name}, {len(wanted.cells)} runs in {wanted.group.root}")
    for cell in wanted.cells:
        state = "finished" if cell.name not in open_cells else "exists" if cell.name in existing else "new"
        show(f"#   {cell.name}  {' '.join(f'{key}={value}' for key, value in cell.values.items())}  {state}")
    show(f"# the recipe of {wanted.cells[0].name}\n{dump(wanted.cells[0].recipe)}")
    if open_cells:
        show(cluster.script(spec, 1 if cluster.blocks else len(open_cells)))
    if wanted.metrics:
        show(f"# an evaluation ({', '.join(wanted.metrics)}) of each run, after its training")


def _started(run: RunFolder) -> None:
    err.print(strong("run ", run.name, f" in {run.path}"))


def continues(
    run: RunFolder, recipe: "Recipe", start: int, damaged: "Sequence[DamagedCheckpoint]", warnings: Sequence[str]
) -> None:
    """Say from where a run continues, with remarks about that."""
    for text in (*(entry.skipped for entry in damaged), *warnings):
        err.print(text, markup=False, style="yellow")
    err.print(strong("resuming ", run.name, f" from step {start} of {recipe.train.steps}"))


def _finish(begun: "BegunGroup", follow: bool) -> None:
    """Say what was done about each run and what to type next; stay with the group if asked to."""
    group, cluster = begun.group, begun.cluster
    out.print(group.name, markup=False)
    done = {
        "new": begun.new,
        "resumed": begun.resumed,
        "running already": begun.alive,
        "finished already": begun.finished,
        "not started": [entry.run.name for entry in begun.skipped if entry.run.name not in begun.jobs],
    }
    counted = ", ".join(f"{len(entries)} {what}" for what, entries in done.items() if entries)
    err.print(strong(f"{len(begun.runs)} runs of the group ", group.name, f": {counted}"))
    if begun.jobs and not cluster.blocks:
        tell_left_out(next(run for run in begun.runs if run.name in begun.jobs))
        ids = dict.fromkeys(job.job_id.partition("_")[0] for job in begun.jobs.values())
        err.print(f"job {', '.join(ids)} ({cluster.name})")
        if chained := sum(map(len, begun.evaluations.values())):
            err.print(f"then an evaluation of {'each' if chained == len(begun.jobs) else chained}")
    for entry in begun.skipped:
        err.failure(f"{entry.run.name}: {entry.reason}", style="red")
    code = max((entry.exit_code for entry in begun.skipped), default=0)
    if follow or cluster.blocks:
        from cldctl.show.follow import follow_group

        raise typer.Exit(follow_group(group, begun.runs, begun.evaluations) or code)
    err.print("next:")
    evaluated = any(begun.evaluations.values()) or any(run.evaluation_names() for run in begun.runs)
    for text in (f"status {group.name}", _evaluation(group, evaluated), f"cancel {group.name}"):
        err.print(f"  {hint(text, group)}", markup=False)
    if code:
        raise typer.Exit(code)


def show_differences(file: Path, given: Sequence[str], profile: Path | None) -> None:
    """Comments before the YAML: what differs from the recipe that ``file`` extends, and what has set it."""
    from cld_core.errors import RecipeError
    from cld_core.recipe.differences import from_base
    from cldctl.lookup import called

    try:
        base, found = from_base(file, given, profile)
    except RecipeError:
        return  # The recipe is complete only with the values of a sweep.
    if base is None:
        return
    out.print(f"# {keys_differ(len(found))} from {called(base)}:" if found else f"# same as {called(base)}")
    for entry in found:
        before = "" if entry.before is None else f" instead of {entry.before}"
        out.print(f"#   {entry.key}: {entry.value}{before}  ({entry.place})")


def check_plugin(
    recipe: "Recipe", file: Path, given: Sequence[str], profile: Path | None, swept: Sequence[str] = ()
) -> None:
    """Refuse a recipe whose plug-in does not register its data; says what takes so long.

    Args:
        given: the overrides that, with file and profile, make the recipe.
        swept: see `plugins.require_registered`.

    Raises:
        RecipeError: names what has set the wrong value.
    """
    from cld_core.recipe.loading import load_with_places
    from cldctl.lookup import called
    from cldctl.runs.plugins import require_registered

    if getattr(recipe.data, "plugin", None) is None:
        return
    places = load_with_places(file, given, profile)[1]

    def say(text: str) -> None:
        err.print(text, markup=False, style="yellow")

    with err.status("importing the plug-in"):
        require_registered(recipe, lambda key: places.get(key) or called(file), say, swept=swept)


def tell_remark(cluster: "Cluster", recipe: "Recipe") -> None:
    """Print remarks about jobs of this size before they begin."""
    if (text := cluster.remark_on(recipe.cluster)) is not None:
        err.print(text, style="yellow")


def tell_left_out(run: RunFolder) -> None:
    """Say which Python files the jobs of a run will miss."""
    from cldctl.runs.snapshot import left_out_code

    if (line := left_out_code(run)) is not None:
        err.print(line, markup=False, style="yellow")


def _evaluation(group: Group, evaluated: bool) -> str:
    """The command that evaluates a group, or shows the requested results."""
    return f"compare {group.name}" if evaluated else f"eval {group.name} --elbo"


def hint(text: str, group: Group) -> str:
    """A command to type next about a group."""
    return command(text, RunFolder(group.root / group.name))


def for_each(runs: Sequence[RunFolder], act: Callable[[RunFolder], None]) -> int:
    """Call a function for every run of a group, even if it fails for some; returns the exit code."""
    from cld_core.errors import CldError

    code = 0
    for run in runs:
        try:
            act(run)
        except CldError as error:
            err.failure(f"{run.name}: {error}", style="red")
            code = code or error.exit_code
    return code
