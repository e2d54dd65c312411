"""Arguments and options that several commands share, and what they mean."""

import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from typer import Argument, Option

from cld_core.errors import NotFoundError, UsageError
from cldctl.show.console import err, listed

if TYPE_CHECKING:
    from cld_core.run import RunFolder
    from cld_core.run.groups import Group


def _runs_dir(context: typer.Context, option: Path | None) -> Path | None:
    """The folder of the runs; while a shell completes a word, only what the option names."""
    if option is not None or context.resilient_parsing:
        return option
    from cldctl import config

    return config.runs_dir()


# Objects of a command.
RUN = Argument(None, metavar="RUN", help="A run's name or folder; default: the newest run.")
RUNS = Argument(..., metavar="RUN | GROUP", help="Names or folders of runs, or groups.")
RUNS_DIR = Option(
    None,
    "--runs-dir",
    callback=_runs_dir,
    help="Folder of the runs; default: $CLDCTL_RUNS, that of the config file, else runs/.",
)
RECIPE = Argument(
    ..., metavar="RECIPE", help="A recipe file, or the name of one that `cldctl recipes` lists."
)
OVERRIDES = Argument(
    None, metavar="KEY=VALUE", help="Recipe keys to change; `cldctl explain` lists them."
)
CHECKPOINT = Option("last", metavar="last|STEP", help="Which checkpoint.")

# How a command works.
CLUSTER = Option(
    None,
    metavar="CLUSTER",
    help="Where to run, for example local or debug; default: $CLDCTL_CLUSTER, that of the config "
    "file, slurm if a cluster is configured, else local.",
)
CLUSTER_OF_RUN = Option(
    None, metavar="CLUSTER", help="Where to run; default: the run's own cluster."
)
PROFILE = Option(
    None,
    help="File or name of settings for jobs of this cluster; default: $CLDCTL_PROFILE, else that "
    "of the config file.",
)
PROFILE_OF_RUN = Option(
    None, help="File or name of settings for jobs of this cluster; default: those of the run."
)
NEW_NAME = Option(None, "--name", help="Name of the run; default: the recipe's and a suffix.")
FOLLOW = Option(False, "--follow", "-f", help="Stay and show the progress until the end.")
SHARDS = Option(
    None,
    min=1,
    help="Number of shards, at most 10,000 and one per sample or point; default: one per process.",
)
MAX_PARALLEL = Option(None, min=1, help="Tasks that may run at once.")
SEED = Option(0, metavar="N", min=0, max=2**63 - 1, help="Seed of the noise.")
ALLOW_PLUGIN = Option(False, help="Run plug-ins and hooks of a run that others can write to.")
YES = Option(False, "--yes", "-y", help="Do not ask.")
AS_JSON = Option(False, "--json", help="One JSON document on stdout.")

# Which runs are shown.
STATE = Option(
    None,
    metavar="S[,S]",
    help="Only runs in these states: RUNNING, REQUEUED, PENDING, FAILED, LOST, STOPPED, "
    "CANCELLED, FINISHED.",
)
SINCE = Option(
    None,
    metavar="DURATION|DATE",
    help="Only runs that are alive or changed since: 12h, 7d, 2026-11-01.",
)
TAGS = Option(None, "--tag", metavar="T", help="Only runs with this tag.")
USER = Option(None, metavar="U", help="Only runs that this user submitted.")
GROUP = Option(None, metavar="G", help="Only runs that were submitted as this group.")


def find_run(name: str | None, root: Path) -> "RunFolder":
    """The run with this name or path, or the newest one, whose name is printed on stderr.

    The beginning of a name is enough if it is that of one run only, whose name is printed then.

    Raises:
        NotFoundError: there is no such run.
        FormatError: it has a format that this version of cldctl does not read.
        UsageError: several names begin like that.
    """
    from cld_core.run import RunFolder
    from cldctl.runs.index import Index

    if name is not None:
        return RunFolder.open(name if "/" in name else root / _whole_name(name, root))
    newest = Index(root).newest()
    if newest is None:
        raise NotFoundError(
            f"there are no runs in {root.absolute()}. Start one: `cldctl submit toy_demo`."
        )
    err.print(f"run: {newest.name} (the newest)", style="dim")
    return RunFolder.open(newest.path)


def _whole_name(name: str, root: Path) -> str:
    """The name of the one run that begins with ``name``; ``name`` itself if it is one, or none."""
    from cld_core.run import RunFolder
    from cld_core.run.folder import runs_beginning
    from cld_core.run.groups import find_group

    if not name or RunFolder(root / name).exists:
        return name
    group = find_group(root, name)
    if group is not None and len(members := group.runs()) > 1:
        raise UsageError(
            f"'{name}' is a group of {len(members)} runs: {listed([run.name for run in members])}. "
            "Name one of them."
        )
    names = sorted(run.name for run in runs_beginning(root, name))
    if len(names) > 1:
        raise UsageError(
            f"'{name}' is the beginning of {len(names)} runs: {listed(names)}. Write more of the "
            f"name."
        )
    if names:
        err.print(f"run: {names[0]}", style="dim")
    return names[0] if names else name


