"""One attempt of a run: take the lease, choose where to start, train, and record how it ended.

`periodic` computes samples, likelihood bounds and FIDs at the steps that the recipe names.

The train loop (`Session`) never submits, requeues or polls: it gets a stop flag and returns why it
ended. When a loss or gradient explodes, it continues from the last good checkpoint with fresh
noise. The number of rollbacks to each checkpoint is bounded. The ledger counts them, so a new
attempt does not start from zero, and a run that reaches a later checkpoint may roll back again.
"""

import os
import re
import socket
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from cld_core import cpu
from cld_core.checkpoint import State, Writer, checkpoints, load, snapshots
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
from cld_core.evaluate.request import PERIODIC, is_ever_due
from cld_core.files import passes, retried
from cld_core.nets import execution
from cld_core.plugins import resolve
from cld_core.ranks import Consensus, Ranks
from cld_core.run import Lease, RunFolder, code, events
from cld_core.run import recipe as frozen
from cld_core.run.checkpoints import clear_unfinished, newest_good, set_aside, verify
from cld_core.run.events import Cause
from cld_core.run.identity import are_other_data, versions
from cld_core.run.work import Outcome, Start, Training
from cld_core.stop import StopCode, StopFlag

from .health import EVERY, Stragglers, Watchdog
from .loggers import LoggedAttempt, Monitor
from .step import Trainer

# Errors that come from the code or the recipe: every further attempt would fail in the same way.
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
_MAX_DETAIL = 500  # characters
# Its first line: "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release ..."
_DRIVER = Path("/proc/driver/nvidia/version")
_VERSION = re.compile(r"^NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", re.MULTILINE)
# Seconds for which a start, and a line of the ledger, are retried while the file system fails.
_START_WITHIN_S = 60.0
_NOTE_WITHIN_S = 10.0

# Seconds for which the last save is retried. After the last step: the other ranks wait no longer
# than ten minutes.
_AT_THE_END_S = 480.0
# After SIGTERM, which leaves KillWait (30 s on most clusters).
_TERM_S = 20.0
# After SIGUSR2: this share of the notice, which is 90 s by default.
_NOTICE_S = 90
_SHARE = 2 / 3
# Keys in the identity of a run that began with a checkpoint from elsewhere.
_FROM_ELSEWHERE = {"imported", "started_from"}
# The noise key of a segment: the attempt, plus this for each rollback. Runs have far fewer
# attempts.
_ROLLBACK_KEY = 1_000_000


