"""What a run is doing, from its ledger and from what the cluster says of its jobs. Pure."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from cld_core.errors import NotFoundError
from cld_core.evaluation.results import numbers
from cld_core.run import Attempt, RunFolder, attempts_of
from cld_core.run.atomic import read_json
from cld_core.run.lease import local_holder

from .slurm import Seen

# Between the request and the job there are moments; after this many seconds there was an accident.
SUBMITTING_S = 30.0
RESUMABLE = frozenset({"STOPPED", "FAILED", "CANCELLED", "LOST"})
OVER = RESUMABLE | {"FINISHED"}
_AFTER_CAUSE = {
    "finished": "FINISHED",
    "preempted": "STOPPED",
    "timeout": "STOPPED",
    "terminated": "STOPPED",
    "cancelled": "CANCELLED",
    "imported": "STOPPED",
    "killed": "LOST",
    "requeued": "STOPPED",
    "node_failure": "LOST",
}

# What is known of the job of a `submitted` event.
Look = Callable[[dict[str, Any]], Seen]


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """One row of `cldctl status`; the fields are those of ``--json``."""

    name: str
    path: str
    state: str
    recipe: str | None
    created: float | None
    step: int
    steps: int | None
    loss: float | None
    steps_per_s: float | None
    eta_s: float | None
    checkpoint_step: int | None
    cluster: str | None
    job_id: str | None
    host: str | None
    reason: str | None
    updated: float | None
    attempts: list[dict[str, Any]] = field(default_factory=list)
    evals: list[dict[str, Any]] = field(default_factory=list)
    sweeps: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def unreadable(cls, run: RunFolder, reason: str) -> "RunStatus":
        """A run of which nothing can be said but why."""
        nothing: dict[str, Any] = dict.fromkeys(entry.name for entry in fields(cls))
        known: dict[str, Any] = {"name": run.name, "path": str(run.path), "state": "LOST", "step": 0, "reason": reason}
        return cls(**{**nothing, "attempts": [], "evals": [], "sweeps": [], **known})


def status_of(run: RunFolder, look: Look) -> RunStatus:
    """The status of one run; reads its small files and asks ``look`` for its jobs."""
    events, progress, identity = run.ledger.events(), run.progress(), run.identity()
    attempts = attempts_of(events, progress)
    job = current_job(events, attempts[-1] if attempts else None, look)
    state, reason = state_of(events, attempts, look)
    if state in ("LOST", "STOPPED", "CANCELLED", "FAILED") and (holder := local_holder(run.leases)) is not None:
        # Started without cldctl, or orphaned by it: what counts is who writes.
        state, reason = "RUNNING", f"process {holder['pid']} on this machine writes into it (job {holder['job_id']})"
    if state == "RUNNING" and reason is None and attempts:
        reason = attempts[-1].warning
    if state in ("PENDING", "REQUEUED") and reason is None and job is not None:
        reason = look(job).reason or None
    shown = [dict(vars(attempt)) for attempt in attempts]
    if state == "LOST" and shown[-1]["cause"] is None:
        shown[-1]["cause"] = "killed"
    requested = [event["steps"] for event in events if event["event"] == "requested"]
    steps = requested[-1] if requested else progress.get("steps")
    step = max([progress.get("step", 0), *(attempts[-1].last_step or 0 for _ in attempts[-1:])])
    rate = progress.get("steps_per_s") if state == "RUNNING" else None
    checkpoints = run.checkpoint_steps()
    evals = [eval_status(path, look) for path in eval_folders(run)]
    return RunStatus(
        name=run.name,
        path=str(run.path),
        state=state,
        recipe=identity.get("recipe"),
        created=identity.get("created"),
        step=step,
        steps=steps,
        loss=progress.get("loss"),
        steps_per_s=rate,
        eta_s=(steps - step) / rate if steps is not None and rate else None,
        checkpoint_step=checkpoints[-1] if checkpoints else None,
        cluster=job["cluster"] if job else None,
        job_id=job["job_id"] if job else None,
        host=(look(job).node if job and state == "RUNNING" else None)
        or (attempts[-1].host if attempts else None)
        or (job["host"] if job and job["cluster"] != "slurm" else None),
        reason=reason,
        updated=progress.get("time"),
        attempts=shown,
        evals=evals,
        sweeps=sweep_statuses(run, evals),
    )


def state_of(events: Sequence[dict[str, Any]], attempts: Sequence[Attempt], look: Look) -> tuple[str, str | None]:
    """The state of a run and, where it ended badly, why."""
    last = attempts[-1] if attempts else None
    job = current_job(events, last, look)
    waiting = _unanswered(events)
    if waiting is not None:
        if waiting["event"] == "not_submitted":
            return "FAILED", waiting["reason"]
        if time.time() - waiting["time"] > SUBMITTING_S:
            return "FAILED", "it was never handed to the scheduler: the submission was interrupted"
        return "PENDING", None
    if job is None:
        return ("PENDING" if last is None else _ended(last.cause)), None
    seen = look(job)
    cancelled = seen.word == "CANCELLED" or any(
        event["event"] == "cancelled" and event.get("job_id") == job["job_id"] for event in events
    )
    if last is None or last.job_id != job["job_id"]:
        if not seen.over:
            return ("PENDING" if last is None or "successor_of" not in job else "REQUEUED"), None
        if cancelled:
            return "CANCELLED", None
        why = [
            event["reason"] for event in events if event["event"] == "not_begun" and event["job_id"] == job["job_id"]
        ]
        word = f" (Slurm says {seen.word})" if seen.word else ""
        return "FAILED", why[-1] if why else f"the job ended before it began{word}; see `cldctl logs`"
    if last.cause is None:
        if not seen.over:
            return ("REQUEUED" if seen.phase == "pending" else "RUNNING"), None
        if cancelled:
            return "CANCELLED", None
        if seen.word in ("FAILED", "OUT_OF_MEMORY"):
            return "FAILED", f"Slurm says {seen.word}; see `cldctl logs`"
        return "LOST", "the job is gone without a word: killed, or its node is"
    state = _ended(last.cause)
    if state == "FAILED" and job["cluster"] == "slurm" and seen.word == "RUNNING" and not _requeued_since(events, last):
        return "RUNNING", None  # Its batch script is still deciding whether it begins again.
    if state != "FINISHED" and _comes_back(events, last, job, seen):
        return "REQUEUED", last.detail if state == "FAILED" else None
    if state != "FINISHED" and seen.word == "CANCELLED":
        return "CANCELLED", None  # While it waited to begin again.
    said = [event["reason"] for event in _since(events, last) if event["event"] in ("given_up", "not_begun")]
    if said and state != "FINISHED":
        return "FAILED", said[-1]
    return state, last.detail if state == "FAILED" else None


def current_job(events: Sequence[dict[str, Any]], last: Attempt | None, look: Look) -> dict[str, Any] | None:
    """The `submitted` event that matters: the newest, but a successor only when its turn has come."""
    turned_away = {event["job_id"] for event in events if event["event"] in ("skipped", "refused", "withdrawn")}
    jobs = [event for event in events if event["event"] == "submitted" and event["job_id"] not in turned_away]
    while len(jobs) > 1 and "successor_of" in jobs[-1] and (last is None or last.job_id != jobs[-1]["job_id"]):
        before = next((job for job in jobs if job["job_id"] == jobs[-1]["successor_of"]), None)
        over = before is None or look(before).over
        if over and (last is None or last.cause not in ("finished", "cancelled")):
            break
        jobs.pop()
    return jobs[-1] if jobs else None


def _unanswered(events: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The last request, or the scheduler's refusal of it, that no job came after."""
    answers = ("submitted", "started")
    asked = [event for event in events if event["event"] in ("requested", "not_submitted", *answers)][-1:]
    return asked[0] if asked and asked[0]["event"] not in answers else None


