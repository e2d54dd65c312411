"""What a run, its evaluations and its tunings are doing: their files, and what the clusters say
about their jobs."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from cld_core.codec import real
from cld_core.errors import CldError
from cld_core.run import RunFolder
from cld_core.run import recipe as frozen
from cld_core.run.folder import ReportedProgress
from cld_core.run.history import Attempt, History
from cld_core.run.identity import PLUGIN, are_other_data
from cld_core.run.state import (
    ALIVE,
    WAITS,
    DividedFacts,
    RunFacts,
    State,
    state_of,
)
from cld_core.run.timeline import Stretch, stretches
from cld_core.run.work import Work, works_of
from cld_core.sanitize import local_time, one_line
from cldctl.jobs import failures

from . import usage
from .logs import with_culprits
from .survey import Answers

if TYPE_CHECKING:
    from cld_core.run.evaluations import Evaluation
    from cld_core.run.tunings import Tuning

# What ``--json`` shows of an attempt.
_ATTEMPT = (
    "attempt",
    "job_id",
    "started",
    "ended",
    "cause",
    "first_step",
    "last_step",
    "detail",
    "host",
    "warning",
)
# A run that is silent for so many times its usual pause between reports, and so many seconds,
# stands still or waits.
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
        started_from: the run or file, and the step, whose weights it started from, in words; None
            for other runs.
        changes: what changed between attempts and may change results, such as the code, a line
            each.
        problems: damaged files that the state does not tell of; only of runs that somebody names.
        phase: what a run that is alive does, such as "training" or "saving"; else None.
        smoothed_loss: an exponential mean of the losses that were reported.
        code: the digest of the code that it is to run, "live" for the checkout itself; None if
            nobody knows.
        as_of: when the run itself was last heard of, if its cluster could not be asked and that
            matters; else None.
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
    started_from: str | None = None
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
        return any(
            entry["state"] in ("RUNNING", "PENDING") for entry in (*self.evals, *self.tunings)
        )

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


def status_or_reason(
    run: RunFolder, answers: Answers, works: Sequence[Work] | None = None
) -> RunStatus:
    """As `status_of`; if the files cannot be read, only that. It never raises, so that it spoils no
    other row."""
    try:
        problem = run.format_problem()
        if problem is None:
            return status_of(run, answers, works)
    except Exception as error:
        problem = f"its files cannot be read: {one_line(error) or type(error).__name__}"
    return RunStatus(
        name=run.name, path=str(run.path), state="LOST", reason=problem, is_readable=False
    )


def named_status(run: RunFolder, answers: Answers) -> RunStatus:
    """As `status_or_reason`, of a run that somebody names: what is wrong with its files, and what
    was edited."""
    row = status_or_reason(run, answers)
    if not row.is_readable:
        return row
    row = replace(row, problems=damages(run))
    try:
        return replace(row, changes=changed_by_now(run, run.ledger.history()))
    except Exception:  # The row says what is known of it.
        return row


def status_of(run: RunFolder, answers: Answers, works: Sequence[Work] | None = None) -> RunStatus:
    """The status of one run; reads its small files.

    Args:
        works: its evaluations and tunings, if the caller has them.
    """
    progress, identity = run.progress(), run.identity()
    checkpoints = run.steps_to_continue_from()
    history = with_culprits(run.ledger.history().with_progress(progress, checkpoints))
    found = state_of(history, RunFacts(run), answers)
    state, job, last = found.name, found.job, history.last
    is_running = state == "RUNNING"
    steps = history.steps if history.steps is not None else progress.get("steps")
    phase = _phase(found, history, progress)
    silence = _silence(progress, phase, _last_begun(history, progress)) if is_running else None
    goes_on = is_running and found.answer.phase != "suspended" and silence is None
    rate = progress.get("steps_per_s") if goes_on else None
    attempts = stretches(history, alive=is_running)
    # Of a run without an attempt, it would read the recipe.
    used = usage.used_by(run, history, attempts, alive=is_running) if attempts else None
    step = _step(state, history, progress)
    works = works_of(run) if works is None else works
    evals = [
        evaluation_status(cast("Evaluation", it), answers)
        for it in works
        if it.request.kind == "evaluation"
    ]
    tunings = [
        tuning_status(cast("Tuning", it), answers) for it in works if it.request.kind == "tuning"
    ]
    made: dict[str, Any] = {
        name: identity.get(name) for name in ("recipe", "user", "group", "created")
    }
    row = RunStatus(
        name=run.name,
        path=str(run.path),
        state=state,
        **made,
        sweep=identity.get("sweep") or {},
        started_from=None if (imported := history.imported) is None else imported.words,
        tags=list(history.tags),
        note=history.note,
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
        # The node of a running job, else where the newest attempt or job was.
        host=(found.answer.node if is_running else None)
        or (last.host if last is not None else None)
        or found.answer.node
        or None,
        reason=with_trouble(found.reason or silence, state, history, job.job_id if job else None),
        updated=progress.get("time"),
        attempts=_attempts(history, state, attempts),
        evals=evals,
        tunings=tunings,
        sweeps=_sweeps(run, evals),
        changes=changed_between(history),
        usage=None if used is None else used.to_dict(),
        code=history.code,
    )
    if job is None or not answers.is_stale(job.cluster) or state == "FINISHED":
        return row
    # The ledger has the end of such a run, so that no cluster has to be asked.
    is_cancelled = last is not None and last.job_id == job.job_id and last.cause == "cancelled"
    return row if state == "CANCELLED" and is_cancelled else replace(row, as_of=row.heard_of)


def _step(state: str, history: History, progress: ReportedProgress) -> int:
    """The step that a run has reached, or from which it is to begin or has just begun."""
    last = history.last
    saved = history.saved or 0
    if state == "PENDING":
        return saved if history.from_step is None else history.from_step
    if last is not None and last.cause is None and progress.get("attempt") != last.attempt:
        return max(saved, last.first_step)
    reached = 0 if last is None else last.last_step or 0
    # A checkpoint may be later than the last report.
    return max(progress.get("step", 0), reached, saved)


def _last_begun(history: History, progress: ReportedProgress) -> float:
    """When the newest job was submitted, or attempt started or ended; 0 if the progress is of one
    that runs."""
    last = history.last
    if last is not None and last.ended is None and last.attempt == progress.get("attempt"):
        return 0.0
    times = [event.time for event in history.submitted] + [
        it.ended or it.started for it in history.attempts
    ]
    return max(times, default=0.0)


def _silence(progress: ReportedProgress, phase: str | None, begun: float) -> str | None:
    """That a run has not reported for much longer than it usually takes; None if it has.

    Args:
        begun: since when it can have reported; progress from before is that of a run that had
            ended.
    """
    if (heard := progress.get("time")) is None:
        return None
    silent = time.time() - max(heard, begun)
    least = _LEAST_SILENCE_S if phase == TRAINING else _LONG_PHASE_S
    if silent < max(least, _SILENCE * progress.get("every_s", usage.SILENT_S / _SILENCE)):
        return None
    return (
        f"no report for {silent:.0f} s" if silent < 600 else f"no report for {silent / 60:.0f} min"
    )


def _attempts(history: History, state: str, told: Sequence[Stretch]) -> list[dict[str, Any]]:
    ran = {it.attempt.attempt: round(it.allocated_s, 3) for it in told}
    shown = [
        {**{name: getattr(attempt, name) for name in _ATTEMPT}, "ran_s": ran.get(attempt.attempt)}
        for attempt in history.attempts
    ]
    if state == "LOST" and shown and shown[-1]["cause"] is None:
        shown[-1]["cause"] = "killed"
    return shown


def _phase(state: State, history: History, progress: ReportedProgress) -> str | None:
    """What a run in this state does; None if it is over."""
    if state.name in WAITS:
        # Its launcher may say that the job runs, though the run has not begun.
        return STARTING if state.answer.phase == "running" else WAITING
    if state.name != "RUNNING":
        return None
    last = history.last
    if last is None or last.cause is not None or progress.get("attempt") != last.attempt:
        return STARTING
    return one_line(progress.get("phase") or TRAINING, _MOST)


def with_trouble(
    reason: str | None, state: str, history: History, job_id: str | None
) -> str | None:
    """The reason for a state, and what else is to be said of a run that is not over."""
    if state not in ALIVE:
        return reason
    now = time.time()
    parts = [reason] if reason else []
    if (early := failures.in_vain(history, job_id)) is not None:
        parts.append(early)
    crashes, how = failures.lately(history, now)
    if crashes >= failures.WORTH_TELLING:
        parts.append(how)
    if avoided := history.avoided.get(job_id or "", ()):
        why = failures.bad(history.failures, now)
        parts.append(
            "avoids "
            + ", ".join(f"{node} ({why[node]})" if node in why else node for node in avoided)
        )
    return "; ".join(parts) or None


def damages(run: RunFolder) -> list[str]:
    """Damaged files, a line each. It reads the recipe, so nobody asks for many runs."""
    files = ((run.progress_file, run.progress()), (run.identity_file, run.identity()))
    problems = [
        f"{file.name} is damaged" for file, content in files if file.exists() and not content
    ]
    try:
        run.recipe()
    except Exception as error:  # Whatever is wrong with it, the run cannot continue.
        text = one_line(error)
        problems.append(text if run.recipe_file.name in text else f"{run.recipe_file.name}: {text}")
    return problems


def _work_status(work: "Evaluation | Tuning", state: State) -> dict[str, Any]:
    """What evaluations and tunings have in common."""
    return {
        "id": work.name,
        "state": state.name,
        "cause": state.cause,
        "reason": state.reason,
        "checkpoint_step": work.request.checkpoint_step,
    }


def tuning_status(work: "Tuning", answers: Answers) -> dict[str, Any]:
    """State, rows and gain of one tuning.

    ``gain`` is how many times nearer to the network's flow it is than the best setting without a
    fit, by the root mean square distance on held-out noise: 1 if that setting was kept. ``cut_off``
    says that the budget ended the fit.
    """
    from cld_core.run.tunings import STAGES

    solution = work.solution
    facts = DividedFacts(work)
    state = state_of(work.ledger.history(), facts, answers)
    done, total, _ = facts.progress
    # Only what this version knows: a file of somebody else's may name anything.
    rms = (
        {}
        if solution is None
        else {stage: solution.rms[stage] for stage in STAGES if stage in solution.rms}
    )
    kept = solution.kept if solution is not None and solution.kept in rms else None
    best, untuned = rms.get(kept or ""), rms.get("untuned")
    return {
        **_work_status(work, state),
        "nfe": work.request.nfe,
        "rows_done": done,
        "rows": total,
        "kept": kept,
        "rms": rms,
        "gain": untuned / best if best and untuned is not None else None,
        "cut_off": None if solution is None else solution.cut_off,
        "digest": solution.digest if solution is not None else None,
    }


def evaluation_status(work: "Evaluation", answers: Answers) -> dict[str, Any]:
    """State, shards and results of one evaluation, an entry of ``evals``."""
    from cld_core.run.evaluations import numbers, remarks

    request = work.request
    report = work.report or {}
    history = work.ledger.history()
    facts = DividedFacts(work, is_done=bool(report))
    state = state_of(history, facts, answers)
    unusual = [text for text in (history.other_code, state.reason) if text is not None]
    elbo = report.get("elbo") or {}
    return {
        **_work_status(work, state),
        "metrics": list(request.metrics),
        "shards_done": request.shards - len(facts.missing),
        "shards": request.shards,
        "fid": (report.get("fid") or {}).get("value"),
        **{name: elbo.get(name) for name in ("bpd", "nll", "stderr", "true_entropy")},
        "settings": request.settings,
        "results": {
            key: {"value": it.value, "stderr": it.stderr, "n": it.n}
            for key, it in numbers(report).items()
        },
        "remarks": [*remarks(report), *unusual],
    }


def _sweeps(run: RunFolder, evals: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The sweeps of a run, oldest first: their axes, their evaluations, and how many of these are
    complete."""
    if not any(name.startswith("sweep-") for name in run.evaluation_names()):
        return []
    from cld_core.run.evaluations import sweeps_of

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


