"""The identity of a run (`run.json`) by code, versions, user and machine; the identity of data."""

import getpass
import math
import os
import platform
import secrets
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, TypedDict

from cld_core.version import __version__

_PACKAGES = ("torch", "numpy", "submitit")
# Keys of the identity of data (`cld_core.data.source.identity`).
POINTS = "points"  # the first points of toy data
MEANS = "means"  # means of more of them
IMAGES = "images"  # checksum of images or arrays
PLUGIN = "plugin"  # digest of a plug-in file
# Machines differ in the last bits; the tolerance is relative to the largest number.
_TOLERANCE = 1e-3


class Commit(TypedDict, total=False):
    """The commit of a checkout, and whether it was changed."""

    commit: str
    dirty: bool


class Origin(TypedDict, total=False):
    """The run or file with the weights that a run started from, and their step."""

    path: str
    step: int


class Identity(TypedDict, total=False):
    """The content of `run.json`; ``created`` in seconds since 1970, the rest as in `identity`."""

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
    """The identity of a new run.

    Args:
        recipe: the name of the recipe.
        file: the file that the recipe was read from.
        group: the name of the group, for runs that are submitted together.
        sweep: the run's own values in the group, by key.
    """
    content = {
        "created": time.time(),
        "recipe": recipe,
        "recipe_file": None if file is None else str(file),
        "versions": versions(),
        "git": commit_of(Path(__file__).parent),
        "user": _user(),
        "host": platform.node(),
    }
    if group is not None:
        content |= {"group": group, "sweep": dict(sweep or {})}
    return content


def versions() -> dict[str, str]:
    """Versions of Python, cldctl and the packages that results depend on. Imports none of them."""
    by_name = {"python": platform.python_version(), "cldctl": __version__}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            by_name[package] = metadata.version(package)
    return by_name


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container may run under a number that has no name.
        return str(os.getuid())


def commit_of(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout that holds the code, and whether it has changes; None without one."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    """The output of a git command."""
    command = ["git", "-C", str(folder), *arguments]
    process = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return process.stdout.strip()


def are_other_data(data: Mapping[str, str], others: Mapping[str, str]) -> bool:
    """Whether two identities are known to be of different data.

    The digest of a plug-in counts only if there are no points: a comment changes it.
    """
    common = data.keys() & others.keys()
    if IMAGES in common:
        return data[IMAGES] != others[IMAGES]
    shared = common & {POINTS, MEANS}
    if shared:
        return not all(_are_close(data[name], others[name]) for name in shared)
    return PLUGIN in common and data[PLUGIN] != others[PLUGIN]


def _are_close(points: str, others: str) -> bool:
    try:
        pairs = [
            (float(number), float(other))
            for number, other in zip(points.split(), others.split(), strict=True)
        ]
    except ValueError:
        return points == others
    sizes = [abs(number) for pair in pairs for number in pair if math.isfinite(number)]
    tolerance = _TOLERANCE * max(sizes, default=0.0)
    return all(math.isclose(*pair, rel_tol=0.0, abs_tol=tolerance) for pair in pairs)
