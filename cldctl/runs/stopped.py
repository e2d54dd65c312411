"""Why an evaluation that is not complete is not being computed either."""

from cld_core.run.history import History


def why_stopped(history: History, done: int, shards: int) -> str | None:
    """What people read in `status`; None if it was never started.

    Args:
        history: of the evaluation.
        done: how many of its ``shards`` are complete.
    """
    if not history.submitted:
        return None
    if history.given_up is not None:
        return history.given_up
    if history.not_requeued is not None:
        return f"a task could not be requeued: {history.not_requeued}"
    array = history.submitted[-1].job.job_id.partition("_")[0]
    if any(job_id.partition("_")[0] == array for job_id in history.cancelled):
        return "cancelled"
    if done == shards:
        return "all shards are complete, but they were not merged; re-run the same `cldctl eval`"
    return f"its jobs have ended, with {done} of {shards} shards complete; see the logs, then re-run `cldctl eval`"
