"""One attempt of a run: take the lease, choose where to start, train, and record how it ended."""

import contextlib
import os
import re
import socket
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from cld_core import processor
from cld_core.config import Recipe
from cld_core.data.source import identity_or_nothing
from cld_core.errors import (
    CheckpointError,
    CldError,
    LeaseHeldError,
    LeaseLostError,
    NonFiniteError,
    SaveError,
    UsageError,
)
from cld_core.files import passes, retried
from cld_core.ranks import Ranks
from cld_core.run import Lease, RunFolder, code, events
from cld_core.run import recipe as frozen
from cld_core.run.checkpoints import clear_unfinished, newest_good, set_aside, verify
from cld_core.run.events import Cause
from cld_core.run.identity import are_other_data, versions
from cld_core.stop import StopCode, StopFlag

from .loop import Training

# Errors that are written in code or recipe, the same at each start: another attempt would meet them again.
_BUGS = (
    UsageError,
    NameError,
    TypeError,
    AttributeError,
    ImportError,
    SyntaxError,
    LookupError,
    ValueError,
    ArithmeticError,
    AssertionError,
    NotImplementedError,  # by torch, for an operation that a device does not have
)
_CAUSE_OF_CODE: dict[StopCode, Cause] = {
    StopCode.NONE: "finished",
    StopCode.USR2: "preempted",
    StopCode.TERM: "terminated",
}
_MAX_DETAIL = 500  # characters
# Its first line: NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build ...
_DRIVER = Path("/proc/driver/nvidia/version")
_VERSION = re.compile(r"^NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", re.MULTILINE)
# Seconds for which a start is repeated while the disk or the file system fails, and for which a line of the ledger is.
_START_WITHIN_S, _NOTE_WITHIN_S = 60.0, 10.0

# What a signal meant, a cause of the ledger; None if nobody knows.
CauseOf = Callable[[StopCode], Cause | None]


@dataclass(frozen=True)
class SessionResult:
    """How an attempt ended: the cause as in the ledger, and the step that was reached and saved."""

    cause: Cause
    step: int
    code: StopCode = StopCode.NONE


def run(
    folder: RunFolder,
    ranks: Ranks,
    stop: StopFlag,
    *,
    job_id: str,
    recipe: Recipe | None = None,
    restart: int = 0,
    log: Path | None = None,
    began: float | None = None,
    cause_of: CauseOf = lambda code: None,
    node: str = "",
) -> SessionResult:
    """Train the run of ``folder`` from its newest good checkpoint, on all ranks.

    Args:
        job_id: the launcher's name for this job.
        recipe: of the run, if it has been read.
        restart: earlier starts of this same job by the launcher.
        log: the file that the launcher writes its notices to; its current size is recorded in the ledger.
        began: when the job got its machines, seconds since 1970; None if nobody knows.
        cause_of: what a signal meant, asked on rank 0 once everything is saved.
        node: what the launcher calls this machine.

    Raises:
        LeaseHeldError, LeaseLostError: another job writes into this run.
        CheckpointError: no checkpoint fits, or a new one cannot be written.
        NonFiniteError: the gradient was not finite or exploded, and rolling back did not help.
        RecipeError: the frozen recipe is damaged.
        OSError: something cannot be read or written for a minute.
        RankError: rank 0 could not start or continue, and this is another rank.
    """
    # One name everywhere: the launcher's, by which nodes are avoided, too.
    node = node or socket.gethostname()
    if recipe is None:
        recipe = folder.recipe(within_s=_START_WITHIN_S, with_plugins=True)
    with _started(folder, recipe, ranks, job_id, restart) as (number, first_step, lease):
        # Before anything that may fail on one rank alone.
        hosts = tuple(ranks.gather(node) or ())
        if first_step >= recipe.train.steps:
            print(f"{folder.name} is finished: {first_step} steps are done. Nothing to do.", flush=True)
            if lease is not None and folder.ledger.history().cause == "finished":
                folder.ledger.note(events.TurnedAway(job_id=job_id, why="finished"))
            elif lease is not None:
                # It was killed after its last save, or its ledger was lost.
                folder.ledger.note(events.Started(attempt=number, job_id=job_id, step=first_step, restart=restart))
                folder.ledger.note(events.Ended(attempt=number, cause="finished", step=first_step))
            return SessionResult("finished", first_step)
        training = Training(folder, recipe, ranks, stop, number, first_step, lease, hosts)
        if lease is None:
            step, signal = training.run()
            return SessionResult(_CAUSE_OF_CODE[signal], step, signal)
        if (edited := frozen.note(folder, _NOTE_WITHIN_S)) is not None:
            print(f"warning: {edited}", flush=True)
        if (problem := code.edited()) is not None:
            print(f"warning: {code.ROOT}: the code was changed after it was stored: {problem}", flush=True)
        progress = folder.progress()
        # What it saved may be later than what it reported.
        silent = progress.get("attempt") == number - 1
        beginning = events.Started(
            attempt=number,
            job_id=job_id,
            step=first_step,
            pid=os.getpid(),
            host=node,
            hosts=hosts,
            restart=restart,
            reached=max(progress.get("step", 0), first_step) if silent else None,
            heard=progress.get("time") if silent else None,
            log_offset=None if log is None else os.path.getsize(log) if os.path.exists(log) else 0,
            warning=_warning(recipe, ranks),
            versions=versions(),
            code=code.running(folder.path),
            gpu=torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else None,
            driver=driver(ranks.device),
            data=identity_or_nothing(recipe.data, recipe.plugins),
            began=began,
            ranks=ranks.world_size,
            gpus=recipe.cluster.gpus * ranks.world_size // recipe.cluster.world_size,
            cores=ranks.world_size * (recipe.cluster.cpus_per_task or 1),
        )
        if are_other_data(beginning.data, folder.ledger.full_history().data):
            print(f"warning: {folder.name} trains on other data than before (data.name={recipe.data.name})", flush=True)
        folder.ledger.note(beginning, within_s=_NOTE_WITHIN_S)
        return _recorded(training, cause_of)


