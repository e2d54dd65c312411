"""What a run wrote for TensorBoard: scalars against the step."""

import contextlib
import logging
import math
from pathlib import Path

from cld_core.run import RunFolder

# What the loss of a training is called there.
LOSS = "train/loss"
Points = list[tuple[int, float]]


def is_inside(run: RunFolder, folder: Path, *, follow: bool) -> bool:
    """Whether a page may show what is in a folder: it is part of the run, and no link leads out of it.

    Args:
        follow: any folder may be shown, as somebody wants who keeps parts of a run on another disk.
    """
    try:
        return follow or folder.resolve().is_relative_to(run.path.resolve())
    except (OSError, RuntimeError):  # A link that leads to itself.
        return False


def read(run: RunFolder, *, follow: bool = False) -> dict[str, Points]:
    """The finite values of each tag, ascending in the step; of a subfolder, with its name before the tag.

    Where an attempt repeats steps of an earlier one, the later one counts. A folder with an event file that is not a
    regular file is left out.
    """
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    # It complains of repeated steps and of the ends of files that are being written.
    logging.getLogger("tensorboard").setLevel(logging.CRITICAL)
    found: dict[str, Points] = {}
    files = [*run.tensorboard.glob("*tfevents*"), *run.tensorboard.glob("*/*tfevents*")]
    for folder in sorted({file.parent for file in files if is_inside(run, file.parent, follow=follow)}):
        if not all(file.is_file() for file in folder.glob("*tfevents*")):
            continue
        events = EventAccumulator(str(folder), size_guidance={SCALARS: 0})
        # A damaged file ends where it is damaged.
        with contextlib.suppress(Exception):
            events.Reload()
        prefix = "" if folder == run.tensorboard else f"{folder.name}: "
        for tag in events.Tags()[SCALARS]:
            points = {event.step: event.value for event in events.Scalars(tag) if math.isfinite(event.value)}
            found[prefix + tag] = sorted(points.items())
    return found
