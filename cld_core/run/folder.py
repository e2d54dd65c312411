"""The files of a run (docs/architecture.md, "Who writes which file").

`run.json` holds the version of the folder's format. A change of the format raises `FORMAT`; a run
of another format is not read.
"""

import errno
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

from cld_core.digests import checksum
from cld_core.errors import CldError, NotFoundError, UsageError, did_you_mean
from cld_core.files import (
    existing_object,
    read_bytes,
    retried,
    sync_folder,
    write_json,
    write_text,
)
from cld_core.records import find_record, whole

from . import code
from .events import Event
from .history import History
from .identity import Identity
from .ledger import Ledger

if TYPE_CHECKING:
    from cld_core.config import Recipe

FORMAT = 6
# A missing folder counts as empty.
_ABSENT: tuple[type[OSError], ...] = (FileNotFoundError, NotADirectoryError)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# The names of `RunFolder.checkpoint_file`. Others, such as those of copies, are not checkpoints.
_CHECKPOINT = re.compile(r"step_([0-9]{8}|[1-9][0-9]{8,17})\.(json|pt)")


class ReportedProgress(TypedDict, total=False):
    """The content of `progress.json`.

    Attributes:
        time: when the report was written, seconds since 1970.
        every_s: seconds since the previous report.
        warning: a problem, such as a missing GPU.
        phase: "starting", "training", "saving", "evaluating" or "drawing samples".
        smoothed_loss: a mean of the last losses (`cld_core.train.loggers`).
    """

    attempt: int
    step: int
    steps: int
    loss: float | None
    steps_per_s: float | None
    time: float
    every_s: float
    warning: str
    phase: str
    smoothed_loss: float


class FormatError(UsageError):
    """The run folder has another version of the format than this cldctl reads; exit code 2."""


def is_name(name: str) -> bool:
    """Whether a string names one folder that can be typed as the argument of a command."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> None:
    """Refuse a string that cannot name a run.

    Raises:
        UsageError: the string does not satisfy `is_name`.
    """
    if not is_name(name):
        raise UsageError(
            f"'{name}' cannot name a run: use at most 100 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit."
        )


class _Inside:
    """A path in a run folder."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, run: "RunFolder", owner: type) -> Path:
        return run.path / self._name