@dataclass(frozen=True)
class Session:
    """The training of one attempt on this rank: a segment, and one more after each rollback.

    Attributes:
        attempt: its number, from 0.
        checkpoint: the step of the checkpoint to continue from; None begins with new weights.
        lease: the lease of the run folder; None on ranks other than the first.
        hosts: the launcher's names of the machines of all ranks; empty on ranks other than the
            first.
    """

    folder: RunFolder
    recipe: Recipe
    ranks: Ranks
    stop: StopFlag
    attempt: int
    checkpoint: int | None
    lease: Lease | None
    hosts: Sequence[str]
    # The writers by the kind of file, on rank 0 alone. Each has at most one write in flight.
    _writers: dict[str, Writer] = field(default_factory=dict, init=False)

    def run(self) -> tuple[int, StopCode]:
        """Train until all steps are done or a rank stops. Everything is saved when this returns.

        Returns:
            The last step, and why it is the last; `StopCode.NONE` means that all steps are done.

        Raises:
            NonFiniteError: a gradient or loss was not finite or exploded, and rolling back did not
                help.
            SaveError: a checkpoint could not be written.
            LeaseLostError: another job owns the run folder.
            RankError: one of these happened on rank 0, and this is another rank.
        """
        spec = self.recipe.train
        if self.lease is not None:
            self._open_writers(self.lease)
        # With fixed shapes, kernels are chosen by timing and may differ from start to start, which
        # an exact run must not.
        with (
            execution.using(tf32=spec.tf32, fixed_shapes=spec.on_resume != "exact"),
            closing(Watchdog(spec.hang_timeout_s)) as watchdog,
        ):
            step, code = self._segments(watchdog)
        self.ranks.on_first(lambda: self._settle(code))
        return step, code

    def _open_writers(self, lease: Lease) -> None:
        spec = self.recipe.train
        imported = self.folder.ledger.full_history().imported_step

        def is_milestone(step: int) -> bool:
            # An imported checkpoint cannot be computed again.
            return spec.is_milestone(step) or step == imported

        self._writers["checkpoint"] = checkpoints(
            self.folder,
            keep=spec.keep,
            milestone=is_milestone,
            regular=spec.is_regular,
            check_owner=lease.check,
        )
        if spec.ema_lengths:
            half = spec.ema_precision == "fp16"
            self._writers["snapshot"] = snapshots(self.folder, half=half, check_owner=lease.check)

    def _segments(self, watchdog: Watchdog) -> tuple[int, StopCode]:
        """Train, and roll back as often as allowed."""
        checkpoint = self.checkpoint
        rollbacks = self.ranks.on_first(lambda: self.folder.ledger.full_history().rollbacks())
        while True:
            try:
                return self._segment(checkpoint, rollbacks, watchdog)
            except NonFiniteError as error:
                checkpoint = self.ranks.on_first(partial(self._roll_back, error))
                rollbacks += 1

    def _segment(
        self, checkpoint: int | None, rollbacks: int, watchdog: Watchdog
    ) -> tuple[int, StopCode]:
        """Train until `train.steps`, or until a rank stops; all ranks end at the same step.

        Unless a rank fails, a checkpoint of the last step is being written when this returns.

        Raises:
            NonFiniteError: a gradient or loss was not finite or exploded; on all ranks. Weights
                and optimiser are unchanged by it.
        """
        spec = self.recipe.train
        stop = self.stop
        first_step = checkpoint or 0
        began = self._now()
        consensus = Consensus(self.ranks)
        stragglers = Stragglers(self.ranks, self.hosts)
        with ExitStack() as stack:
            watchdog.reset()
            trainer = self._trainer(checkpoint, rollbacks, watchdog)
            stack.callback(trainer.close)
            about = LoggedAttempt(
                folder=self.folder, recipe=self.recipe, attempt=self.attempt, first_step=first_step
            )
            monitor = Monitor(about, may_write=None if self.lease is None else self.lease.owned)
            stack.push(monitor.close)
            monitor.write(first_step)
            periodic: Callable[[int], None] | None = None
            if any(is_ever_due(self.recipe, what) for what in PERIODIC):
                periodic_class = resolve("cld_core.train.periodic:Periodic")
                periodic = periodic_class(trainer, self.folder, monitor, stop, watchdog.reset)
            stack.callback(watchdog.close)
            watchdog.reset()
            done = first_step
            code = StopCode.NONE
            saved_at = time.monotonic()
            while done < spec.steps:
                if self._must_fail():
                    stop.request(StopCode.FAILURE)
                # During the step, the ranks exchange whether to stop or to save after it.
                consensus.begin(stop.code, saves=self._save_is_due(saved_at))
                try:
                    trainer.step(done)
                finally:
                    code = consensus.result()
                done += 1
                watchdog.reset()
                if code is StopCode.FAILURE:
                    return done, code
                ends = done == spec.steps or code is not StopCode.NONE
                if ends or done % spec.log_every == 0:
                    trainer.check(done - 1)
                    scalars = trainer.take_scalars()
                    trainer.check(done - 1, scalars.get("loss"))
                    monitor.report(done, scalars)
                if ends or spec.is_regular(done) or consensus.saves:
                    saved_at = time.monotonic()
                    self._save("checkpoint", done, trainer, trainer.state_dict, monitor)
                if spec.wants_snapshot(done):
                    self._save("snapshot", done, trainer, trainer.averages_dict, monitor)
                if code is not StopCode.NONE:
                    break
                if done == first_step + 1:
                    monitor.started(done, self._now() - began)
                if periodic is not None:
                    periodic(done)
                if done % (spec.log_every * EVERY) == 0:
                    compared = stragglers.compare(trainer.interval.take_own_time())
                    if compared is not None:
                        monitor.warn(*compared)
            # The last checkpoint is still being written.
            monitor.write(done, "saving")
            return done, code

    def _must_fail(self) -> bool:
        """Whether a write failed or the lease is lost; False on ranks other than the first."""
        if self.lease is not None and self.lease.lost:
            return True
        return any(writer.failed for writer in self._writers.values())

    def _trainer(self, checkpoint: int | None, rollbacks: int, watchdog: Watchdog) -> Trainer:
        attempt = self.attempt if self.recipe.train.on_resume == "reseed" else 0
        # No other segment has the same key.
        trainer = Trainer(self.recipe, self.ranks, attempt + _ROLLBACK_KEY * rollbacks)
        if checkpoint is not None:
            # The state is memory-mapped and copied to the device, without another copy in memory.
            state = load(self.folder, checkpoint, model_digest=self.recipe.model_digest())
            trainer.load_state_dict(state)
            if self.ranks.is_first and trainer.power.begins:
                print(f"the power-function averages begin at step {checkpoint}", flush=True)
        watchdog.reset()
        trainer.warm_up()
        return trainer

    def _save_is_due(self, saved_at: float) -> bool:
        """Whether `train.checkpoint_minutes` have passed since a save; False on other ranks.

        Also False while a write is in flight, so that a slow disk does not hold up the training.
        """
        minutes = self.recipe.train.checkpoint_minutes
        if minutes is None or time.monotonic() - saved_at < 60.0 * minutes:
            return False
        writer = self._writers.get("checkpoint")
        return writer is not None and not writer.is_busy

    def _save(
        self,
        kind: str,
        step: int,
        trainer: Trainer,
        state: Callable[[], State],
        monitor: Monitor,
    ) -> None:
        # Rollbacks return to checkpoints and keep all snapshots, so all steps before them must be
        # good.
        trainer.check(step - 1)
        if kind not in self._writers:
            return
        if self._writers[kind].is_busy:
            monitor.enter("saving", step)
        self._writers[kind].save(step, state())
        monitor.enter("training", step)

    def _end_writes(self, wait: Callable[[Writer], None]) -> None:
        """Wait for all writers. If one fails, its error is raised once all threads have ended."""
        with ExitStack() as stack:
            for writer in reversed(self._writers.values()):
                stack.callback(wait, writer)

    def _roll_back(self, error: NonFiniteError) -> int | None:
        """Record a rollback in the ledger, and return the step to continue from.

        Returns:
            The step of the newest good checkpoint; None if there is none: training starts over.

        Raises:
            NonFiniteError: rolling back is impossible, or has been tried often enough.
        """
        folder = self.folder
        recipe = self.recipe
        try:
            self._end_writes(Writer.abandon)
            if recipe.train.on_resume == "exact":
                self._give_up_irregular()
            newest, _ = newest_good(folder, recipe.model_digest())
            set_aside(folder, after=newest or 0)
        except (CldError, OSError) as obstacle:
            raise NonFiniteError(f"{error} Rolling back is impossible: {obstacle}") from obstacle
        target = newest or 0
        before = folder.ledger.full_history().rollbacks(target)
        limit = recipe.train.max_rollbacks
        if before >= limit:
            raise NonFiniteError(
                f"{error} {before} rollbacks to step {target}, each with fresh noise, did not help."
            )
        print(
            f"{error}\nrollback {before + 1} of at most {limit} to step {target}, with fresh noise",
            flush=True,
        )
        event = events.RolledBack(attempt=self.attempt, to_step=target, reason=str(error)[:500])
        folder.ledger.note(event)
        return newest

    def _give_up_irregular(self) -> None:
        """Set aside checkpoints after the last regular one, which were saved by time or at a stop.

        Their steps depend on the speed of the machine, and so would the noise after a rollback to
        them. If there is no regular checkpoint, they stay.
        """
        spec = self.recipe.train
        imported = self.folder.ledger.full_history().imported_step
        steps = self.folder.listed_steps()
        regular = [step for step in steps if spec.is_regular(step) or step == imported]
        if regular:
            set_aside(self.folder, after=max(regular))

    def _settle(self, code: StopCode) -> None:
        """Wait until everything is saved, but after a signal leave time to end the attempt."""
        patience_s = {
            StopCode.NONE: _AT_THE_END_S,
            StopCode.TERM: _TERM_S,
            StopCode.USR2: _SHARE * (self.recipe.cluster.signal_s or _NOTICE_S),
        }
        deadline = time.monotonic() + patience_s.get(code, 0.0)
        self._end_writes(lambda writer: writer.wait(max(0.0, deadline - time.monotonic())))
        # Each write has checked the lease, so a lease that cannot be read now is ignored.
        with suppress(OSError):
            if self.lease is not None:
                self.lease.check()

    def _now(self) -> float:
        """The time in seconds, after the device has finished its queue."""
        if self.ranks.device.type == "cuda":
            torch.cuda.synchronize(self.ranks.device)
        return time.perf_counter()


