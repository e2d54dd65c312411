"""What a run was made with: code, versions, machine."""

import getpass
import platform
import secrets
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("cldctl", "torch", "numpy", "submitit")


def new_name(recipe: str) -> str:
    """The recipe's name and a suffix that sorts by time and does not repeat."""
    return f"{recipe}-{time.strftime('%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def identity(recipe_file: Path) -> dict[str, Any]:
    """Versions, the git commit of the code and whether it was changed since, the user and the machine."""
    return {
        "recipe_file": str(recipe_file),
        "versions": {"python": platform.python_version(), **_versions()},
        "git": _git(Path(__file__).parent),
        "user": getpass.getuser(),
        "host": platform.node(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout that holds the code; None where it was installed without one."""
    try:
        commit = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10
        )
        if commit.returncode:
            return None
        changed = subprocess.run(
            ["git", "-C", str(folder), "status", "--porcelain"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {"commit": commit.stdout.strip(), "dirty": bool(changed.stdout.strip())}
