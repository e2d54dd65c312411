"""What a run was made with: code, versions, user and machine. The content of `run.json`."""

import getpass
import os
import platform
import secrets
import subprocess
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TypedDict

from cld_core.version import __version__

_PACKAGES = ("torch", "numpy", "submitit")


class Commit(TypedDict, total=False):
    """The commit of a checkout, and whether it was changed."""

    commit: str
    dirty: bool


class Identity(TypedDict, total=False):
    """What `run.json` holds; ``created`` in seconds since 1970, and the others as in `identity`."""

    format: int
    name: str
    created: float
    recipe: str
    recipe_file: str | None
    recipe_digest: str
    versions: Mapping[str, str]
    git: Commit | None
    user: str
    host: str
    imported: str
    group: str
    sweep: Mapping[str, str]


def new_name(recipe: str) -> str:
    """A name for a run of this recipe: the suffix sorts by time and does not repeat."""
    return f"{recipe}-{time.strftime('%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def identity(
    recipe: str, file: str | Path | None, *, group: str | None = None, sweep: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What identifies a new run.

    Args:
        recipe: the name of the recipe.
        file: where the recipe was read from.
        group: the runs that were submitted together, as a sweep.
        sweep: in such a group, what this run has of its own, value by key.
    """
    return {
        "created": time.time(),
        "recipe": recipe,
        "recipe_file": None if file is None else str(file),
        "versions": versions(),
        "git": _git(Path(__file__).parent),
        "user": _user(),
        "host": platform.node(),
        **({} if group is None else {"group": group, "sweep": dict(sweep or {})}),
    }


def versions() -> dict[str, str]:
    """Versions of Python, cldctl and the packages that results depend on. Imports none of them."""
    known = {"python": platform.python_version(), "cldctl": __version__}
    for package in _PACKAGES:
        try:
            known[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return known


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container may run under a number that has no name.
        return str(os.getuid())


def _git(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout that holds the code, and whether it was changed; None if it was installed without one."""
    try:
        commit = _git_says(folder, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git_says(folder, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git_says(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
