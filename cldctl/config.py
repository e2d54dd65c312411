"""What belongs to this user: the defaults in `~/.config/cldctl/config.yaml`, and a folder for
caches.

An option and the environment go over the defaults. A cache may be deleted at any time.
"""

import os
from pathlib import Path
from typing import Any

from cld_core.errors import CldError, UsageError, did_you_mean
from cld_core.ownership import is_mine, make_private, shared_with
from cld_core.run.folder import default_root
from cld_core.sanitize import one_line

_MAX_BYTES = 64 * 2**10
# Where new runs start; the folder of the runs, absolute; the settings of that cluster for its jobs.
KEYS = ("cluster", "runs_dir", "profile")


def folder() -> Path | None:
    """The folder of the user's configuration; None if this user has no home folder.

    A ``$XDG_CONFIG_HOME`` that is not absolute counts for nothing.
    """
    try:
        return _of_user("XDG_CONFIG_HOME", ".config")
    except RuntimeError:
        return None


def cache_folder() -> Path | None:
    """``cldctl`` in the user's cache folder, private to this user; None if there cannot be one.

    ``$CLDCTL_CACHE`` names another folder. A home that belongs to somebody else, as after `sudo`,
    is left alone.
    """
    own = Path(os.environ.get("CLDCTL_CACHE", ""))
    try:
        chosen = own if own.is_absolute() else _of_user("XDG_CACHE_HOME", ".cache")
        if not is_mine(
            next(place for place in (chosen, *chosen.parents) if os.path.lexists(place))
        ):
            return None
        make_private(chosen, "commands would believe what is in it", hidden=True)
    except (OSError, CldError, RuntimeError, ValueError):
        return None
    return chosen


def _of_user(variable: str, otherwise: str) -> Path:
    """The folder for cldctl in the one that an environment variable names, or else in the user's
    home folder."""
    base = Path(os.environ.get(variable, ""))
    return (base if base.is_absolute() else Path.home() / otherwise) / "cldctl"


def file() -> Path | None:
    """Where the defaults are looked for; None if this user has no home folder."""
    place = folder()
    return None if place is None else place / "config.yaml"


def read() -> dict[str, str]:
    """The defaults in force, by those of `KEYS` that are set.

    Raises:
        UsageError: the file cannot be read, is not this user's alone, or has a wrong key or value.
    """
    path = file()
    if path is None or not os.path.lexists(path):
        return {}
    content = _content(path)
    if not isinstance(content, dict | None):
        raise UsageError(f"{path}: not a mapping. Write lines such as `cluster: slurm`.")
    given = dict(content or {})
    for name, value in given.items():
        if name not in KEYS:
            fix = did_you_mean(name, KEYS) or f" It has {', '.join(KEYS)}."
            raise UsageError(f"{path}: unknown key '{one_line(name, 60)}'.{fix}")
        if value is not None and (
            not isinstance(value, str) or not value or one_line(value, 4096) != value
        ):
            raise UsageError(
                f"{path}: '{name}' cannot be {one_line(repr(value), 60)}; expected a string. "
                f"Correct it."
            )
    if runs := given.get("runs_dir"):
        given["runs_dir"] = os.path.expanduser(runs)
        if not os.path.isabs(given["runs_dir"]):
            fix = "which is not absolute. Write a path from / or ~"
            raise UsageError(f"{path}: 'runs_dir' cannot be {runs!r}, {fix}.")
    return {name: given[name] for name in KEYS if given.get(name) is not None}


def setting(name: str) -> str | None:
    """The default of a key: of ``$CLDCTL_CLUSTER`` or ``$CLDCTL_PROFILE``, or else of the file.

    Raises:
        UsageError: as `read`.
    """
    return os.environ.get(f"CLDCTL_{name.upper()}") or read().get(name)


def runs_dir() -> Path:
    """The folder of the runs without ``--runs-dir``: ``$CLDCTL_RUNS``, else that of the file, else
    `runs`.

    Raises:
        UsageError: as `read`.
    """
    configured = None if os.environ.get("CLDCTL_RUNS") else read().get("runs_dir")
    return Path(configured) if configured else default_root()


def _content(path: Path) -> Any:
    # Nobody without such a file pays for these.
    from cld_core.config.loader import parse
    from cld_core.files import opened

    try:
        with opened(path, follow=True) as file:
            problem, content = shared_with(os.fstat(file.fileno())), file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise UsageError(f"{path}: has more than {_MAX_BYTES} bytes. Shorten it.")
        if problem is not None:
            text = f"{path}: {problem}, and jobs would run what the profile in it says"
            raise UsageError(
                f"{text}. Make it yours alone, or set $XDG_CONFIG_HOME to another folder."
            )
        return parse(content.decode("utf-8-sig"), str(path))[0]
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror}). Correct or remove it."
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: not valid YAML. Write lines such as `cluster: slurm`."
        ) from error
