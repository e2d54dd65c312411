"""Where runs are looked for by those who name one."""

import os
from collections.abc import Iterable
from pathlib import Path

from cld_core.errors import NotFoundError, did_you_mean

from .folder import RunFolder, find_runs


def default_root() -> Path:
    """The folder of the runs, unless somebody names another: $CLDCTL_RUNS, else runs/."""
    return Path(os.environ.get("CLDCTL_RUNS") or "runs")


def meant(name: str, root: Path) -> RunFolder:
    """The run that a word of a command means: a path if it has a slash, else a name in ``root``. It may not exist."""
    return RunFolder(name if "/" in name else root / name)


def named(run: str | Path) -> RunFolder:
    """The run at a path; if there is none, the one of that name in the folder of the runs (`default_root`).

    Raises:
        NotFoundError: there is none in either of these places; names them, and the nearest run.
        FormatError: it has another version of the format.
        CldError: this user may not look into it.
    """
    places = _places(run)
    found = next((it for it in places if it.exists or it.unreadable is not None), None)
    if found is not None:
        return RunFolder.open(found.path)
    names = [other.name for place in places for other in find_runs(place.path.parent)]
    guess = did_you_mean(places[0].name, names) or " `cldctl status` lists the existing runs."
    raise NotFoundError(f"no run at {_any_of(str(it.path) for it in places)}.{guess}")


def _places(run: str | Path) -> list[RunFolder]:
    """The folders that the name or path of a run may mean, the first ones first."""
    roots = (Path(), default_root())
    unique = dict.fromkeys((root / run).absolute() for root in roots)
    return [RunFolder(path) for path in unique]


def _any_of(texts: Iterable[str]) -> str:
    *others, last = texts
    return f"{', '.join(others)} or {last}" if others else last