class RunFolder:
    """The paths of one run, and the small files in it."""

    recipe_file = _Inside("recipe.yaml")
    identity_file = _Inside("run.json")
    progress_file = _Inside("progress.json")
    checkpoints = _Inside("checkpoints")
    averages = _Inside("averages")
    logs = _Inside("logs")
    tensorboard = _Inside("tensorboard")
    samples = _Inside("samples")
    evals = _Inside("evals")
    tuned = _Inside("tuned")
    leases = _Inside("lease")
    submitted_recipe = _Inside(f"{code.CODE}/recipe.yaml")

    def __init__(self, path: str | Path, notify: Callable[[Event], None] | None = None) -> None:
        """``notify``: see `Ledger`."""
        self.path = Path(path).absolute()
        self._notify = notify

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.path / "attempts.jsonl", self._notify)

    @property
    def exists(self) -> bool:
        """Whether this user can see a run at this path, of any format, or a damaged one.

        A run that has lost its `run.json` still has other files of a run.
        """
        try:
            if not stat.S_ISDIR(self.identity_file.lstat().st_mode):
                return True
        except FileNotFoundError:
            pass
        except (OSError, ValueError):  # ValueError: a path with a NUL
            return False
        return any(
            os.path.lexists(path) for path in (self.ledger.path, self.recipe_file, self.checkpoints)
        )

    @property
    def is_damaged(self) -> bool:
        """Whether its `run.json` is missing, or lacks the version of the format."""
        return self.identity().get("format") is None

    @property
    def unreadable(self) -> str | None:
        """Why this user cannot see whether there is a run at this path; None if they can."""
        try:
            self.identity_file.lstat()
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        except OSError as error:
            return error.strerror or str(error)
        return None

    @classmethod
    def create(cls, path: str | Path, recipe: "Recipe", identity: dict[str, Any]) -> "RunFolder":
        """Make a new run folder holding the frozen recipe and the identity of code and machine.

        Raises:
            UsageError: the name cannot be used or is taken.
            CldError: the folder cannot be made or filled; nothing is left of it.
        """
        from cld_core.config import dump

        folder = cls(path)
        check_name(folder.name)
        folder.require_free()
        # Filled under another name: a command that is killed meanwhile leaves this one free.
        draft_name = f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
        draft = cls(folder.path.with_name(draft_name))
        content = {"format": FORMAT, "name": folder.name, **identity}
        try:
            draft.path.mkdir(parents=True)
            draft._fill(content, dump(recipe.anchored(Path.cwd())))
            folder.require_free()
            draft.path.rename(folder.path)
            sync_folder(folder.path.parent)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                folder.require_free()  # Another command was first.
            raise CldError(
                f"{folder.path}: the run folder cannot be made ({error.strerror}). "
                "Free some space, or use another --runs-dir."
            ) from error
        finally:
            shutil.rmtree(draft.path, ignore_errors=True)
        return folder

    def require_free(self) -> None:
        """Refuse the name of a new run that is taken.

        Raises:
            UsageError: a run or another file has this name.
        """
        if self.exists:
            raise UsageError(
                f"{self.path}: a run of this name exists. "
                f"Choose another --name, or continue it with `cldctl resume {self.path}`."
            )
        if os.path.lexists(self.path):
            raise UsageError(
                f"{self.path}: it exists, but is not a run. Remove it, or choose another --name."
            )

    def _fill(self, identity: dict[str, Any], recipe: str) -> None:
        for inner in (
            self.checkpoints,
            self.logs,
            self.tensorboard,
            self.samples,
            self.evals,
            self.leases,
        ):
            inner.mkdir()
        # A job may start in another working directory, and a continuation in yet another.
        write_text(self.recipe_file, recipe)
        self.submitted_recipe.parent.mkdir()
        write_text(self.submitted_recipe, recipe)
        write_json(self.identity_file, {**identity, "recipe_digest": checksum(self.recipe_file)})

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """The run at ``path``.

        Raises:
            NotFoundError: there is no run; names the nearest.
            FormatError: the run has another version of the format.
            CldError: this user may not read its folder.
        """
        folder = cls(path)
        if (reason := folder.unreadable) is not None:
            raise CldError(
                f"{folder.path}: the run cannot be read ({reason}). "
                "Ask its owner, or use another run."
            )
        if not folder.exists:
            raise _none_at(folder.path)
        if (problem := folder.format_problem()) is not None:
            raise FormatError(problem)
        return folder

    def format_problem(self) -> str | None:
        """Why this version of cldctl cannot read the folder, with the fix; None if it can."""
        version = self.identity().get("format")
        if version == FORMAT:
            return None
        if version is not None:
            return (
                f"{self.path}: made by another version of cldctl "
                f"(format {version}; this one reads {FORMAT}). Use the version that made it."
            )
        try:
            read_bytes(self.identity_file)
        except FileNotFoundError:
            return f"{self.path}: run.json is missing. Restore it from a backup, or remove the run."
        except OSError as error:
            return (
                f"{self.path}: run.json cannot be read ({error.strerror}). "
                "Ask its owner, or restore it."
            )
        return (
            f"{self.path}: run.json is damaged or not that of a run. "
            "Restore it from a backup, or remove the run."
        )

    def evaluation_names(self) -> list[str]:
        """The names in the folder of evaluations and sweeps; none if it cannot be listed."""
        return names_in(self.evals, (OSError,))

    def tuning_names(self) -> list[str]:
        """The names of the tunings, sorted; none if they cannot be listed."""
        names = names_in(self.tuned, (OSError,))
        # Ends of flows, which tunings share, are files beside them.
        return sorted(name for name in names if not name.endswith(".npz"))

    def steps_to_evaluate(self) -> set[int]:
        """Steps of the checkpoints with a requested evaluation or tuning that has no result.

        Raises:
            OSError: the requests cannot be read at this moment.
        """
        steps = set()
        for folder, result in ((self.evals, "report.json"), (self.tuned, "solution.json")):
            for name in names_in(folder):
                if not os.path.exists(folder / name / result):
                    request = existing_object(folder / name / "request.json") or {}
                    step = whole(request.get("checkpoint_step"))
                    if step is not None:
                        steps.add(step)
        return steps

    def recipe(self, *, within_s: float = 0.0, with_plugins: bool = False) -> "Recipe":
        """The recipe in force: as submitted, with the changes of later continuations.

        Args:
            within_s: seconds for which to retry while the file system fails.
            with_plugins: import its plug-ins, which are code (`cld_core.run.recipe` decides whether
                it may run). If not, keys that they register are neither converted nor checked.

        Raises:
            RecipeError: the recipe has a mistake, or the file is missing or not a recipe.
            OSError: the recipe cannot be read at this moment.
        """
        return retried(lambda: self._recipe(with_plugins), within_s)

    def _recipe(self, with_plugins: bool) -> "Recipe":
        from cld_core.config import load_frozen

        overrides = self.ledger.history().overrides
        recipe = load_frozen(self.recipe_file, overrides)
        if not recipe.plugins:
            return recipe
        copies = code.with_copies(recipe.plugins, code.folder_of(self.path))
        if not with_plugins:
            return replace(recipe, plugins=copies)
        overrides = (*overrides, f"plugins={json.dumps(copies)}")
        return load_frozen(self.recipe_file, overrides, with_plugins=True)

    def identity(self) -> dict[str, Any]:
        """The content of `run.json` (`identity.identity`), empty if it is damaged.

        Values of unexpected types are left out.
        """
        return cast(dict[str, Any], find_record(Identity, self.identity_file) or {})

    def progress(self) -> ReportedProgress:
        """The last report, without values of unexpected types; empty before the first."""
        return find_record(ReportedProgress, self.progress_file) or {}

    def history_and_progress(self) -> tuple[History, ReportedProgress]:
        """The history of the ledger, with the last report and the newest checkpoint; and the last
        report itself."""
        progress = self.progress()
        saved = self.steps_to_continue_from()
        return self.ledger.history().with_progress(progress, saved), progress

    def checkpoint_file(self, step: int) -> Path:
        return self.checkpoints / f"step_{step:08d}.pt"

    def checkpoint_steps(self) -> list[int]:
        """The steps of complete checkpoints, ascending; empty if they cannot be listed."""
        return _steps_in(self.checkpoints, empty=(OSError,))

    def steps_to_continue_from(self) -> list[int]:
        """The steps of complete checkpoints that still have the state of training, ascending."""
        names = names_in(self.checkpoints, (OSError,))
        steps = self.checkpoint_steps()
        return [step for step in steps if self.checkpoint_file(step).name in names]

    def listed_steps(self, *, unfinished: bool = False) -> list[int]:
        """The steps of complete checkpoints, ascending; with ``unfinished``, of all checkpoints.

        Raises:
            OSError: they cannot be listed at this moment.
        """
        return _steps_in(self.checkpoints, unfinished)

    def snapshot_file(self, step: int) -> Path:
        """The file of the averages of a step (`cld_core.averages`); its sidecar is beside it."""
        return self.averages / f"step_{step:08d}.pt"

    def snapshot_steps(self) -> list[int]:
        """The steps of complete snapshots of averages, ascending.

        Raises:
            OSError: they cannot be listed at this moment.
        """
        return _steps_in(self.averages)


