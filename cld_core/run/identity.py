"""What a run was made with: code, versions, user and machine (the content of `run.json`), and its
data."""

import getpass
import math
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
# What identifies data (`cld_core.data.source.identity`): points of toy data and means of more, the
# checksum of images or arrays, the digest of a plug-in file.
POINTS, MEANS, IMAGES, PLUGIN = "points", "means", "images", "plugin"
# Machines differ in the last bits of what they compute, relative to the size of the largest number.
_TOLERANCE = 1e-3


class Commit(TypedDict, total=False):
    """The commit of a checkout, and whether it was changed."""

    commit: str
    dirty: bool


class Origin(TypedDict, total=False):
    """The run or the file whose weights a run started from, and their step."""

    path: str
    step: int


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
    started_from: Origin
    group: str
    sweep: Mapping[str, str]


def new_name(recipe: str) -> str:
    """A name for a run of this recipe: the suffix sorts by time and does not repeat."""
    return f"{recipe}-{time.strftime('%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def identity(
    recipe: str,
    file: str | Path | None,
    *,
    group: str | None = None,
    sweep: Mapping[str, str] | None = None,
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
        "git": commit_of(Path(__file__).parent),
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


def commit_of(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout that holds the code, and whether it was changed; None if it was
    installed without one."""
    try:
        commit = _git_says(folder, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git_says(folder, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git_says(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=10, check=True
    ).stdout.strip()


def are_other_data(now: Mapping[str, str], before: Mapping[str, str]) -> bool:
    """Whether these are known to be different data.

    The digest of a plug-in counts only if no points are noted: a comment changes it.
    """
    if IMAGES in now and IMAGES in before:
        return now[IMAGES] != before[IMAGES]
    drawn = [name for name in (POINTS, MEANS) if name in now and name in before]
    if drawn:
        return not all(_are_close(now[name], before[name]) for name in drawn)
    return PLUGIN in now and PLUGIN in before and now[PLUGIN] != before[PLUGIN]


def _are_close(one: str, other: str) -> bool:
    try:
        numbers, others = ([float(word) for word in text.split()] for text in (one, other))
    except ValueError:
        return one == other
    size = max(
        (abs(number) for number in (*numbers, *others) if math.isfinite(number)), default=0.0
    )
    return len(numbers) == len(others) and all(
        a == b or abs(a - b) <= _TOLERANCE * size for a, b in zip(numbers, others, strict=True)
    )
