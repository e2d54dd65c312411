"""Where everything of a run is stored (docs/architecture.md, "Who writes which file").

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

from cld_core.codec import from_plain, whole
from cld_core.digests import checksum
from cld_core.errors import CldError, NotFoundError, UsageError, did_you_mean
from cld_core.files import (
    existing_object,
    read_bytes,
    read_object,
    retried,
    sync_folder,
    write_json,
    write_text,
)

from . import code
from .events import Event
from .identity import Identity
from .ledger import Ledger

if TYPE_CHECKING:
    from cld_core.config import Recipe

FORMAT = 6
# A folder that is not there holds nothing.
_ABSENT: tuple[type[OSError], ...] = (FileNotFoundError, NotADirectoryError)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# As `RunFolder.checkpoint_file` writes it: other files, such as copies that somebody made, are
# nobody's checkpoints.
_CHECKPOINT = re.compile(r"step_([0-9]{8}|[1-9][0-9]{8,17})\.(json|pt)")


class ReportedProgress(TypedDict, total=False):
    """What `progress.json` holds; ``time`` in seconds since 1970, ``warning`` if something is
    wrong.

    ``every_s`` are the seconds since the report before. ``phase`` is what the training does
    ("starting", "training", "saving", "evaluating" or "drawing samples"), and ``smoothed_loss`` the
    mean of the last losses (`cld_core.train.loggers`).
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
    """Whether a text names one folder that can be typed as the argument of a command."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> None:
    """Refuse what cannot name a run.

    Raises:
        UsageError: it cannot be one folder, or could not be typed as the argument of a command.
    """
    if not is_name(name):
        fix = "use letters, digits, '.', '_' and '-', at most 100, a letter or digit first"
        raise UsageError(f"'{name}' cannot name a run: {fix}.")


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

    def __init__(self, path: str | Path, heard: Callable[[Event], None] | None = None) -> None:
        """``heard``: see `Ledger`."""
        self.path, self._heard = Path(path).absolute(), heard

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.path / "attempts.jsonl", self._heard)

    @property
    def exists(self) -> bool:
        """Whether this user can see that there is a run at this path, of whatever format, or a
        damaged one.

        A run that has lost its `run.json` still has other files of a run.
        """
        try:
            if not stat.S_ISDIR(self.identity_file.lstat().st_mode):
                return True
        except FileNotFoundError:
            pass
        except (OSError, ValueError):
            return False
        return any(
            os.path.lexists(path) for path in (self.ledger.path, self.recipe_file, self.checkpoints)
        )

    @property
    def is_damaged(self) -> bool:
        """Whether its `run.json` is missing, or does not even tell the version of the format."""
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
        # Filled under another name: whoever is killed meanwhile has not taken this one.
        draft = cls(
            folder.path.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        )
        try:
            draft.path.mkdir(parents=True)
            draft._fill(
                {"format": FORMAT, "name": folder.name, **identity},
                dump(recipe.anchored(Path.cwd())),
            )
            folder.require_free()
            draft.path.rename(folder.path)
            sync_folder(folder.path.parent)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                folder.require_free()  # Another command was first.
            text = (
                f"the run folder cannot be made ({error.strerror}). Free some space, or use "
                f"another --runs-dir."
            )
            raise CldError(f"{folder.path}: {text}") from error
        finally:
            shutil.rmtree(draft.path, ignore_errors=True)
        return folder

    def require_free(self) -> None:
        """Refuse the name of a new run that something else has.

        Raises:
            UsageError
        """
        if self.exists:
            fix = f"Choose another --name, or continue it with `cldctl resume {self.path}`."
            raise UsageError(f"{self.path}: a run of this name exists. {fix}")
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
            NotFoundError: there is none; names the nearest.
            FormatError: it has another version of the format.
            CldError: this user may not look into it.
        """
        folder = cls(path)
        if (reason := folder.unreadable) is not None:
            raise CldError(
                f"{folder.path}: the run cannot be read ({reason}). Ask its owner, or use another "
                f"run."
            )
        if not folder.exists:
            raise _none_at(folder)
        if (problem := folder.format_problem()) is not None:
            raise FormatError(problem)
        return folder

    def format_problem(self) -> str | None:
        """Why this version of cldctl cannot read the folder, and what to do; None if it can."""
        version = self.identity().get("format")
        if version == FORMAT:
            return None
        if version is None:
            try:
                read_bytes(self.identity_file)
            except FileNotFoundError:
                return (
                    f"{self.path}: run.json is missing. Restore it from a backup, or remove "
                    f"the "
                    f"run."
                )
            except OSError as error:
                return (
                    f"{self.path}: run.json cannot be read ({error.strerror}). Ask its owner, "
                    f"or restore it."
                )
            text = (
                "run.json is damaged or not that of a run. Restore it from a backup, or remove "
                "the run."
            )
            return f"{self.path}: {text}"
        text = f"made by another version of cldctl (format {version}; this one reads {FORMAT})"
        return f"{self.path}: {text}. Use the version that made it."

    def evaluation_names(self) -> list[str]:
        """The names of what is in the folder of evaluations and sweeps; none if it cannot be
        listed."""
        return names_in(self.evals, (OSError,))

    def tuning_names(self) -> list[str]:
        """The names of the tunings, sorted; none if they cannot be listed. Beside them is what they
        share."""
        return sorted(
            name for name in names_in(self.tuned, (OSError,)) if not name.endswith(".npz")
        )

    def steps_to_evaluate(self) -> set[int]:
        """Steps of the checkpoints that an evaluation or a tuning was requested for and has no
        result of.

        Raises:
            OSError: they cannot be found out at this moment.
        """
        results = ((self.evals, "report.json"), (self.tuned, "solution.json"))
        requests = [
            existing_object(home / name / "request.json") or {}
            for home, result in results
            for name in names_in(home)
            if not os.path.exists(home / name / result)
        ]
        steps = [whole(request.get("checkpoint_step")) for request in requests]
        return {step for step in steps if step is not None}

    def recipe(self, *, within_s: float = 0.0, with_plugins: bool = False) -> "Recipe":
        """The recipe in force: as submitted, and then what later continuations changed.

        Args:
            within_s: for how many seconds to try while the file system fails.
            with_plugins: import its plug-ins, which are code (`cld_core.run.recipe` says whether it
                may run). If not, what they register is neither typed nor checked.

        Raises:
            RecipeError: it has a mistake, or the file is missing or another than a recipe.
            OSError: it cannot be read at this moment.
        """
        from cld_core.config import load_frozen

        overrides = retried(lambda: self.ledger.history().overrides, within_s)
        recipe = retried(lambda: load_frozen(self.recipe_file, overrides), within_s)
        if not recipe.plugins:
            return recipe
        copies = retried(
            lambda: code.with_copies(recipe.plugins, code.folder_of(self.path)), within_s
        )
        if with_plugins:
            mine = f"plugins={json.dumps(copies)}"
            return retried(
                lambda: load_frozen(self.recipe_file, [*overrides, mine], with_plugins=True),
                within_s,
            )
        return replace(recipe, plugins=copies)

    def identity(self) -> dict[str, Any]:
        """What `run.json` holds (`identity.identity`), without values of unexpected types; empty if
        it is damaged."""
        return cast(dict[str, Any], from_plain(Identity, read_object(self.identity_file)))

    def progress(self) -> ReportedProgress:
        """What was last reported, without values of unexpected types; empty before the first
        report."""
        return from_plain(ReportedProgress, read_object(self.progress_file))

    def checkpoint_file(self, step: int) -> Path:
        return self.checkpoints / f"step_{step:08d}.pt"

    def checkpoint_steps(self) -> list[int]:
        """The steps of completely written checkpoints, ascending; empty if they cannot be
        listed."""
        return _steps_in(self.checkpoints, empty=(OSError,))

    def steps_to_continue_from(self) -> list[int]:
        """As `checkpoint_steps`, without those of which only the averaged weights are left."""
        names = names_in(self.checkpoints, (OSError,))
        steps = self.checkpoint_steps()
        return [step for step in steps if self.checkpoint_file(step).name in names]

    def listed_steps(self, *, unfinished: bool = False) -> list[int]:
        """As `checkpoint_steps`, and with ``unfinished`` those without a sidecar, too.

        Raises:
            OSError: they cannot be listed at this moment.
        """
        return _steps_in(self.checkpoints, unfinished)

    def snapshot_file(self, step: int) -> Path:
        """Where the averages of a step are (`cld_core.averages`); its sidecar is beside it, as that
        of a checkpoint."""
        return self.averages / f"step_{step:08d}.pt"

    def snapshot_steps(self) -> list[int]:
        """The steps of completely written snapshots of averages, ascending.

        Raises:
            OSError: they cannot be listed at this moment.
        """
        return _steps_in(self.averages)


