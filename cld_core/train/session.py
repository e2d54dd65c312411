"""One attempt of a run: take the lease, find where to go on, train, and write into the ledger how it ended."""

import contextlib
import os
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cld_core import checkpoint
from cld_core.errors import (
    CheckpointError,
    CldError,
    LeaseHeldError,
    LeaseLostError,
    NonFiniteError,
    SaveError,
    UsageError,
)
from cld_core.ranks import Ranks
from cld_core.recipe import Recipe
from cld_core.run import Lease, RunFolder, attempts_of
from cld_core.stop import StopCode, StopFlag

from . import loop, rollback
from .monitoring import Monitor
from .periodic import Periodic
from .step import Trainer


class RankError(CldError):
    """Rank 0 could not begin; its log says why."""


@dataclass(frozen=True)
class Plan:
    """What rank 0 decided for all ranks of this attempt."""

    attempt: int
    first_step: int
    finished: bool = False
    error: str | None = None


@dataclass(frozen=True)
class Ended:
    """How an attempt ended: the cause as in the ledger, and the step that was reached and saved."""

    cause: str
    step: int
    code: StopCode = StopCode.NONE


# What ends a run because of what is written in code or recipe, the same each time: trying again does not mend it.
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
    NotImplementedError,  # torch, of an operation that a device does not have
)

# Says what a signal stood for, where somebody knows; None where nobody does.
CauseOf = Callable[[StopCode], str | None]


def run(
    folder: RunFolder,
    ranks: Ranks,
    stop: StopFlag,
    *,
    job_id: str,
    restart: int = 0,
    log: Path | None = None,
    cause_of: CauseOf = lambda code: None,
) -> Ended:
    """Train the run of ``folder`` from its newest good checkpoint, on all ranks.

    Args:
        job_id: the scheduler's name for this job.
        restart: how often the scheduler has started this same job before.
        log: the file that the scheduler's own words go to; its size now is noted in the ledger.
        cause_of: what the scheduler says of a signal, asked on rank 0 once everything is saved.

    Raises:
        LeaseHeldError, LeaseLostError: another job writes into this run.
        CheckpointError: no checkpoint fits, or a new one cannot be written.
        NonFiniteError: the gradient was not finite or exploded, more often than going back could mend.
        RecipeError: the frozen recipe is damaged.
    """
    lease = None
    try:
        recipe = folder.recipe()
        if ranks.is_first:
            try:
                lease = Lease.acquire(folder.leases, job_id=job_id, restart=restart)
                plan = _plan(folder, recipe)
            except Exception as error:
                event = "refused" if isinstance(error, LeaseHeldError) else "not_begun"
                folder.ledger.append(event, job_id=job_id, reason=str(error))
                ranks.from_first(Plan(attempt=-1, first_step=0, error=str(error)))
                raise
            ranks.from_first(plan)
        else:
            plan = ranks.from_first()
        if plan.error is not None:
            raise RankError(f"rank 0 could not begin: {plan.error}")
        if plan.finished:
            print(f"{folder.name} is finished: {plan.first_step} steps are done. Nothing to do.", flush=True)
            if ranks.is_first:
                folder.ledger.append("skipped", job_id=job_id, reason="finished")
            return Ended("finished", plan.first_step)
        if lease is None:
            return _train(folder, recipe, ranks, stop, plan, None)
        process: dict[str, Any] = {"job_id": job_id, "host": socket.gethostname(), "pid": os.getpid()}
        if log is not None:
            process["log_offset"] = log.stat().st_size if log.exists() else 0
        if (warning := ranks.lacks_gpu(recipe.cluster.uses_gpu)) is not None:
            process["warning"] = warning
            print(f"warning: {warning}", flush=True)
        before = folder.progress()
        if before.get("attempt") == plan.attempt - 1:
            process["reached"] = before.get("step")  # What the attempt before says, where it could not write its end.
        folder.ledger.append("started", attempt=plan.attempt, step=plan.first_step, restart=restart, **process)
        return _recorded(folder, recipe, ranks, stop, plan, lease, cause_of)
    finally:
        if lease is not None:
            lease.release()


def _plan(folder: RunFolder, recipe: Recipe) -> Plan:
    """Where to go on. Reports damaged checkpoints and sets those aside that a step back left in the future."""
    events = folder.ledger.events()
    checkpoint.clear_unfinished(folder)
    step, damaged = checkpoint.newest_good(folder, recipe.model_digest())
    for entry in damaged:
        print(entry.passed_over, flush=True)
        folder.ledger.append("damaged", step=entry.step, reason=entry.reason)
    from_step = _asked_for(events)
    if from_step is not None:
        checkpoint.load(folder, from_step, model_digest=recipe.model_digest())
        step = from_step
    elif step is None and any(entry.finished for entry in damaged):
        text = f"none of its {len(damaged)} checkpoints is whole: {damaged[0].reason}"
        raise CheckpointError(f"{folder.path}: {text} To begin anew, submit the recipe again.")
    step = step or 0
    moved = checkpoint.set_aside(folder, after=step)
    if moved:
        print(f"set aside the checkpoints of steps {', '.join(map(str, moved))}", flush=True)
    return Plan(len(attempts_of(events)), step, finished=step >= recipe.train.steps)