def compute(
    work: Training, ranks: Ranks, stop: StopFlag, pieces: Collection[int] | None, start: Start
) -> Outcome:
    """Train a run from its newest good checkpoint, on all ranks; implements `Work.compute`.

    Raises:
        LeaseHeldError, LeaseLostError: another job writes into this run.
        CheckpointError: no checkpoint fits, or a new one cannot be written.
        NonFiniteError: the gradient was not finite or exploded, and rolling back did not help.
        RecipeError: the frozen recipe is damaged.
        OSError: something cannot be read or written for a minute.
        RankError: rank 0 could not start or continue, and this is another rank.
    """
    folder = work.run
    recipe = work.recipe(_START_WITHIN_S, with_plugins=True)
    with _started(folder, recipe, ranks, start) as (number, checkpoint, lease):
        # Machines have the launcher's names everywhere, because jobs exclude nodes by them. The
        # names are gathered before anything that may fail on a single rank.
        hosts = tuple(ranks.gather(start.node or socket.gethostname()) or ())
        step = checkpoint or 0
        outcome = Outcome("finished")
        if step < recipe.train.steps:
            session = Session(folder, recipe, ranks, stop, number, checkpoint, lease, hosts)
            step, outcome = _trained(session, start)
        else:
            print(f"{folder.name} is finished: {step} steps are done. Nothing to do.", flush=True)
            if lease is not None:
                _note_finished(folder, number, step, start)
    print(f"rank {ranks.rank} of {ranks.world_size}: {outcome.cause} at step {step}", flush=True)
    return outcome