# Of a digest, people compare the first digits.
_DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{20,}")


def changed_between(history: History) -> list[str]:
    """The last change of each thing, a line each, in words for a warning; what an attempt does not
    tell is left out."""
    lines: dict[str, str] = {}
    known: dict[str, str] = {}
    for attempt in history.attempts:
        told = {
            "code": attempt.code,
            **attempt.versions,
            "GPU": attempt.gpu,
            "driver": attempt.driver,
        }
        for name, value in told.items():
            if not isinstance(value, str):
                continue
            before = known.get(name, value)
            known[name] = value
            if value != before:
                lines.pop(name, None)
                lines[name] = (
                    f"{name} {_short(value)} instead of {_short(before)}, {_since(attempt)}"
                )
    edited = [f"recipe.yaml was edited by hand: {history.edited}"] if history.edited else []
    return [*lines.values(), *_other_data(history), *_other_code(history), *edited]


def changed_by_now(run: RunFolder, history: History) -> list[str]:
    """As `changed_between`, also what was edited since the last start, which no ledger tells of
    yet."""
    now = frozen.seen(run)
    return changed_between(history if now is None else replace(history, edited=now))


def _other_data(history: History) -> Iterator[str]:
    """The last attempt that began to train on other data; or whose plug-in is another file, with
    the same points."""
    told = [attempt for attempt in history.attempts if attempt.data]
    for before, attempt in reversed(list(pairwise(told))):
        if are_other_data(attempt.data, before.data):
            yield f"other data than before, {_since(attempt)}"
            return
        now, was = attempt.data.get(PLUGIN), before.data.get(PLUGIN)
        if now is not None and was is not None and now != was:
            text = f"plug-in {_short(now)} instead of {_short(was)}, {_since(attempt)}"
            yield f"{text}; its first points are the same"
            return


def _other_code(history: History) -> Iterator[str]:
    """A job that does not find the run's code, as in a container that hides it, runs whatever is
    installed there."""
    last = history.last
    if last is None or last.code is None or last.asked in (None, "live", last.code):
        return
    yield (
        f"attempt {last.attempt} runs code {_short(last.code)}, not that of the run, "
        f"{_short(last.asked or '')}"
    )


def _since(attempt: Attempt) -> str:
    """From which attempt on, and when that began."""
    return f"since attempt {attempt.attempt} ({local_time(attempt.started)})"


def _short(value: str) -> str:
    return _DIGEST.sub(r"\1", value)
