"""A profile as overrides, for a run whose recipe is frozen."""

from pathlib import Path

from .layers import profile_layer
from .reading import to_yaml_line
from .references import literal


def as_overrides(profile: Path) -> tuple[str, ...]:
    """The settings of a profile, one override for each key.

    Raises:
        RecipeError: it cannot be read, or has another section than `cluster`.
    """
    cluster = profile_layer(profile).keys.get("cluster") or {}
    return tuple(f"cluster.{name}={to_yaml_line(literal(value))}" for name, value in cluster.items())