def _trained(session: Session, start: Start) -> tuple[int, Outcome]:
    """Run a session, and return its last step and how it ended; rank 0 records start and end."""
    cause: Cause = "finished"
    if session.lease is None:
        step, code = session.run()
        if code is not StopCode.NONE:
            cause = "terminated"
        return step, Outcome(cause, code)
    ledger = session.folder.ledger
    _warn_of_edits(session.folder)
    _note_started(session, start)
    try:
        step, code = session.run()
    except LeaseLostError:
        raise  # The ledger belongs to the new owner.
    except BaseException as error:
        ledger.note(_failure(session, error), within_s=_NOTE_WITHIN_S)
        raise
    detail = None
    if code is not StopCode.NONE:
        cause = start.cause_of(code) or "terminated"
        detail = f"SIG{code.name}"
    ended = events.Ended(attempt=session.attempt, cause=cause, step=step, detail=detail)
    ledger.note(ended, within_s=_NOTE_WITHIN_S)
    return step, Outcome(cause, code)


def _note_started(session: Session, start: Start) -> None:
    """Record that an attempt begins to train; warn if it trains on other data than before."""
    folder = session.folder
    recipe = session.recipe
    ranks = session.ranks
    first_step = session.checkpoint or 0
    progress = folder.progress()
    # The progress shows how far the attempt before got, and until when, if it could not write its
    # end. Its last save may be later than its last report.
    is_of_last = progress.get("attempt") == session.attempt - 1
    on_gpu = ranks.device.type == "cuda"
    event = events.Started(
        attempt=session.attempt,
        job_id=start.job_id,
        step=first_step,
        pid=os.getpid(),
        host=session.hosts[0],
        hosts=tuple(session.hosts),
        restart=start.restart,
        reached=max(progress.get("step", 0), first_step) if is_of_last else None,
        heard=progress.get("time") if is_of_last else None,
        log_offset=_bytes_of(start.log),
        warning=_warning(recipe, ranks),
        versions=versions(),
        code=code.running(folder.path),
        gpu=torch.cuda.get_device_name(ranks.device) if on_gpu else None,
        driver=driver(ranks.device),
        data=identity_or_nothing(recipe.data, recipe.plugins),
        began=start.began,
        ranks=ranks.world_size,
        gpus=recipe.cluster.gpus * ranks.world_size // recipe.cluster.world_size,
        cores=ranks.world_size * (recipe.cluster.cpus_per_task or 1),
    )
    if are_other_data(event.data, folder.ledger.full_history().data):
        print(
            f"warning: {folder.name} trains on other data than before "
            f"(data.name={recipe.data.name})",
            flush=True,
        )
    folder.ledger.note(event, within_s=_NOTE_WITHIN_S)


