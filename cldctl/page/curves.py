"""What a run wrote for TensorBoard: scalars against the step, and the newest picture."""

from dataclasses import dataclass, field
from pathlib import Path

Points = list[tuple[int, float]]


@dataclass
class Board:
    """Scalars by tag, ascending in the step, and the newest picture of each tag as PNG."""

    scalars: dict[str, Points] = field(default_factory=dict)
    pictures: dict[str, tuple[int, bytes]] = field(default_factory=dict)


def read(folder: Path) -> Board:
    """Everything in ``folder`` and its direct subfolders; what a restart wrote again replaces the old values."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = Board()
    scalars: dict[str, dict[int, float]] = {}
    folders = sorted({file.parent for file in [*folder.glob("*tfevents*"), *folder.glob("*/*tfevents*")]})
    for place in folders:
        # 0 means all of them.
        events = EventAccumulator(str(place), size_guidance={"scalars": 0, "images": 1})
        events.Reload()
        prefix = "" if place == folder else f"{place.name}: "
        for tag in events.Tags()["scalars"]:
            scalars.setdefault(f"{prefix}{tag}", {}).update(
                {int(event.step): float(event.value) for event in events.Scalars(tag)}
            )
        for tag in events.Tags()["images"]:
            # A tag has no pictures left if a restart began before them.
            for picture in events.Images(tag)[-1:]:
                board.pictures[f"{prefix}{tag}"] = (int(picture.step), picture.encoded_image_string)
    board.scalars = {tag: sorted(points.items()) for tag, points in scalars.items()}
    return board
