"""The state file of a shard: what it is made of and how far it is. Loads no numpy, because `status` reads it.

shards/00003.json              what the shard is made of, and for each kind of rows how far it is
shards/00003-features.rows     rows in progress, one batch after another
shards/00003-features.npz      what is kept of rows that are complete ("sealed")
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cld_core.codec import whole
from cld_core.files import read_object

_STATE = re.compile(r"([0-9]{5,9})\.json")
Ranges = Mapping[str, tuple[int, int]]


def state_file(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05d}.json"


def rows_file(folder: Path, shard: int, kind: str) -> Path:
    return folder / f"{shard:05d}-{kind}.rows"


def sealed_file(folder: Path, shard: int, kind: str) -> Path:
    return folder / f"{shard:05d}-{kind}.npz"


def read_state(folder: Path, shard: int) -> dict[str, Any]:
    """The content of a state file; empty if there is none. Parts that are not those of a shard are left out."""
    content = read_object(state_file(folder, shard))
    parts = content.get("work")
    if parts is not None:
        found = parts.items() if isinstance(parts, dict) else ()
        content["work"] = {kind: part for kind, part in found if _is_part(part)}
    return content


def _is_part(part: Any) -> bool:
    """Whether a part of a state has the numbers of one, and they make sense."""
    if not isinstance(part, dict):
        return False
    first, last, done = (whole(part.get(name)) for name in ("first", "last", "done"))
    size = whole(part.get("bytes", 0))
    return None not in (first, last, done, size) and bool(part["first"] <= part["last"])


def begun(folder: Path) -> set[int]:
    """The shards that have a state file."""
    try:
        return {int(match[1]) for name in os.listdir(folder) if (match := _STATE.fullmatch(name))}
    except OSError:
        return set()


def is_made_of(state: Mapping[str, Any], made_of: Mapping[str, str]) -> bool:
    """Whether a shard comes from this request, this checkpoint and so on."""
    return all(state.get(name) == value for name, value in made_of.items())


def is_complete(folder: Path, shard: int, made_of: Mapping[str, str], ranges: Ranges) -> bool:
    """Whether all rows of a shard are sealed, made of just that, and in files of the promised size."""
    state = read_state(folder, shard)
    if not is_made_of(state, made_of):
        return False
    parts = state.get("work", {})
    return all(is_sealed(folder, shard, kind, parts.get(kind, {}), bounds) for kind, bounds in ranges.items())


def is_sealed(folder: Path, shard: int, kind: str, part: Mapping[str, Any], bounds: tuple[int, int]) -> bool:
    """Whether a state's part says that these rows are sealed and their file has the size that it says."""
    if "bytes" not in part or (part["first"], part["last"]) != bounds:
        return False
    try:
        return bool(sealed_file(folder, shard, kind).lstat().st_size == part["bytes"])
    except OSError:
        return False


def rows_of(folder: Path, shard: int, made_of: Mapping[str, str]) -> int:
    """Rows of one shard that are computed, in progress or in sealed files that are whole."""
    content = read_state(folder, shard)
    if not is_made_of(content, made_of):
        return 0
    parts = content.get("work", {})
    return sum(
        part["done"]
        for kind, part in parts.items()
        if "bytes" not in part or is_sealed(folder, shard, kind, part, (part["first"], part["last"]))
    )
