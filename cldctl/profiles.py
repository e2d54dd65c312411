"""Profiles: what one cluster needs for its jobs, apart from what they compute."""

import sysconfig
from pathlib import Path

from cld_core.errors import RecipeError, did_you_mean


def find_profile(name: str | None) -> Path | None:
    """The file of a profile, given as a path or by its name; None if no name is given.

    Raises:
        RecipeError: there is no such profile; names the nearest.
    """
    if name is None:
        return None
    if Path(name).is_file():
        return Path(name)
    profiles = {file.stem: file for folder in _folders() for file in sorted(folder.glob("*.yaml"))}
    if name in profiles:
        return profiles[name]
    fix = did_you_mean(name, profiles) or f" Available: {', '.join(sorted(profiles)) or 'none'}."
    raise RecipeError(f"--profile {name}: there is no such profile in {', '.join(map(str, _folders()))}.{fix}")


def _folders() -> tuple[Path, ...]:
    """The folders of profiles; a later one wins."""
    installed = Path(sysconfig.get_path("data")) / "share" / "cldctl" / "recipes" / "profiles"
    return installed, Path(__file__).parents[1] / "recipes" / "profiles", Path.home() / ".config/cldctl/profiles"
