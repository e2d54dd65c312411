"""Where an attempt starts: which checkpoint it continues from, decided by rank 0 for all ranks."""

from dataclasses import dataclass

from cld_core.checkpoint.files import clear_unfinished, newest_good, set_aside, verify
from cld_core.config import Recipe
from cld_core.errors import CheckpointError
from cld_core.run import RunFolder, events, pending


@dataclass(frozen=True)
class Start:
    """Number and first step of an attempt; ``problem`` says why it cannot start at all."""

    attempt: int = -1
    step: int = 0
    finished: bool = False
    problem: str | None = None


def choose(folder: RunFolder, recipe: Recipe) -> Start:
    """Start from the newest good checkpoint, or from the one that `resume --from` asked for.

    Records damaged checkpoints, and sets those aside that are later than the first step.

    Raises:
        OSError: the checkpoints cannot be read at this moment. They are not taken for missing or damaged.
        NotFoundError, CheckpointError: the checkpoint that was asked for is missing or damaged, none of the
            checkpoints is usable, or they belong to another recipe.
    """
    history = pending.history(folder.ledger)
    # Copies and archives of runs leave empty folders out.
    folder.checkpoints.mkdir(exist_ok=True)
    clear_unfinished(folder)
    newest, damaged = newest_good(folder, recipe.model_digest())
    for entry in damaged:
        print(entry.skipped, flush=True)
        pending.append(folder.ledger, events.Damaged(step=entry.step, reason=entry.reason))
    if history.from_step is not None:
        verify(folder, history.from_step, model_digest=recipe.model_digest())
        newest = history.from_step
    elif newest is None and any(entry.finished for entry in damaged):
        text = f"none of its {len(damaged)} checkpoints is intact: {damaged[0].reason}"
        raise CheckpointError(f"{folder.path}: {text} To start over, submit the recipe again.")
    step = newest or 0
    moved = set_aside(folder, after=step)
    if moved:
        print(f"set aside the checkpoints of steps {', '.join(map(str, moved))}", flush=True)
    return Start(len(history.attempts), step, finished=step >= recipe.train.steps)
