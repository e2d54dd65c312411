"""Which shards are complete, from one look into their folder. Loads no numpy, because `status` asks.

shards/00003.0a1b2c3d4e5f6071.complete      an empty file, the mark: shard 3 is complete, made of what has this digest

The last steps of a thousand tasks, and every `status` meanwhile, would otherwise read a thousand state files each. A
mark is made after the state is sealed and removed before the shard is begun again. It is only a cache: where it is
missing, the state is read. Files that were cut short are noticed by `Work.missing`, which stays the authority.
"""

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cld_core.digests import digest
from cld_core.ranges import share

from . import state

_SUFFIX = ".complete"
_MARK = re.compile(r"([0-9]{5,9})\.([0-9a-f]{16})\.complete")
# The most states in progress that are read to count rows; the others are taken to be as far on average.
MOST_READ = 64


@dataclass(frozen=True)
class Tally:
    """A look at the shards of some work.

    Attributes:
        complete: those that are.
        begun: those that are in progress, or of another origin.
    """

    complete: frozenset[int]
    begun: tuple[int, ...]


def look(folder: Path, shards: int, sizes: Mapping[str, int], made_of: Mapping[str, str]) -> Tally:
    """Look at the shards in a folder.

    Args:
        shards: their number.
        sizes: rows of each kind.
        made_of: all that complete shards come from; a partial answer would match none of the marks.
    """
    names = _names(folder)
    marks: dict[int, set[str]] = {}
    for name in names:
        if name.endswith(_SUFFIX) and (match := _MARK.fullmatch(name)):
            marks.setdefault(int(match[1]), set()).add(match[2])
    current, complete, begun = _digest(made_of), set(), []
    # Plain texts: paths of ten thousand shards would take longer than all the rest.
    for shard in (shard for shard in range(shards) if f"{shard:05d}.json" in names):
        ranges = {kind: share(size, shard, shards) for kind, size in sizes.items()}
        kinds = [kind for kind, (first, last) in ranges.items() if first < last]
        if all(f"{shard:05d}-{kind}.npz" in names for kind in kinds) and (
            current in marks[shard]
            if shard in marks
            else state.is_complete(folder, shard, made_of, {kind: ranges[kind] for kind in kinds})
        ):
            complete.add(shard)
        else:
            begun.append(shard)
    return Tally(frozenset(complete), tuple(begun))


def all_begun(folder: Path, shards: int) -> bool:
    """Whether there is a state of every shard; the quickest way to see that not all can be complete."""
    return sum(name.endswith(".json") for name in _names(folder)) >= shards


def rows(folder: Path, shards: int, sizes: Mapping[str, int], made_of: Mapping[str, str]) -> int:
    """Rows that are computed; of many shards in progress, an estimate."""
    tally = look(folder, shards, sizes, made_of)
    done = sum(_share(sizes, shard, shards) for shard in tally.complete)
    stride = -(-len(tally.begun) // MOST_READ) or 1
    sample = tally.begun[::stride]
    seen = sum(state.rows_of(folder, shard, made_of) for shard in sample)
    return done + (seen * len(tally.begun) // len(sample) if sample else 0)


def mark(folder: Path, shard: int, made_of: Mapping[str, str]) -> None:
    """Note that a shard is complete. What cannot be noted is read from the state."""
    with contextlib.suppress(OSError):
        os.close(os.open(folder / f"{shard:05d}.{_digest(made_of)}.complete", os.O_WRONLY | os.O_CREAT, 0o666))


def unmark(folder: Path, shard: int) -> None:
    """Forget that a shard was complete.

    Raises:
        OSError: it cannot be forgotten at this moment.
    """
    for name in os.listdir(folder):
        if (match := _MARK.fullmatch(name)) and int(match[1]) == shard:
            (folder / name).unlink(missing_ok=True)


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def _share(sizes: Mapping[str, int], shard: int, shards: int) -> int:
    ranges = (share(size, shard, shards) for size in sizes.values())
    return sum(last - first for first, last in ranges)


def _digest(made_of: Mapping[str, str]) -> str:
    return digest(dict(made_of))[:16]
