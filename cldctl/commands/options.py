"""Arguments that several commands share, and what they mean."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from cld_core.errors import NotFoundError, UsageError, did_you_mean
from cld_core.run import RunFolder, find_runs
from cldctl.ui.console import err
from cldctl.ui.hints import default_root

# Where jobs run.
CLUSTERS = ("slurm", "local", "debug")

RunsDir = Annotated[
    Path | None, typer.Option("--runs-dir", help="Folder of the runs; default: $CLDCTL_RUNS, else runs/.")
]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster", metavar="|".join(CLUSTERS), help="Where to run; default: slurm where sbatch is, else local."
    ),
]
Run = Annotated[str | None, typer.Argument(metavar="RUN", help="A run's name or folder; default: the newest run.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Recipe keys to change.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Stay and show the progress until the end.")]


def runs_dir(option: Path | None) -> Path:
    """The folder of the runs."""
    return option or default_root()


def chosen_cluster(option: str | None) -> str:
    """The cluster to submit to.

    Raises:
        UsageError: there is no such one.
    """
    import shutil

    if option is not None:
        if option not in CLUSTERS:
            guess = did_you_mean(option, CLUSTERS)
            raise UsageError(f"--cluster cannot be '{option}'; expected one of {', '.join(CLUSTERS)}.{guess}")
        return option
    return "slurm" if shutil.which("sbatch") else "local"


def find_run(name: str | None, root: Path) -> RunFolder:
    """The run of this name or path, or the newest one, which is then named on stderr."""
    if name is not None:
        return RunFolder.open(name if "/" in name else root / name)
    runs = find_runs(root)
    if not runs:
        raise NotFoundError(f"there are no runs in {root.absolute()}. Start one: `cldctl submit recipes/toy.yaml`.")
    err.print(f"run: {runs[-1].name} (the newest)", style="dim")
    return runs[-1]


def split_runs(words: list[str] | None) -> tuple[list[str], list[str]]:
    """Separate run names from KEY=VALUE overrides, which may come in any order."""
    words = words or []
    runs = [word for word in words if "=" not in word or (Path(word) / "run.json").is_file()]
    return runs, [word for word in words if word not in runs]


def refuse_twice(option: str, keys: Iterable[str], overrides: Iterable[str]) -> None:
    """Raises UsageError where an override sets one of the keys that an option has set."""
    for text in overrides:
        if text.partition("=")[0] in keys:
            raise UsageError(f"{option} and {text} are about the same. Leave one out.")


def one_run(words: list[str] | None) -> tuple[str | None, list[str]]:
    """At most one run name, and the overrides."""
    names, overrides = split_runs(words)
    if len(names) > 1:
        raise UsageError(f"one run at a time, not {len(names)}: {', '.join(names)}. Overrides are written KEY=VALUE.")
    return (names[0] if names else None), overrides
