"""What checkpoints and exported files hold, typed: they may be anybody's."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cld_core.config.ema import LONGEST
from cld_core.files import parse_json
from cld_core.sanitize import one_line

# A recipe has some thousand characters, a step some digits.
_LONGEST_METADATA = 2**20
_LONGEST_STEP = 15


def weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of a checkpoint as they are trained, by name.

    Raises:
        ValueError: it has something else in their place.
    """
    return _tensors(_part(state, "model"), "weights")


def averages(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The averaged weights of a checkpoint; raises as `weights` does."""
    return _tensors(_part(_part(state, "ema"), "average"), "averages")


def power_average(state: Mapping[str, Any], key: str) -> dict[str, Tensor]:
    """The power-function average of a checkpoint or snapshot under a name (`averages`); raises as `weights` does."""
    return _tensors(_part(_part(_part(state, "power"), "averages"), key), f"average of length {key}")


def described(about: Mapping[str, str], name: str) -> dict[str, Any]:
    """An object in the metadata of an exported file.

    Raises:
        ValueError: it is missing, too large, or not an object in JSON.
    """
    text = about.get(name, "")
    if len(text) > _LONGEST_METADATA:
        raise ValueError(f"its {name} is longer than {_LONGEST_METADATA} characters")
    content = parse_json(text)
    if not isinstance(content, dict):
        raise ValueError(f"its {name} is not a JSON object")
    return content


def step(about: Mapping[str, str]) -> int:
    """The step in the metadata of an exported file; raises ValueError if it is not a number."""
    text = about.get("step", "")
    if not text.isascii() or not text.isdigit() or len(text) > _LONGEST_STEP:
        raise ValueError(f"its step is {one_line(text, 40)!r}")
    return int(text)


def ema_length(about: Mapping[str, str]) -> float | None:
    """The length of the average in the metadata of an exported file; None if it is the usual one."""
    try:
        length = float(about.get("ema_length", "nan"))
    except ValueError:
        return None
    return length if 0 < length < LONGEST else None


def _part(content: Any, name: str) -> Any:
    return content[name] if isinstance(content, Mapping) and name in content else None


def _tensors(content: Any, what: str) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise ValueError(f"Missing {what}: it has no tensors by name in their place")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(f"Unexpected {one_line(name, 80)!r} among the {what}, which is not a tensor")
    return dict(content)