def _note_finished(folder: RunFolder, attempt: int, step: int, start: Start) -> None:
    """Record an attempt that finds all steps done."""
    ledger = folder.ledger
    job_id = start.job_id
    if ledger.history().cause == "finished":
        ledger.note(events.TurnedAway(job_id=job_id, why="finished"))
        return
    # The attempt before was killed after its last save, or the ledger was lost.
    ledger.note(events.Started(attempt=attempt, job_id=job_id, step=step, restart=start.restart))
    ledger.note(events.Ended(attempt=attempt, cause="finished", step=step))


def _warn_of_edits(folder: RunFolder) -> None:
    """Print edits of the recipe and of the code, and record those of the recipe."""
    if (edited := frozen.note(folder, _NOTE_WITHIN_S)) is not None:
        print(f"warning: {edited}", flush=True)
    if (problem := code.edited()) is not None:
        print(
            f"warning: {code.ROOT}: the code was changed after it was stored: {problem}",
            flush=True,
        )


def _bytes_of(log: Path | None) -> int | None:
    if log is None:
        return None
    return os.path.getsize(log) if os.path.exists(log) else 0


@contextmanager
def _started(
    folder: RunFolder, recipe: Recipe, ranks: Ranks, start: Start
) -> Iterator[tuple[int, int | None, Lease | None]]:
    """Yield number and checkpoint of the attempt, see `choose`, and on rank 0 the lease.

    The lease is held during the block.
    """
    leases: list[Lease] = []  # on rank 0, its lease

    def begin() -> tuple[int, int | None]:
        try:
            lease = Lease.acquire(
                folder.leases,
                job_id=start.job_id,
                restart=start.restart,
                within_s=_START_WITHIN_S,
            )
            leases.append(lease)
            recipe.monitor.require_installed()
            return retried(lambda: choose(folder, recipe), _START_WITHIN_S)
        except LeaseHeldError as error:
            event = events.TurnedAway(job_id=start.job_id, reason=str(error), why="held")
            folder.ledger.note(event)
            raise
        except Exception as error:
            # After an error that may pass, the job may start again.
            if not passes(error):
                given_up = events.GivenUp(job_id=start.job_id, reason=str(error), never_began=True)
                folder.ledger.note(given_up, within_s=_NOTE_WITHIN_S)
            raise

    try:
        number, checkpoint = ranks.on_first(begin)
        yield number, checkpoint, leases[0] if leases else None
    finally:
        for lease in leases:
            lease.release()


