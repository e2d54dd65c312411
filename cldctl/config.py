"""The user's defaults in `~/.config/cldctl/config.yaml`, and the user's cache folder.

Options and environment variables take precedence over the defaults. A cache may be deleted at any
time.
"""

import os
from pathlib import Path
from typing import Any

from cld_core.errors import CldError, UsageError, did_you_mean
from cld_core.ownership import is_mine, make_private, shared_with
from cld_core.run.folder import default_root
from cld_core.sanitize import one_line

_MAX_BYTES = 64 * 2**10
# The cluster of new runs; the folder of the runs, absolute; the profile for jobs of that cluster.
KEYS = ("cluster", "runs_dir", "profile")


def folder() -> Path | None:
    """The folder of the user's configuration; None if this user has no home folder.

    A ``$XDG_CONFIG_HOME`` that is not absolute is ignored.
    """
    try:
        return _of_user("XDG_CONFIG_HOME", ".config")
    except RuntimeError:
        return None


def cache_folder() -> Path | None:
    """``cldctl`` in the user's cache folder, private to this user; None if there cannot be one.

    ``$CLDCTL_CACHE`` names another folder. A home that belongs to another user, as after `sudo`, is
    left alone.
    """
    cache = Path(os.environ.get("CLDCTL_CACHE", ""))
    try:
        if not cache.is_absolute():
            cache = _of_user("XDG_CACHE_HOME", ".cache")
        existing = next(path for path in (cache, *cache.parents) if os.path.lexists(path))
        if not is_mine(existing):
            return None
        make_private(cache, "commands would believe what is in it", hidden=True)
    except (OSError, CldError, RuntimeError, ValueError):
        return None
    return cache


def _of_user(variable: str, otherwise: str) -> Path:
    """``cldctl`` in the folder of an environment variable, or of that name in the user's home."""
    base = Path(os.environ.get(variable, ""))
    return (base if base.is_absolute() else Path.home() / otherwise) / "cldctl"


def file() -> Path | None:
    """The path of the file of defaults; None if this user has no home folder."""
    parent = folder()
    return None if parent is None else parent / "config.yaml"


def read() -> dict[str, str]:
    """The defaults that are set, by their names in `KEYS`.

    Raises:
        UsageError: the file cannot be read, is not this user's alone, or has a wrong key or value.
    """
    path = file()
    if path is None or not os.path.lexists(path):
        return {}
    content = _content(path)
    if not isinstance(content, dict | None):
        raise UsageError(f"{path}: not a mapping. Write lines such as `cluster: slurm`.")
    content = content or {}
    for name, value in content.items():
        if name not in KEYS:
            guess = did_you_mean(name, KEYS) or f" The keys are {', '.join(KEYS)}."
            raise UsageError(f"{path}: unknown key '{one_line(name, 60)}'.{guess}")
        if value is not None and not _is_line(value):
            raise UsageError(
                f"{path}: '{name}' cannot be {one_line(repr(value), 60)}; expected a string. "
                f"Correct it."
            )
    settings = {name: content[name] for name in KEYS if content.get(name) is not None}
    if runs := settings.get("runs_dir"):
        settings["runs_dir"] = os.path.expanduser(runs)
        if not os.path.isabs(settings["runs_dir"]):
            raise UsageError(
                f"{path}: 'runs_dir' cannot be {runs!r}, which is not absolute. Write a path from "
                "/ or ~."
            )
    return settings


def _is_line(value: object) -> bool:
    """Whether a value is a string of one line that is not empty."""
    return isinstance(value, str) and value != "" and one_line(value, 4096) == value


def setting(name: str) -> str | None:
    """The default of a key, from ``$CLDCTL_CLUSTER`` or ``$CLDCTL_PROFILE``, or else the file.

    Raises:
        UsageError: the file cannot be read, is not this user's alone, or has a wrong key or value.
    """
    return os.environ.get(f"CLDCTL_{name.upper()}") or read().get(name)


def runs_dir() -> Path:
    """The folder of the runs without ``--runs-dir``.

    It is ``$CLDCTL_RUNS``, or else that of the file, or else `runs`.

    Raises:
        UsageError: the file cannot be read, is not this user's alone, or has a wrong key or value.
    """
    configured = None if os.environ.get("CLDCTL_RUNS") else read().get("runs_dir")
    return Path(configured) if configured else default_root()


def _content(path: Path) -> Any:
    # Most users have no such file: only those who have one wait for these imports.
    from cld_core.config.loader import parse
    from cld_core.files import opened

    try:
        with opened(path, follow=True) as file:
            problem = shared_with(os.fstat(file.fileno()))
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise UsageError(f"{path}: has more than {_MAX_BYTES} bytes. Shorten it.")
        if problem is not None:
            raise UsageError(
                f"{path}: {problem}, and jobs would run what the profile in it says. Make it yours "
                "alone, or set $XDG_CONFIG_HOME to another folder."
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
