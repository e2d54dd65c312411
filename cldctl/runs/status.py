"""What a run, its evaluations and its tunings are doing: their files, and what the clusters say about their jobs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cld_core.codec import real
from cld_core.errors import CldError
from cld_core.run import RunFolder
from cld_core.run.events import JobRef
from cld_core.run.folder import ReportedProgress
from cld_core.run.history import History
from cld_core.run.lease import local_holder
from cld_core.run.timeline import Stretch
from cld_core.sanitize import one_line
from cldctl.clusters.records import Seen
from cldctl.jobs import failures

from . import home, usage
from .differences import changed_between, changed_by_now
from .failing import with_culprits
from .state import OVER, RESUMABLE, SUBMITTING_S, WAITS, seen_by, state_of
from .survey import Answers
from .work_status import evaluation_status, sweep_statuses, tuning_status
from .works import Works, works_of

# What ``--json`` shows of an attempt.
_ATTEMPT = (
    *("attempt", "job_id", "started", "ended", "cause", "first_step", "last_step"),
    *("detail", "host", "warning"),
)
# A run that is silent for so many times its usual pause between reports, and so many seconds, stands still or waits.
_SILENCE, _LEAST_SILENCE_S = 10, 20.0
# While it evaluates, draws, saves or compiles, it reports nothing.
_LONG_PHASE_S = 600.0
WAITING, STARTING, TRAINING = "waiting for the queue", "starting", "training"
# Characters of a phase, which comes from a file.
_MOST = 40


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """One row of `cldctl status`; the fields are those of ``--json``.

    Attributes:
        changes: what changed between attempts and may change results, such as the code, a line each.
        problems: damaged files that the state does not tell of; only of runs that somebody names.
        phase: what a run that is alive does, such as "training" or "saving"; else None.
        smoothed_loss: an exponential mean of the losses that were reported.
        code: the digest of the code that it is to run, "live" for the checkout itself; None if nobody knows.
        as_of: when the run itself was last heard of, if its cluster could not be asked and that matters; else None.
        is_readable: not a field of ``--json``; False if the files are damaged or of another format.
    """

    name: str
    path: str
    state: str
    recipe: str | None = None
    user: str | None = None
    group: str | None = None
    sweep: dict[str, str] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    note: str | None = None
    created: float | None = None
    step: int = 0
    steps: int | None = None
    loss: float | None = None
    smoothed_loss: float | None = None
    phase: str | None = None
    steps_per_s: float | None = None
    eta_s: float | None = None
    checkpoint_step: int | None = None
    cluster: str | None = None
    job_id: str | None = None
    host: str | None = None
    reason: str | None = None
    updated: float | None = None
    attempts: list[dict[str, Any]] = field(default_factory=list)
    evals: list[dict[str, Any]] = field(default_factory=list)
    tunings: list[dict[str, Any]] = field(default_factory=list)
    sweeps: list[dict[str, Any]] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    code: str | None = None
    usage: dict[str, Any] | None = None
    as_of: float | None = None
    is_readable: bool = True

    def to_dict(self) -> dict[str, Any]:
        # Not `asdict`, which copies every attempt of a thousand runs.
        return {name: value for name, value in vars(self).items() if name != "is_readable"}

    @property
    def is_evaluating(self) -> bool:
        """Whether an evaluation or a tuning of it waits or runs."""
        return any(entry["state"] in ("RUNNING", "PENDING") for entry in (*self.evals, *self.tunings))

    @property
    def shown_loss(self) -> float | None:
        """The loss where there is room for one: the smoothed one, if there is one yet."""
        return self.loss if self.smoothed_loss is None else self.smoothed_loss

    @property
    def heard_of(self) -> float | None:
        """When the run last wrote anything, seconds since 1970."""
        return self.updated or self.created


def said(error: Exception) -> str:
    """What an error says to people: one of cldctl's own in its words, any other on one line."""
    return str(error) if isinstance(error, CldError) else one_line(error) or type(error).__name__


def status_or_reason(run: RunFolder, answers: Answers, works: Works | None = None) -> RunStatus:
    """As `status_of`; if the files cannot be read, only that. It never raises, so that it spoils no other row."""
    try:
        problem = run.format_problem()
        if problem is None:
            return status_of(run, answers, works)
    except Exception as error:
        problem = f"its files cannot be read: {one_line(error) or type(error).__name__}"
    return RunStatus(name=run.name, path=str(run.path), state="LOST", reason=problem, is_readable=False)


