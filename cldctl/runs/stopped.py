"""Why an evaluation that is not complete is not being computed either."""

from dataclasses import dataclass

from cld_core.run.history import History


@dataclass(frozen=True)
class Stopped:
    """What people read in `status`.

    Attributes:
        cause: one or two words, for tables.
        reason: a sentence.
    """

    cause: str
    reason: str


def why_stopped(history: History, done: int, shards: int) -> Stopped | None:
    """Why an evaluation stands still; None if it was never started.

    Args:
        history: of the evaluation.
        done: how many of its ``shards`` are complete.
    """
    if not history.submitted:
        return None
    failed = history.task_failed
    if history.given_up is not None:
        cause = "not merged" if done == shards else "crashed" if history.crashes else "failed"
        said = f"; the last one: {failed.reason}" if failed is not None and cause == "crashed" else ""
        return Stopped(cause, history.given_up + said)
    if history.not_requeued is not None:
        return Stopped("not requeued", f"a task could not be requeued: {history.not_requeued}")
    array = history.submitted[-1].job.job_id.partition("_")[0]
    if any(job_id.partition("_")[0] == array for job_id in history.cancelled):
        return Stopped("cancelled", "cancelled")
    if failed is not None and done < shards:
        again = "fix that, then re-run the same `cldctl eval`"
        return Stopped("failed", f"a task failed: {failed.reason}; {done} of {shards} shards complete; {again}")
    if done == shards:
        again = "re-run the same `cldctl eval`"
        return Stopped("not merged", f"all shards are complete, but they were not merged; {again}")
    ended = f"its jobs have ended, with {done} of {shards} shards complete"
    return Stopped("stopped", f"{ended}; see the logs, then re-run `cldctl eval`")