def _steps_in(
    folder: Path, unfinished: bool = False, empty: tuple[type[OSError], ...] = _ABSENT
) -> list[int]:
    matches = (_CHECKPOINT.fullmatch(name) for name in names_in(folder, empty))
    return sorted(
        {int(match[1]) for match in matches if match and (unfinished or match[2] == "json")}
    )


def names_in(folder: Path, empty: tuple[type[OSError], ...] = _ABSENT) -> list[str]:
    """What a folder holds; nothing if there is none: copies and archives of runs leave empty
    folders out.

    Args:
        empty: errors after which it counts as empty.
    """
    try:
        return os.listdir(folder)
    except empty:
        return []


def find_runs(root: str | Path) -> Sequence[RunFolder]:
    """The runs directly under ``root``, oldest first; also those of another format
    (`RunFolder.format_problem`)."""
    return sorted(
        runs_beginning(root), key=lambda run: (run.identity().get("created", 0.0), run.name)
    )


def runs_beginning(root: str | Path, prefix: str = "") -> list[RunFolder]:
    """The runs directly under ``root`` whose names begin like this; others are not looked at."""
    # A hidden one is a run that is being made, or whose command was killed.
    names = [
        name
        for name in names_in(Path(root))
        if name.startswith(prefix) and not name.startswith(".")
    ]
    return [run for name in names if (run := RunFolder(Path(root, name))).exists]