def _steps_in(
    folder: Path, unfinished: bool = False, empty: tuple[type[OSError], ...] = _ABSENT
) -> list[int]:
    matches = map(_CHECKPOINT.fullmatch, names_in(folder, empty))
    steps = {int(match[1]) for match in matches if match and (unfinished or match[2] == "json")}
    return sorted(steps)


def names_in(folder: Path, empty: tuple[type[OSError], ...] = _ABSENT) -> list[str]:
    """The names in a folder; none if it is missing: copies of runs may lack empty folders.

    Args:
        empty: errors after which it counts as empty.
    """
    try:
        return os.listdir(folder)
    except empty:
        return []


def find_runs(root: str | Path) -> Sequence[RunFolder]:
    """The runs directly under ``root``, of any format, oldest first."""
    return sorted(
        runs_beginning(root), key=lambda run: (run.identity().get("created", 0.0), run.name)
    )


def runs_beginning(root: str | Path, prefix: str = "") -> list[RunFolder]:
    """The runs directly under ``root`` whose names begin with ``prefix``."""
    runs = []
    for name in names_in(Path(root)):
        # A hidden folder is a run that is being made, or whose command was killed.
        if name.startswith(prefix) and not name.startswith("."):
            run = RunFolder(Path(root, name))
            if run.exists:
                runs.append(run)
    return runs


def default_root() -> Path:
    """The default folder of the runs: $CLDCTL_RUNS, or else runs/."""
    return Path(os.environ.get("CLDCTL_RUNS") or "runs")


def meant(name: str, root: Path) -> RunFolder:
    """The run at a path with a slash, or else of a name in ``root``; it may not exist."""
    return RunFolder(name if "/" in name else root / name)


def named(run: str | Path) -> RunFolder:
    """The run at a path; if there is none, the one of that name in the default folder.

    Raises:
        NotFoundError: there is no run in either of these places; names them, and the nearest run.
        FormatError: the run has another version of the format.
        CldError: this user may not read its folder.
    """
    paths = dict.fromkeys((root / run).absolute() for root in (Path(), default_root()))
    for folder in map(RunFolder, paths):
        if folder.exists or folder.unreadable is not None:
            return RunFolder.open(folder.path)
    raise _none_at(*paths)


def _none_at(*paths: Path) -> NotFoundError:
    for path in paths:
        if path.is_file():
            return NotFoundError(
                f"{path} is a file, not the folder of a run. Pass such a folder, or a "
                ".safetensors file that `cldctl export` or `Model.save` wrote."
            )
    names = [run.name for path in paths for run in runs_beginning(path.parent)]
    fix = did_you_mean(paths[0].name, names) or " `cldctl status` lists the existing runs."
    return NotFoundError(f"no run at {' or '.join(map(str, paths))}.{fix}")