def choose(folder: RunFolder, recipe: Recipe) -> tuple[int, int | None]:
    """The number of a new attempt, and the step of the checkpoint that it begins with.

    It is the newest good checkpoint, or the one that `resume --from` names; None for a run without
    checkpoints, which begins with new weights. Damaged checkpoints are recorded in the ledger, and
    later ones than the chosen one are set aside.

    Raises:
        OSError: the checkpoints cannot be read at this moment; they may be intact.
        NotFoundError, CheckpointError: the checkpoint of `resume --from` is missing or damaged,
            none of the checkpoints is usable, or they belong to another recipe.
    """
    history = folder.ledger.full_history()
    # Some tools do not copy empty folders.
    folder.checkpoints.mkdir(exist_ok=True)
    clear_unfinished(folder)
    newest, damaged = newest_good(folder, recipe.model_digest())
    for entry in damaged:
        print(entry.skipped, flush=True)
        folder.ledger.note(
            events.Remarked("damaged", what=f"step {entry.step}", reason=entry.reason)
        )
    if history.from_step is not None:
        verify(folder, history.from_step, model_digest=recipe.model_digest())
        newest = history.from_step
    elif newest is None and any(entry.finished for entry in damaged):
        raise CheckpointError(
            f"{folder.path}: none of its {len(damaged)} checkpoints is intact: "
            f"{damaged[0].reason} To start over, submit the recipe again."
        )
    elif newest is None and folder.identity().keys() & _FROM_ELSEWHERE:
        raise CheckpointError(
            f"{folder.path}: the checkpoint that it was made with is missing, and new weights "
            "would be another run. Submit or import it again."
        )
    moved = set_aside(folder, after=newest or 0)
    if moved:
        print(f"set aside the checkpoints of steps {', '.join(map(str, moved))}", flush=True)
    return len(history.attempts), newest


def _warning(recipe: Recipe, ranks: Ranks) -> str | None:
    """Print and return a warning that this machine is slow for the recipe; None if it is not."""
    problems = [ranks.lacks_gpu(recipe.cluster.uses_gpu)]
    precision = recipe.train.precision
    if ranks.device.type == "cpu" and cpu.emulates(precision):
        problems.append(cpu.warning(precision))
    warning = "; ".join(filter(None, problems))
    if not warning:
        return None
    print(f"warning: {warning}", flush=True)
    return warning


def _failure(session: Session, error: BaseException) -> events.Ended:
    """The end of a failed attempt, with the last step that it began with, saved or reported."""
    steps = [session.checkpoint or 0, *session.folder.checkpoint_steps()]
    progress = session.folder.progress()
    if progress.get("attempt") == session.attempt:
        steps.append(progress.get("step", 0))
    cause: Cause = "crashed"
    if isinstance(error, NonFiniteError):
        cause = "nonfinite"
    elif isinstance(error, SaveError):
        cause = "save_failed"
        steps.append(error.step)
    detail = _message(error, session.folder.name)[:_MAX_DETAIL]
    return events.Ended(
        attempt=session.attempt,
        cause=cause,
        step=max(steps),
        detail=detail,
        bug=isinstance(error, _BUGS),
    )


def _message(error: BaseException, run: str) -> str:
    text = str(error)
    if not isinstance(error, CldError):
        text = traceback.format_exception_only(error)[-1].strip()
    # If a peer has died, gloo and NCCL report sockets.
    if "gloo" in text or "NCCL" in text:
        return (
            "another rank is gone, killed or crashed; "
            f"`cldctl logs {run} --rank N` shows the last output of each"
        )
    return text


def driver(device: torch.device, file: Path = _DRIVER) -> str | None:
    """The version of the driver of a GPU; None for a CPU, or if it is unknown."""
    if device.type != "cuda":
        return None
    with suppress(OSError):
        if (match := _VERSION.search(file.read_text(errors="replace"))) is not None:
            return match[1]
    return None