def default_root() -> Path:
    """The folder of the runs, unless somebody names another: $CLDCTL_RUNS, else runs/."""
    return Path(os.environ.get("CLDCTL_RUNS") or "runs")


def meant(name: str, root: Path) -> RunFolder:
    """The run that a word of a command means: a path if it has a slash, else a name in ``root``. It
    may not exist."""
    return RunFolder(name if "/" in name else root / name)


def named(run: str | Path) -> RunFolder:
    """The run at a path; if there is none, the one of that name in the folder of the runs
    (`default_root`).

    Raises:
        NotFoundError: there is none in either of these places; names them, and the nearest run.
        FormatError: it has another version of the format.
        CldError: this user may not look into it.
    """
    places = [
        RunFolder(path)
        for path in dict.fromkeys((root / run).absolute() for root in (Path(), default_root()))
    ]
    found = next((it for it in places if it.exists or it.unreadable is not None), None)
    if found is None:
        raise _none_at(*places)
    return RunFolder.open(found.path)


def _none_at(*places: RunFolder) -> NotFoundError:
    for place in places:
        if place.path.is_file():
            raise NotFoundError(
                f"{place.path} is a file, not the folder of a run. Pass such a folder, or a "
                ".safetensors file that `cldctl export` or `Model.save` wrote."
            )
    names = [run.name for place in places for run in runs_beginning(place.path.parent)]
    guess = did_you_mean(places[0].name, names) or " `cldctl status` lists the existing runs."
    return NotFoundError(f"no run at {' or '.join(str(place.path) for place in places)}.{guess}")
