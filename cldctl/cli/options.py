"""Arguments that several commands share, and what they mean."""

import contextlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cld_core.errors import NotFoundError, UsageError
from cld_core.recipe.build import COMMAND_LINE
from cld_core.run import RunFolder
from cld_core.run.folder import runs_beginning
from cld_core.run.groups import Group, find_group
from cld_core.run.lookup import meant
from cld_core.texts import has_control, is_count
from cldctl import config
from cldctl.clusters import CLUSTERS
from cldctl.show.console import err

from . import completing

RunsDir = Annotated[
    Path | None,
    typer.Option("--runs-dir", help="Folder of the runs; default: $CLDCTL_RUNS, that of the config file, else runs/."),
]


def _cluster(default: str) -> Any:
    """The option ``--cluster``, with a description of its default."""
    help_ = f"Where to run; default: {default}."
    return typer.Option("--cluster", metavar="|".join(CLUSTERS), help=help_, autocompletion=completing.clusters)


_ANY = "$CLDCTL_CLUSTER, that of the config file, slurm if a cluster is configured, else local"
ClusterOption = Annotated[str | None, _cluster(_ANY)]
ClusterOfRun = Annotated[str | None, _cluster("the run's own cluster")]
Run = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN", help="A run's name or folder; default: the newest run.", autocompletion=completing.runs
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Recipe keys to change; `cldctl explain` lists them.",
        autocompletion=completing.overrides,
    ),
]
Checkpoint = Annotated[
    str, typer.Option(metavar="last|STEP", help="Which checkpoint.", autocompletion=completing.checkpoints)
]
Profile = Annotated[
    str | None,
    typer.Option(
        help="File or name of settings for jobs of this cluster; default: $CLDCTL_PROFILE, that of the config file.",
        autocompletion=completing.profiles,
    ),
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Stay and show the progress until the end.")]
Shards = Annotated[
    int | None,
    typer.Option(min=1, help="Number of shards, at most 10,000 and one per sample or point; default: one per process."),
]
StateFilter = Annotated[
    str | None,
    typer.Option(
        metavar="S[,S]",
        help="Only runs in these states: PENDING, RUNNING, REQUEUED, STOPPED, FAILED, CANCELLED, LOST, FINISHED.",
        autocompletion=completing.states,
    ),
]
Since = Annotated[
    str | None,
    typer.Option(metavar="DURATION|DATE", help="Only runs that are alive or changed since: 12h, 7d, 2026-11-01."),
]
TagFilter = Annotated[list[str] | None, typer.Option("--tag", metavar="T", help="Only runs with this tag.")]
UserFilter = Annotated[str | None, typer.Option(metavar="U", help="Only runs that this user submitted.")]
GroupFilter = Annotated[
    str | None,
    typer.Option(metavar="G", help="Only runs that were submitted as this group.", autocompletion=completing.groups),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
AllowPlugin = Annotated[
    bool, typer.Option("--allow-plugin", help="Run plug-ins and hooks of a run that others can write to.")
]

# Names that a message lists.
_SHOWN = 8


def runs_dir(option: Path | None) -> Path:
    """The folder of the runs."""
    return option or config.runs_dir()


def find_run(name: str | None, root: Path) -> RunFolder:
    """The run of this name or path, or the newest one, whose name is printed on stderr.

    The beginning of a name is enough if no other run begins like that; then the whole name is printed, too.

    Raises:
        NotFoundError: there is no such run.
        FormatError: it has a format that this version of cldctl does not read.
        UsageError: several names begin like that.
    """
    from cldctl.runs.index import Index

    if name is not None:
        return RunFolder.open(name if "/" in name else root / _whole_name(name, root))
    newest = Index(root).newest()
    if newest is None:
        raise NotFoundError(f"there are no runs in {root.absolute()}. Start one: `cldctl submit toy_demo`.")
    err.print(f"run: {newest.name} (the newest)", style="dim")
    return RunFolder.open(newest.path)


def _whole_name(name: str, root: Path) -> str:
    """The name of the one run that begins with ``name``; ``name`` itself if there is a run of this name, or none."""
    if not name or RunFolder(root / name).exists:
        return name
    group = find_group(root, name)
    if group is not None and len(members := group.runs()) > 1:
        text = f"'{name}' is a group of {len(members)} runs: {_listed([run.name for run in members])}"
        raise UsageError(f"{text}. Name one of them.")
    names = sorted(run.name for run in runs_beginning(root, name))
    if len(names) > 1:
        raise UsageError(f"'{name}' is the beginning of {len(names)} runs: {_listed(names)}. Write more of the name.")
    if names:
        err.print(f"run: {names[0]}", style="dim", markup=False)
    return names[0] if names else name


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def find_runs_to_change(names: Iterable[str], root: Path, yes: bool, *, damaged: bool = False) -> list[RunFolder]:
    """The runs from which something will be removed, each once; a group stands for its runs.

    Args:
        yes: there is no confirmation, so a prefix of a name is not enough: another run may have it tomorrow.
        damaged: runs whose identity is lost can also be named, by their whole name.

    Raises:
        NotFoundError, FormatError, UsageError: as `find_run`, or a name is not whole.
    """
    runs = {}
    for name in names:
        if (group := group_named(name, root)) is not None:
            runs.update({run.path: run for run in group.runs()})
            continue
        run = (_damaged_run(name, root) if damaged else None) or find_run(name, root)
        if yes and "/" not in name and run.name != name:
            raise UsageError(f"'{name}' is not the whole name of {run.name}. Write it out, or leave out --yes.")
        runs[run.path] = run
    return list(runs.values())


def _damaged_run(name: str, root: Path) -> RunFolder | None:
    """The run of exactly this name or path, if its identity is lost; None for any other."""
    run = meant(name, root)
    return run if name and run.unreadable is None and run.exists and run.is_damaged else None


def agreed(question: str, command: str, fix: str = "Add --yes.") -> bool:
    """Ask a yes-or-no question on a terminal; no is the default.

    Args:
        fix: what to do if nobody can answer.

    Raises:
        UsageError: stdin is not a terminal, and nobody can answer.
    """
    if not sys.stdin.isatty():
        raise UsageError(f"{command} asks first, and stdin is not a terminal. {fix}")
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:
        err.print("interrupted")
        raise typer.Exit(130) from None


def group_named(name: str, root: Path) -> Group | None:
    """The group of this name; None if there is none, or a run has the name: the run is meant then."""
    group = None if "/" in name else find_group(root, name)
    if group is not None and RunFolder(root / name).exists:
        err.print(f"{name} names a run and a group; the run is meant", style="yellow", markup=False)
        return None
    return group


def find_runs_or_group(names: Iterable[str], root: Path) -> list[RunFolder]:
    """The runs that names and paths mean, each once; a group stands for its runs.

    Raises:
        NotFoundError: there is no such run.
        FormatError: one has a format that this version of cldctl does not read.
    """
    found: dict[Path, RunFolder] = {}
    for name in names:
        group = group_named(name, root)
        for run in [find_run(name, root)] if group is None else group.runs():
            found.setdefault(run.path, run)
    return list(found.values())


def split_runs(words: list[str] | None) -> tuple[list[str], list[str]]:
    """Separate run names from KEY=VALUE overrides, which may come in any order."""
    words = words or []
    runs = [word for word in words if "=" not in word or _is_run(word)]
    return runs, [word for word in words if word not in runs]


def _is_run(word: str) -> bool:
    # An override may be longer than a path.
    with contextlib.suppress(OSError, ValueError):
        return RunFolder(word).exists
    return False


def one_run(words: list[str] | None) -> tuple[str | None, list[str]]:
    """At most one run name, and the overrides."""
    names, overrides = split_runs(words)
    if len(names) > 1:
        raise UsageError(f"one run at a time, not {len(names)}: {', '.join(names)}. Write overrides as KEY=VALUE.")
    return (names[0] if names else None), overrides


def refuse_twice(option: str, keys: Iterable[str], overrides: Iterable[str]) -> None:
    """Raises UsageError if an override sets one of the keys that an option has set."""
    for text in overrides:
        if text.partition("=")[0] in keys:
            raise UsageError(f"{option} and {text} set the same key. Leave one out.")


@contextlib.contextmanager
def named_as_typed(options: Mapping[str, str], run: RunFolder | None = None) -> Iterator[None]:
    """Errors of recipes name the option that was typed rather than the key that it set, and ``run`` in commands.

    Args:
        options: the option of each key, such as "--nfe" of "sampling.nfe".
    """
    try:
        yield
    except UsageError as error:
        raise type(error)(as_typed(str(error), options, run)) from error


def as_typed(text: str, options: Mapping[str, str], run: RunFolder | None = None) -> str:
    """A message of a recipe in the words of the command line; see `named_as_typed`."""
    for key, option in options.items():
        text = re.sub(rf"{COMMAND_LINE}(?:, and [^']*)?: '{re.escape(key)}' (?!is not a key)", f"{option} ", text)
    return text if run is None else text.replace("`cldctl resume RUN ", f"`cldctl resume {run.name} ")


def check_output(file: Path | None, suffixes: Iterable[str], what: str, option: str = "-o") -> None:
    """Refuse a file of ``-o``, or another option, that cannot be written, before anything is computed.

    Args:
        what: what is written, with its verb: "weights are".

    Raises:
        UsageError: its name does not end in one of the suffixes, or its folder does not exist.
    """
    if file is None:
        return
    endings = " or ".join(suffixes)
    if file.suffix not in suffixes:
        raise UsageError(f"{option} {file}: {what} written as {endings}. Use a name that ends in {endings}.")
    if has_control(file.name):
        raise UsageError(f"{option} {file}: the name has control characters. Use another one.")
    if not file.absolute().parent.is_dir():
        raise UsageError(f"{option} {file}: there is no folder {file.absolute().parent}. Create it first.")


def listed_nfe(text: str, example: str) -> tuple[int, ...]:
    """The numbers of network evaluations that ``--nfe`` lists, in their order.

    Args:
        example: what a user might write instead.

    Raises:
        UsageError: one of them is not a whole number above 0, or is given twice.
    """
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if not is_count(word) or int(word) < 1:
            raise UsageError(f"--nfe: '{word}' is not a number of network evaluations. Write --nfe {example}.")
    numbers = tuple(map(int, words))
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"--nfe {text} has a number twice. Remove one.")
    return numbers
