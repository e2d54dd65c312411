"""The user's own defaults: `~/.config/cldctl/config.yaml`. An option and the environment go over them."""

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cld_core.errors import RecipeError, UsageError, did_you_mean
from cld_core.run.folder import default_root
from cld_core.sanitize import one_line

_MAX_BYTES = 64 * 2**10


@dataclass(frozen=True, kw_only=True)
class Config:
    """The defaults; None if one is not set.

    Attributes:
        cluster: where new runs start.
        runs_dir: folder of the runs, absolute.
        profile: settings of that cluster for its jobs.
    """

    cluster: str | None = None
    runs_dir: str | None = None
    profile: str | None = None


KEYS = tuple(entry.name for entry in fields(Config))


def folder() -> Path | None:
    """The folder of the user's configuration; None if this user has no home folder.

    A ``$XDG_CONFIG_HOME`` that is not absolute counts for nothing.
    """
    base = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    try:
        return (base if base.is_absolute() else Path.home() / ".config") / "cldctl"
    except RuntimeError:
        return None


def file() -> Path | None:
    """Where the defaults are looked for; None if this user has no home folder."""
    place = folder()
    return None if place is None else place / "config.yaml"


def read() -> Config:
    """The defaults in force.

    Raises:
        UsageError: the file cannot be read, is not this user's alone, or has a wrong key or value.
    """
    path = file()
    if path is None or not os.path.lexists(path):
        return Config()
    return _config(path, _content(path))


def setting(name: str) -> str | None:
    """The default of a key: of ``$CLDCTL_CLUSTER`` or ``$CLDCTL_PROFILE``, or else of the file.

    Raises:
        UsageError: as `read`.
    """
    value: str | None = os.environ.get(f"CLDCTL_{name.upper()}") or getattr(read(), name)
    return value


def runs_dir() -> Path:
    """The folder of the runs without ``--runs-dir``: ``$CLDCTL_RUNS``, else that of the file, else `runs`.

    Raises:
        UsageError: as `read`.
    """
    configured = None if os.environ.get("CLDCTL_RUNS") else read().runs_dir
    return Path(configured) if configured else default_root()


def _content(path: Path) -> Any:
    # Nobody without such a file pays for these.
    from cld_core.config.loader import parse
    from cld_core.files import opened
    from cld_core.ownership import shared_with

    try:
        with opened(path, follow=True) as stream:
            problem = shared_with(os.fstat(stream.fileno()))
            text = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}). Correct or remove it.") from error
    if problem is not None:
        text_of = f"{path}: {problem}, and jobs would run what the profile in it says"
        raise UsageError(f"{text_of}. Make it yours alone, or set $XDG_CONFIG_HOME to another folder.")
    try:
        if len(text) > _MAX_BYTES:
            raise RecipeError(f"{path}: has more than {_MAX_BYTES} bytes. Shorten it.")
        return parse(text.decode("utf-8-sig"), str(path))[0]
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not valid YAML. Write lines such as `cluster: slurm`.") from error


def _config(path: Path, content: Any) -> Config:
    if content is None:
        return Config()
    if not isinstance(content, dict):
        raise UsageError(f"{path}: not a mapping. Write lines such as `cluster: slurm`.")
    for name, value in content.items():
        if name not in KEYS:
            fix = did_you_mean(name, KEYS) or f" It has {', '.join(KEYS)}."
            raise UsageError(f"{path}: unknown key '{one_line(name, 60)}'.{fix}")
        if value is not None and (not isinstance(value, str) or not value or one_line(value, 4096) != value):
            raise UsageError(f"{path}: '{name}' cannot be {one_line(repr(value), 60)}; expected a string. Correct it.")
    if content.get("runs_dir"):
        content = {**content, "runs_dir": _absolute(path, content["runs_dir"])}
    return Config(**content)


def _absolute(path: Path, value: str) -> str:
    try:
        runs = Path(value).expanduser()
    except RuntimeError as error:
        raise UsageError(
            f"{path}: 'runs_dir' cannot be {value!r}: there is no such home folder. Correct it."
        ) from error
    if not runs.is_absolute():
        raise UsageError(f"{path}: 'runs_dir' cannot be {value!r}, which is not absolute. Write a path from / or ~.")
    return str(runs)