def group_named(name: str | None, root: Path) -> "Group | None":
    """The group with this name; None if there is none, or if a run has this name, too."""
    from cld_core.run import RunFolder
    from cld_core.run.groups import find_group

    group = None if name is None or "/" in name else find_group(root, name)
    if group is not None and RunFolder(root / group.name).exists:
        err.print(f"{name} names a run and a group; the run is meant", style="yellow")
        return None
    return group


def find_all(
    names: Iterable[str], root: Path, *, whole: bool = False, damaged: bool = False
) -> "list[RunFolder | Group]":
    """The runs and groups that names and paths mean, each once.

    Args:
        whole: the beginning of a name is not enough: the command does not ask, and a later run may
            have the same beginning.
        damaged: runs with a lost identity can be named, too, by their whole name.

    Raises:
        NotFoundError: there is no such run.
        FormatError: one has a format that this version of cldctl does not read.
        UsageError: a name is not whole.
    """
    from cld_core.run.folder import meant

    entries: dict[Path, RunFolder | Group] = {}
    for name in names:
        if (group := group_named(name, root)) is not None:
            entries[group.path] = group
            continue
        run = meant(name, root)
        if not (damaged and name and run.unreadable is None and run.exists and run.is_damaged):
            run = find_run(name, root)
        if whole and "/" not in name and run.name != name:
            raise UsageError(
                f"'{name}' is not the whole name of {run.name}. Write it out, or leave out --yes."
            )
        entries[run.path] = run
    return list(entries.values())


def runs_of(entries: "Iterable[RunFolder | Group]") -> "list[RunFolder]":
    """The runs, and those of the groups, each once."""
    from cld_core.run.groups import Group

    runs: dict[Path, RunFolder] = {}
    for entry in entries:
        members = entry.runs() if isinstance(entry, Group) else [entry]
        runs.update({run.path: run for run in members})
    return list(runs.values())


def split_runs(words: list[str] | None) -> tuple[list[str], list[str]]:
    """Separate run names from KEY=VALUE overrides, which may come in any order."""
    from cld_core.run import RunFolder

    runs: list[str] = []
    overrides: list[str] = []
    for word in words or []:
        is_run = "=" not in word
        # An override may be longer than a path.
        with suppress(OSError, ValueError):
            is_run = is_run or RunFolder(word).exists
        (runs if is_run else overrides).append(word)
    return runs, overrides


def one_run(words: list[str] | None) -> tuple[str | None, list[str]]:
    """At most one run name, and the overrides."""
    names, overrides = split_runs(words)
    if len(names) > 1:
        raise UsageError(
            f"one run at a time, not {len(names)}: {', '.join(names)}. Write overrides as "
            f"KEY=VALUE."
        )
    return (names[0] if names else None), overrides


def run_and_overrides(words: list[str] | None, root: Path) -> "tuple[RunFolder, list[str]]":
    """The run that is named, or the newest, and the overrides.

    Raises:
        NotFoundError: there is no such run.
        FormatError: the run has a format that this version of cldctl does not read.
        UsageError: several runs are named, or several names begin like that.
    """
    name, overrides = one_run(words)
    return find_run(name, root), overrides


def agree(question: str, command: str, yes: bool, fix: str = "Add --yes.") -> None:
    """Ask a yes-or-no question on a terminal; no is the default, and ends the command.

    Args:
        question: begins with the verb.
        yes: do not ask.
        fix: what to do without a terminal.

    Raises:
        UsageError: stdin is not a terminal.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{command} asks first, and stdin is not a terminal. {fix}")
    try:
        if typer.confirm(question, err=True):
            return
    except typer.Abort:
        err.print("interrupted")
        raise typer.Exit(130) from None
    err.print(f"nothing was {question.partition(' ')[0].lower()}d")
    raise typer.Exit(0)


def check_output(file: Path | None, suffixes: Iterable[str], what: str, option: str = "-o") -> None:
    """Refuse a file of ``-o``, or another option, before a long computation.

    Args:
        what: the content of the file, with its verb: "weights are".

    Raises:
        UsageError: its name does not end in one of the suffixes, or its folder does not exist.
    """
    from cld_core.sanitize import has_control

    if file is None:
        return
    endings = " or ".join(suffixes)
    if file.suffix not in suffixes:
        raise UsageError(
            f"{option} {file}: {what} written as {endings}. Use a name that ends in {endings}."
        )
    if has_control(file.name):
        raise UsageError(f"{option} {file}: the name has control characters. Use another one.")
    if not file.absolute().parent.is_dir():
        raise UsageError(
            f"{option} {file}: there is no folder {file.absolute().parent}. Create it first."
        )