def _asked_for(events: list[dict[str, Any]]) -> int | None:
    """The step that `resume --from` named, until an attempt has begun there."""
    asked = None
    for event in events:
        if event["event"] == "requested":
            asked = event.get("from_step")
        elif event["event"] == "started":
            asked = None
    return asked


def _recorded(
    folder: RunFolder,
    recipe: Recipe,
    ranks: Ranks,
    stop: StopFlag,
    plan: Plan,
    lease: Lease,
    cause_of: CauseOf,
) -> Ended:
    """`_train` on rank 0, with its end in the ledger."""
    ledger = folder.ledger
    try:
        ended = _train(folder, recipe, ranks, stop, plan, lease)
    except LeaseLostError:
        raise  # The ledger belongs to the new owner.
    except BaseException as error:
        causes = {NonFiniteError: "nonfinite", SaveError: "save_failed"}
        cause = next((cause for cls, cause in causes.items() if isinstance(error, cls)), "crashed")
        detail = _in_words(error)
        reached = folder.progress().get("step", plan.first_step)
        if isinstance(error, SaveError):
            reached = max(reached, error.step)
        bug = {"bug": True} if isinstance(error, _BUGS) else {}
        ledger.append("ended", attempt=plan.attempt, cause=cause, step=reached, detail=detail[:500], **bug)
        raise
    if ended.code is not StopCode.NONE:
        ended = replace(ended, cause=cause_of(ended.code) or ended.cause)
    signal = {StopCode.USR2: "SIGUSR2", StopCode.TERM: "SIGTERM"}.get(ended.code)
    ledger.append("ended", attempt=plan.attempt, cause=ended.cause, step=ended.step, detail=signal)
    return ended


def _imported_step(folder: RunFolder) -> int | None:
    """The step that the run was imported at, if it was."""
    if "imported" not in folder.identity():
        return None
    return next((int(event["step"]) for event in folder.ledger.events() if event["event"] == "started"), None)


def _in_words(error: BaseException) -> str:
    text = str(error) if isinstance(error, CldError) else traceback.format_exception_only(error)[-1].strip()
    # gloo and NCCL speak of sockets where a peer has died.
    if "gloo" in text or "NCCL" in text:
        return "another rank is gone, killed or crashed; `cldctl logs --rank N` shows the last words of each"
    return text


def _train(folder: RunFolder, recipe: Recipe, ranks: Ranks, stop: StopFlag, plan: Plan, lease: Lease | None) -> Ended:
    spec = recipe.train
    writer = None
    if lease is not None:
        # What came from elsewhere cannot be made again.
        imported = _imported_step(folder)
        writer = checkpoint.CheckpointWriter(
            folder,
            keep=spec.keep,
            milestone=lambda step: spec.is_milestone(step) or step == imported,
            check_owner=lease.check,
        )

    def stretch(first_step: int, rollbacks: int) -> loop.Outcome:
        restart = plan.attempt if spec.on_resume == "reseed" else 0
        trainer = Trainer(recipe, ranks, restart=rollback.fresh(restart, rollbacks))
        if first_step > 0:
            state = checkpoint.load(folder, first_step, model_digest=recipe.model_digest(), device=ranks.device)
            trainer.load_state_dict(state)
        trainer.warm_up()
        with contextlib.ExitStack() as stack:
            stack.callback(trainer.close)
            monitor = None
            if lease is not None:
                monitor = Monitor(
                    folder,
                    attempt=plan.attempt,
                    first_step=first_step,
                    steps=spec.steps,
                    may_write=lease.owned,
                )
                stack.callback(monitor.close)
                monitor.write(first_step)
            return loop.run(
                trainer,
                ranks,
                stop,
                spec=spec,
                first_step=first_step,
                writer=writer,
                monitor=monitor,
                healthy=lambda: lease is None or not lease.lost,
                periodic=Periodic(trainer, folder, monitor, stop),
            )

    outcome = rollback.guarded(stretch, folder, recipe, ranks, writer, attempt=plan.attempt, first_step=plan.first_step)
    problem: CldError | None = None
    try:
        if writer is not None and lease is not None:
            writer.wait()
            lease.check()
    except CldError as error:
        problem = error
    told = ranks.from_first(None if problem is None else str(problem))
    if problem is not None:
        raise problem
    if told is not None:
        raise RankError(f"rank 0 could not go on: {told}")
    causes = {StopCode.NONE: "finished", StopCode.USR2: "preempted", StopCode.TERM: "terminated"}
    return Ended(causes[outcome.code], outcome.step, outcome.code)