@contextlib.contextmanager
def _started(
    folder: RunFolder, recipe: Recipe, ranks: Ranks, job_id: str, restart: int
) -> Iterator[tuple[int, int, Lease | None]]:
    """Number and first step of the attempt of all ranks, and on rank 0 the lease, which is held during the block."""
    held: list[Lease] = []

    def start() -> tuple[int, int]:
        try:
            held.append(Lease.acquire(folder.leases, job_id=job_id, restart=restart, within_s=_START_WITHIN_S))
            recipe.monitor.require_installed()
            return retried(lambda: choose(folder, recipe), _START_WITHIN_S)
        except LeaseHeldError as error:
            folder.ledger.note(events.TurnedAway(job_id=job_id, reason=str(error), why="held"))
            raise
        except Exception as error:
            # What passes is no reason not to start again.
            if not passes(error):
                event = events.GivenUp(job_id=job_id, reason=str(error), never_began=True)
                folder.ledger.note(event, within_s=_NOTE_WITHIN_S)
            raise

    try:
        yield *ranks.on_first(start), next(iter(held), None)
    finally:
        for lease in held:
            lease.release()


def choose(folder: RunFolder, recipe: Recipe) -> tuple[int, int]:
    """Number and first step of an attempt: it starts from the newest good checkpoint, or the one of `resume --from`.

    Records damaged checkpoints, and sets those aside that are later than the first step.

    Raises:
        OSError: the checkpoints cannot be read at this moment. They are not taken for missing or damaged.
        NotFoundError, CheckpointError: the checkpoint that was asked for is missing or damaged, none of the
            checkpoints is usable, or they belong to another recipe.
    """
    history = folder.ledger.full_history()
    # Copies and archives of runs leave empty folders out.
    folder.checkpoints.mkdir(exist_ok=True)
    clear_unfinished(folder)
    newest, damaged = newest_good(folder, recipe.model_digest())
    for entry in damaged:
        print(entry.skipped, flush=True)
        folder.ledger.note(events.Remarked("damaged", what=f"step {entry.step}", reason=entry.reason))
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
    return len(history.attempts), step


def _warning(recipe: Recipe, ranks: Ranks) -> str | None:
    """What makes this machine slow for the recipe; printed, too."""
    lacking = ranks.lacks_gpu(recipe.cluster.uses_gpu)
    emulated = ranks.device.type == "cpu" and processor.emulates(recipe.train.precision)
    slow = processor.warning(recipe.train.precision) if emulated else None
    warning = "; ".join(text for text in (lacking, slow) if text is not None) or None
    if warning is not None:
        print(f"warning: {warning}", flush=True)
    return warning


def _recorded(training: Training, cause_of: CauseOf) -> SessionResult:
    """Train on rank 0, and record in the ledger how it ended."""
    ledger = training.folder.ledger
    try:
        step, code = training.run()
    except LeaseLostError:
        raise  # The ledger belongs to the new owner.
    except BaseException as error:
        ledger.note(_failure(training, error), within_s=_NOTE_WITHIN_S)
        raise
    cause = _CAUSE_OF_CODE[code] if code is StopCode.NONE else cause_of(code) or _CAUSE_OF_CODE[code]
    detail = None if code is StopCode.NONE else f"SIG{code.name}"
    ended = events.Ended(attempt=training.attempt, cause=cause, step=step, detail=detail)
    ledger.note(ended, within_s=_NOTE_WITHIN_S)
    return SessionResult(cause, step, code)


def _failure(training: Training, error: BaseException) -> events.Ended:
    # Checkpoints beyond the first step are this attempt's, and may be later than what it last reported.
    reported = training.folder.progress()
    mine = reported.get("attempt") == training.attempt
    saved = training.folder.checkpoint_steps()
    reached = max(training.first_step, reported.get("step", 0) if mine else 0, *saved[-1:])
    cause: Cause = "crashed"
    if isinstance(error, NonFiniteError):
        cause = "nonfinite"
    elif isinstance(error, SaveError):
        cause, reached = "save_failed", max(reached, error.step)
    return events.Ended(
        attempt=training.attempt,
        cause=cause,
        step=reached,
        detail=_message(error)[:_MAX_DETAIL],
        bug=isinstance(error, _BUGS),
    )


def _message(error: BaseException) -> str:
    text = str(error) if isinstance(error, CldError) else traceback.format_exception_only(error)[-1].strip()
    # If a peer has died, gloo and NCCL report sockets.
    if "gloo" in text or "NCCL" in text:
        return "another rank is gone, killed or crashed; `cldctl logs --rank N` shows the last output of each"
    return text


def driver(device: torch.device, file: Path = _DRIVER) -> str | None:
    """The version of the driver of a GPU; None for a CPU, and where nobody tells."""
    if device.type != "cuda":
        return None
    with contextlib.suppress(OSError):
        if (found := _VERSION.search(file.read_text(errors="replace"))) is not None:
            return found[1]
    return None