def named_status(run: RunFolder, answers: Answers) -> RunStatus:
    """As `status_or_reason`, of a run that somebody names: what is wrong with its files, and what was edited."""
    row = status_or_reason(run, answers)
    if not row.is_readable:
        return row
    row = replace(row, problems=damages(run))
    try:
        return replace(row, changes=changed_by_now(run, run.ledger.history()))
    except Exception:  # The row says what is known of it.
        return row


def status_of(run: RunFolder, answers: Answers, works: Works | None = None) -> RunStatus:
    """The status of one run; reads its small files.

    Args:
        works: its evaluations and tunings, if the caller has them.
    """
    progress, identity = run.progress(), run.identity()
    checkpoints = run.checkpoint_steps()
    history = with_culprits(run.ledger.history().with_progress(progress, checkpoints))
    last = history.last
    seen = seen_by(history, answers, time.time())
    state, reason = state_of(history, seen, time.time(), lambda: home.is_starting(run))
    if state == "PENDING" and (found := unasked(run, history, time.time())) and not home.is_starting(run):
        state, reason = found
    if state in RESUMABLE and (holder := local_holder(run.leases)) is not None:
        # Started without cldctl, or orphaned by it: what counts is who writes.
        state, reason = "RUNNING", f"process {holder['pid']} on this machine writes into it (job {holder['job_id']})"
    turned_away = (event.job for event in history.submitted if event not in history.jobs)
    if state in OVER and (waiting := [job.job_id for job in turned_away if seen(job).phase == "pending"]):
        reason = f"job {', '.join(waiting)} still waits, with nothing to do: `cldctl cancel {run.name}`"
    current = history.current(lambda job: seen(job).is_gone)
    job = current.job if current is not None else None
    steps = history.steps if history.steps is not None else progress.get("steps")
    stands_still = job is not None and seen(job).phase == "suspended"
    has_machines = job is not None and seen(job).phase == "running"
    phase = phase_of(state, history, progress, has_machines=has_machines)
    silence = _silence(progress, phase, _last_begun(history, progress)) if state == "RUNNING" else None
    rate = progress.get("steps_per_s") if state == "RUNNING" and not stands_still and silence is None else None
    told = usage.told_by(history, progress, checkpoints, alive=state == "RUNNING")
    # A checkpoint may be later than the last report.
    step = max(progress.get("step", 0), (last.last_step or 0) if last is not None else 0, *checkpoints[-1:])
    works = works_of(run) if works is None else works
    evaluations = [evaluation_status(work, answers) for work in works.evaluations]
    row = RunStatus(
        name=run.name,
        path=str(run.path),
        state=state,
        recipe=identity.get("recipe"),
        user=identity.get("user"),
        group=identity.get("group"),
        sweep=identity.get("sweep") or {},
        tags=list(history.tags),
        note=history.note,
        created=identity.get("created"),
        step=step,
        steps=steps,
        loss=progress.get("loss"),
        smoothed_loss=progress.get("smoothed_loss"),
        phase=phase,
        steps_per_s=rate,
        eta_s=real((steps - step) / rate) if steps is not None and rate else None,
        checkpoint_step=checkpoints[-1] if checkpoints else None,
        cluster=job.cluster if job else None,
        job_id=job.job_id if job else None,
        host=_host(history, state, seen),
        reason=with_trouble(reason or silence, state, history, job.job_id if job else None),
        updated=progress.get("time"),
        attempts=_attempts(history, state, told.attempts),
        evals=evaluations,
        tunings=[tuning_status(work, answers) for work in works.tunings],
        sweeps=sweep_statuses(run, evaluations),
        changes=changed_between(history),
        usage=_usage(run, told),
        code=history.code,
    )
    stale = job is not None and answers.is_stale(job.cluster) and not _is_recorded(history, state, job)
    return replace(row, as_of=row.heard_of) if stale else row


def _host(history: History, state: str, seen: Callable[[JobRef], Seen]) -> str | None:
    """The node of a running job, else where the newest attempt or job was."""
    current = history.current(lambda job: seen(job).is_gone)
    node = seen(current.job).node if current is not None else ""
    host = history.last.host if history.last is not None else None
    return (node if state == "RUNNING" else None) or host or node or None


def _usage(run: RunFolder, told: usage.Told) -> dict[str, Any] | None:
    return usage.usage_of(run, told).to_dict() if told.attempts else None


def _last_begun(history: History, progress: ReportedProgress) -> float:
    """When the newest job was submitted, or attempt started or ended; 0 if the progress is of one that runs."""
    last = history.last
    if last is not None and last.ended is None and last.attempt == progress.get("attempt"):
        return 0.0
    times = [event.time for event in history.submitted] + [it.ended or it.started for it in history.attempts]
    return max(times, default=0.0)


