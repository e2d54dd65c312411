"""Profiles: how one cluster wants its jobs, apart from what they compute."""

import sysconfig
from pathlib import Path

from cld_core.errors import RecipeError, did_you_mean


def find_profile(name: str | None) -> Path | None:
    """The file of a profile, given as a path or by its name; None for none.

    Raises:
        RecipeError: there is none; names the nearest.
    """
    if name is None:
        return None
    if Path(name).is_file():
        return Path(name)
    known = {file.stem: file for folder in _folders() for file in sorted(folder.glob("*.yaml"))}
    if name in known:
        return known[name]
    there = did_you_mean(name, known) or f" There are: {', '.join(sorted(known)) or 'none'}."
    raise RecipeError(f"--profile {name}: no such profile in {', '.join(map(str, _folders()))}.{there}")


def _folders() -> tuple[Path, ...]:
    """Where profiles lie, the last wins."""
    installed = Path(sysconfig.get_path("data")) / "share" / "cldctl" / "recipes" / "profiles"
    return installed, Path(__file__).parents[1] / "recipes" / "profiles", Path.home() / ".config/cldctl/profiles"
