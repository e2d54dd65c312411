"""What the small files of a run folder hold, by field; a value of another type, or out of bounds, is left out."""

from collections.abc import Callable, Mapping
from typing import Any, TypedDict

from cld_core.small_files import real, text, whole


def _texts(value: Any) -> dict[str, str] | None:
    return value if isinstance(value, dict) and all(text(one) is not None for one in value.values()) else None


IDENTITY: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("name", "recipe", "recipe_file", "user", "host", "imported", "group", "recipe_digest"), text),
    "created": real,
    "format": whole,
    **dict.fromkeys(("sweep", "versions"), _texts),
    "git": lambda value: value if isinstance(value, dict) and text(value.get("commit", "")) is not None else None,
}
PROGRESS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("attempt", "step", "steps"), whole),
    **dict.fromkeys(("loss", "smoothed_loss", "steps_per_s", "time", "every_s"), real),
    **dict.fromkeys(("warning", "phase"), text),
}
# Those that may be null.
_OPTIONAL = ("loss", "steps_per_s", "git", "recipe_file")


class ReportedProgress(TypedDict, total=False):
    """What `progress.json` holds; ``time`` in seconds since 1970, ``warning`` if something is wrong.

    ``every_s`` are the seconds since the report before. ``phase`` is what the training does ("starting", "training",
    "saving", "evaluating" or "drawing samples"), and ``smoothed_loss`` the mean of the last losses
    (`cld_core.train.monitoring`).
    """

    attempt: int
    step: int
    steps: int
    loss: float | None
    steps_per_s: float | None
    time: float
    every_s: float
    warning: str
    phase: str
    smoothed_loss: float


def typed(content: Mapping[str, Any], types: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """``content`` without the fields of ``types`` whose values do not fit."""

    def fits(name: str, value: Any) -> bool:
        return name in _OPTIONAL if value is None else name not in types or types[name](value) is not None

    return {name: value for name, value in content.items() if fits(name, value)}