def _silence(progress: ReportedProgress, phase: str | None, begun: float) -> str | None:
    """That a run has not reported for much longer than it usually takes; None if it has.

    Args:
        begun: since when it can have reported; progress from before is that of a run that had ended.
    """
    if (heard := progress.get("time")) is None:
        return None
    heard = max(heard, begun)
    silent, least = time.time() - heard, _LEAST_SILENCE_S if phase == TRAINING else _LONG_PHASE_S
    if silent < max(least, _SILENCE * progress.get("every_s", usage.SILENT_S / _SILENCE)):
        return None
    return f"no report for {silent:.0f} s" if silent < 600 else f"no report for {silent / 60:.0f} min"


def _is_recorded(history: History, state: str, job: JobRef) -> bool:
    """Whether the ledger has the end of the run, so that no cluster has to be asked."""
    last = history.last
    is_cancelled = last is not None and last.job_id == job.job_id and last.cause == "cancelled"
    return state == "FINISHED" or (state == "CANCELLED" and is_cancelled)


def _attempts(history: History, state: str, told: Sequence[Stretch]) -> list[dict[str, Any]]:
    ran = {it.attempt.attempt: round(it.allocated_s, 3) for it in told}
    shown = [
        {**{name: getattr(attempt, name) for name in _ATTEMPT}, "ran_s": ran.get(attempt.attempt)}
        for attempt in history.attempts
    ]
    if state == "LOST" and shown and shown[-1]["cause"] is None:
        shown[-1]["cause"] = "killed"
    return shown


def phase_of(state: str, history: History, progress: ReportedProgress, *, has_machines: bool) -> str | None:
    """The phase of a run in this state; None if it is over.

    Args:
        has_machines: whether its launcher says that the job runs, though the run may not have begun.
    """
    if state in WAITS:
        return STARTING if has_machines else WAITING
    if state != "RUNNING":
        return None
    last = history.last
    if last is None or last.cause is not None or progress.get("attempt") != last.attempt:
        return STARTING
    return one_line(progress.get("phase") or TRAINING, _MOST)


def with_trouble(reason: str | None, state: str, history: History, job_id: str | None) -> str | None:
    """The reason for a state, and what else is to be said of a run that is not over."""
    if state not in ("PENDING", "RUNNING", "REQUEUED"):
        return reason
    now = time.time()
    parts = [reason] if reason else []
    crashes, how = failures.lately(history, now)
    if crashes >= failures.WORTH_TELLING:
        parts.append(how)
    avoided = history.avoided.get(job_id or "", ())
    if avoided:
        why = failures.bad(history.failures, now)
        parts.append("avoids " + ", ".join(f"{node} ({why[node]})" if node in why else node for node in avoided))
    return "; ".join(parts) or None


def unasked(run: RunFolder, history: History, now: float) -> tuple[str, str] | None:
    """State and reason of a run whose ledger holds neither a request nor a job nor an attempt; None for any other.

    Args:
        now: seconds since 1970.
    """
    if history.request is not None or history.submitted or history.attempts:
        return None
    steps = run.checkpoint_steps()
    if steps or run.progress():
        again = f"continues from the checkpoint of step {steps[-1]}" if steps else "begins again"
        lost = "without the keys that earlier continuations changed"
        return "LOST", f"its ledger attempts.jsonl is {_how(run)}; `cldctl resume {run.name}` {again}, {lost}"
    if now - run.identity().get("created", 0.0) > SUBMITTING_S:
        return "FAILED", f"the submission was interrupted before it asked for a job; `cldctl resume {run.name}` does"
    return None


def _how(run: RunFolder) -> str:
    """What is wrong with a ledger of which no line could be read."""
    try:
        return "damaged" if run.ledger.path.lstat().st_size else "empty"
    except OSError:
        return "missing"


def damages(run: RunFolder) -> list[str]:
    """Damaged files, a line each. It reads the recipe, so nobody asks for many runs."""
    problems = []
    for file, content in ((run.progress_file, run.progress()), (run.identity_file, run.identity())):
        if file.exists() and not content:
            problems.append(f"{file.name} is damaged")
    problem = problem_of_recipe(run)
    return problems if problem is None else [*problems, problem]


def problem_of_recipe(run: RunFolder) -> str | None:
    """Why the recipe cannot be read, so that the run cannot continue; None if it can."""
    try:
        run.recipe()
    except Exception as error:
        text = one_line(error)
        return text if run.recipe_file.name in text else f"{run.recipe_file.name}: {text}"
    return None
