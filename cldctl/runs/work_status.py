"""What an evaluation or a tuning of a run is doing, or what it found: entries of `status`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cld_core.evaluate.evaluation import Evaluation
from cld_core.evaluate.reports import numbers, remarks
from cld_core.evaluate.sweeps import sweeps_of
from cld_core.run import RunFolder
from cld_core.run.history import History
from cld_core.run.work import Work
from cld_core.tune.tuning import STAGES, Tuning

from .survey import Answers


def work_state(work: Work, answers: Answers) -> str:
    """FINISHED, RUNNING, PENDING or STOPPED."""
    if work.is_done:
        return "FINISHED"
    jobs = [event.job for event in work.ledger.history().submitted]
    phases = {answers.of(job).phase for job in jobs}
    if phases & {"running", "suspended", "ending"}:
        return "RUNNING"
    if phases & {"pending", "unknown"} and _has_moved(work, [answers.as_of(job.cluster) for job in jobs]):
        return "RUNNING"
    return "PENDING" if phases & {"pending", "unknown"} else "STOPPED"


def _has_moved(work: Work, asked: Sequence[float | None]) -> bool:
    """Whether a task has written since the clusters were asked: rows are added to a folder."""
    times, moved_at = [when for when in asked if when is not None], work.moved_at()
    return bool(times) and moved_at is not None and moved_at > max(times)


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
        why, fix = ("", "") if failed is None else (f": {failed.reason}", "fix that, then ")
        again = f"{fix}re-run the same `{command}`"
        return Stopped("not merged", f"all {unit} are complete, but they were not merged{why}; {again}")
    ended = f"its jobs have ended, with {done} of {total} {unit} complete"
    return Stopped("stopped", f"{ended}; see the logs, then re-run `{command}`")


def tuning_status(work: Tuning, answers: Answers) -> dict[str, Any]:
    """State, rows and gain of one tuning.

    ``gain`` is how many times nearer to the network's flow it is than the best setting without a fit, by the root mean
    square distance on held-out noise: 1 if that setting was kept. ``cut_off`` says that the budget ended the fit.
    """
    solution = work.solution
    state = work_state(work, answers)
    done, total = work.rows_done()
    stopped = None
    if state == "STOPPED":
        stopped = why_stopped(work.ledger.history(), done, total, unit=work.unit, command=work.command)
    # Only what this version knows: a file of somebody else's may name anything.
    rms = {} if solution is None else {stage: solution.rms[stage] for stage in STAGES if stage in solution.rms}
    kept = solution.kept if solution is not None and solution.kept in rms else None
    best, untuned = rms.get(kept or ""), rms.get("untuned")
    return {
        "id": work.name,
        "nfe": work.request.nfe,
        "state": state,
        "cause": stopped.cause if stopped else None,
        "reason": stopped.reason if stopped else None,
        "checkpoint_step": work.request.checkpoint_step,
        "rows_done": done,
        "rows": total,
        "kept": kept,
        "rms": rms,
        "gain": untuned / best if best and untuned is not None else None,
        "cut_off": None if solution is None else solution.cut_off,
        "digest": solution.digest if solution is not None else None,
    }


def evaluation_status(work: Evaluation, answers: Answers) -> dict[str, Any]:
    """State, shards and results of one evaluation, an entry of ``evals``."""
    request, report = work.request, work.report or {}
    state = "FINISHED" if report else work_state(work, answers)
    done = request.shards - (0 if report else len(work.missing()))
    history = work.ledger.history()
    stopped = why_stopped(history, done, request.shards) if state == "STOPPED" else None
    told = () if history.other_code is None else (history.other_code,)
    elbo = report.get("elbo") or {}
    return {
        "id": work.name,
        "state": state,
        "cause": stopped.cause if stopped else None,
        "reason": stopped.reason if stopped else None,
        "checkpoint_step": request.checkpoint_step,
        "metrics": list(request.metrics),
        "shards_done": done,
        "shards": request.shards,
        "fid": (report.get("fid") or {}).get("value"),
        "bpd": elbo.get("bpd"),
        "nll": elbo.get("nll"),
        "stderr": elbo.get("stderr"),
        "true_entropy": elbo.get("true_entropy"),
        "settings": request.settings,
        "results": {key: {"value": it.value, "stderr": it.stderr, "n": it.n} for key, it in numbers(report).items()},
        "remarks": [*remarks(report), *told, *([stopped.reason] if stopped else [])],
    }


def sweep_statuses(run: RunFolder, evals: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The sweeps of a run, oldest first: their axes, their evaluations, and how many of these are complete."""
    finished = {entry["id"] for entry in evals if entry["state"] == "FINISHED"}
    return [
        {
            "id": sweep.id,
            "axes": [{"key": axis.key, "values": list(axis.values)} for axis in sweep.axes],
            "evaluations": list(sweep.evaluations),
            "done": len(finished.intersection(sweep.evaluations)),
        }
        for _, sweep in sweeps_of(run)
    ]
