"""What a run wrote for TensorBoard: scalars against the step, and the newest picture."""

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from cld_core.small_files import opened

# What the loss of a training is called there.
LOSS = "train/loss"
# Of one file. A reader of damaged ones may want all of it in memory.
_MOST_BYTES = 512 * 2**20
Points = list[tuple[int, float]]


@dataclass
class Board:
    """Scalars by tag, ascending in the step, and the newest picture of each tag as PNG."""

    scalars: dict[str, Points] = field(default_factory=dict)
    pictures: dict[str, tuple[int, bytes]] = field(default_factory=dict)


def read(folder: Path, *, follow: bool = False) -> Board:
    """Everything in ``folder`` of a run, and in its direct subfolders, that is part of the run.

    What an attempt wrote after the step from which a later one resumed is not, and where two wrote the same step, the
    later one counts. TensorBoard's own reader does the same, but complains of steps that are "out of order".

    Args:
        follow: also read folders that links lead out of the run to; otherwise they are left out.
    """
    board = Board()
    home = folder.parent.resolve()
    places = sorted({file.parent for file in [*folder.glob("*tfevents*"), *folder.glob("*/*tfevents*")]})
    for place in (place for place in places if follow or place.resolve().is_relative_to(home)):
        scalars: dict[str, dict[int, float]] = {}
        pictures: dict[str, tuple[int, bytes]] = {}
        end = math.inf
        for events in reversed(_files(place)):
            end = _add(scalars, pictures, events, end)
        prefix = "" if place == folder else f"{place.name}: "
        board.scalars |= {f"{prefix}{tag}": sorted(points.items()) for tag, points in scalars.items()}
        board.pictures |= {f"{prefix}{tag}": picture for tag, picture in pictures.items()}
    return board


def _add(
    scalars: dict[str, dict[int, float]], pictures: dict[str, tuple[int, bytes]], events: Iterator[Any], end: float
) -> float:
    """Add the events of a file to those of later files, of which the first begins at step ``end``; returns its own."""
    from tensorboard.compat.proto.event_pb2 import SessionLog

    begin = end
    own: dict[str, dict[int, float]] = {}
    shown: dict[str, tuple[int, bytes]] = {}
    for event in events:
        if event.session_log.status == SessionLog.START:
            begin = min(begin, event.step)
        for value in event.summary.value if event.step < end else ():
            if value.HasField("simple_value"):
                own.setdefault(value.tag, {})[int(event.step)] = float(value.simple_value)
            elif value.HasField("image"):
                shown[value.tag] = int(event.step), value.image.encoded_image_string
    for tag, points in own.items():
        scalars[tag] = points | scalars.get(tag, {})
    for tag, picture in shown.items():
        pictures[tag] = max(pictures.get(tag, picture), picture, key=lambda entry: entry[0])
    return begin


def _files(place: Path) -> list[Iterator[Any]]:
    """The events of each file in a folder, in the order in which the files were begun."""
    loaded = [_events(file) for file in place.glob("*tfevents*")]
    begun = [(first, events) for events in loaded if (first := next(events, None)) is not None]
    return [chain([first], events) for first, events in sorted(begun, key=lambda entry: entry[0].wall_time)]


def _events(file: Path) -> Iterator[Any]:
    """The events of a file up to the first that is damaged; none of a link, or of what is larger than any such file."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    # Whatever its reader meets in a damaged file: the other files are shown.
    with contextlib.suppress(Exception), opened(file) as held:
        if os.fstat(held.fileno()).st_size <= _MOST_BYTES:
            # By its descriptor: another file may take its name meanwhile.
            yield from LegacyEventFileLoader(f"/proc/self/fd/{held.fileno()}").Load()