def _comes_back(events: Sequence[dict[str, Any]], last: Attempt, job: dict[str, Any], seen: Seen) -> bool:
    """Whether a job whose attempt has ended is to run again by itself."""
    if seen.phase == "pending":
        return True
    if seen.phase != "running" or job["cluster"] != "slurm":
        return False
    slurms_own = last.cause in ("preempted", "node_failure", "requeued") and seen.word == "RUNNING"
    return _requeued_since(events, last) or slurms_own


def _requeued_since(events: Sequence[dict[str, Any]], last: Attempt) -> bool:
    return any(event["event"] == "requeued" for event in _since(events, last))


def _since(events: Sequence[dict[str, Any]], last: Attempt) -> list[dict[str, Any]]:
    """Events after the end of the last attempt."""
    return [event for event in events if event["time"] >= (last.ended or 0)]


def _ended(cause: str | None) -> str:
    return _AFTER_CAUSE.get(cause or "killed", "FAILED")


def eval_folders(run: RunFolder) -> list[Any]:
    """Folders of the evaluations of a run, oldest first."""
    if not run.evals.is_dir():
        return []
    found = [path for path in run.evals.iterdir() if (path / "request.json").is_file()]
    return sorted(found, key=lambda path: (path / "request.json").stat().st_mtime)


