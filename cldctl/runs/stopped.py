"""Why an evaluation or a tuning that is not complete is not being computed either."""

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


def why_stopped(
    history: History, done: int, total: int, *, unit: str = "shards", command: str = "cldctl eval"
) -> Stopped | None:
    """Why sharded work stands still; None if it was never started.

    Args:
        history: of the work.
        done: how many of the ``total`` pieces of it are complete, and ``unit``, what they are called.
        command: continues it.
    """
    if not history.submitted:
        return None
    failed = history.task_failed
    if history.given_up is not None:
        cause = "not merged" if done == total else "crashed" if history.crashes else "failed"
        said = f"; the last one: {failed.reason}" if failed is not None and cause == "crashed" else ""
        return Stopped(cause, history.given_up + said)
    if history.not_requeued is not None:
        return Stopped("not requeued", f"a task could not be requeued: {history.not_requeued}")
    array = history.submitted[-1].job.job_id.partition("_")[0]
    if any(job_id.partition("_")[0] == array for job_id in history.cancelled):
        return Stopped("cancelled", "cancelled")
    if failed is not None and done < total:
        again = f"fix that, then re-run the same `{command}`"
        return Stopped("failed", f"a task failed: {failed.reason}; {done} of {total} {unit} complete; {again}")
    if done == total:
        again = f"re-run the same `{command}`"
        return Stopped("not merged", f"all {unit} are complete, but they were not merged; {again}")
    ended = f"its jobs have ended, with {done} of {total} {unit} complete"
    return Stopped("stopped", f"{ended}; see the logs, then re-run `{command}`")