def sweep_statuses(run: RunFolder, evals: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sweeps of a run, oldest first: their axes, their evaluations, and how many of these are complete."""
    files = sorted(run.evals.glob("sweep-*/sweep.json"), key=lambda file: file.stat().st_mtime)
    finished = {entry["id"] for entry in evals if entry["state"] == "FINISHED"}
    found = []
    for content in map(read_json, files):
        if content is not None:
            names = list(dict.fromkeys(cell["evaluation"] for cell in content["cells"]))
            done = len(finished.intersection(names))
            found.append({"id": content["id"], "axes": content["axes"], "evaluations": names, "done": done})
    return found


def eval_status(path: Any, look: Look) -> dict[str, Any]:
    """State, shards and results of one evaluation."""
    request, report = read_json(path / "request.json") or {}, current_report(path)
    shards = request.get("shards", 0)
    done = shards if report else shards - len(missing_shards(path))
    jobs = read_json(path / "jobs.json") or []
    state = "FINISHED" if report else _eval_state([look(job) for job in jobs])
    elbo = (report or {}).get("elbo") or {}
    return {
        "id": path.name,
        "state": state,
        "checkpoint_step": request.get("checkpoint_step"),
        "metrics": request.get("metrics"),
        "shards_done": done,
        "shards": request.get("shards"),
        "fid": ((report or {}).get("fid") or {}).get("value"),
        "bpd": elbo.get("bpd"),
        "nll": elbo.get("nll"),
        "stderr": elbo.get("stderr"),
        "true_entropy": elbo.get("true_entropy"),
        "settings": _settings_of(path),
        "results": {key: dict(vars(number)) for key, number in numbers(report).items()},
    }


def _settings_of(path: Any) -> str:
    """What `EvalRequest.settings` says; the evaluation itself where another version of cldctl made it."""
    from cld_core.evaluation.request import EvalRequest

    try:
        return EvalRequest.load(path).settings
    except (NotFoundError, KeyError):
        return str(path.name)


def current_report(path: Any) -> dict[str, Any] | None:
    """The report of an evaluation, unless the run has another checkpoint of that step by now."""
    report = read_json(path / "report.json")
    if not isinstance(report, dict):
        return None
    run = RunFolder(path.parent.parent)
    sidecar = read_json(run.checkpoint_file(report["checkpoint_step"]).with_suffix(".json"))
    # A checkpoint that was cleared away since leaves its numbers as they are.
    return report if sidecar is None or sidecar.get("sha256") == report.get("checkpoint") else None


def _eval_state(jobs: Sequence[Seen]) -> str:
    phases = {job.phase for job in jobs}
    return "RUNNING" if "running" in phases else "PENDING" if phases & {"pending", "unknown"} else "STOPPED"


def shard_is_done(evaluation: Any, shard: int, checkpoint: str | None) -> bool:
    """Whether a shard is complete and, where the checkpoint is still there, was made with this very one."""
    state = read_json(evaluation / "shards" / f"{shard:05d}.json") or {}
    return bool(state.get("complete")) and checkpoint in (None, state.get("checkpoint"))


def checkpoint_of(evaluation: Any) -> str | None:
    """Checksum that the run's checkpoint of an evaluation's step has now; None where it was cleared away."""
    request = read_json(evaluation / "request.json") or {}
    run = RunFolder(evaluation.parent.parent)
    sidecar = read_json(run.checkpoint_file(request.get("checkpoint_step", 0)).with_suffix(".json")) or {}
    return sidecar.get("sha256")


def missing_shards(evaluation: Any) -> list[int]:
    """Numbers of the shards that are not complete."""
    request, checkpoint = read_json(evaluation / "request.json") or {}, checkpoint_of(evaluation)
    return [shard for shard in range(request.get("shards", 0)) if not shard_is_done(evaluation, shard, checkpoint)]
