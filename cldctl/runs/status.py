"""What runs, evaluations and tunings are doing, by their files and the answers of clusters."""

import contextlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from cld_core.errors import CldError
from cld_core.records import real, to_plain
from cld_core.run import RunFolder
from cld_core.run import recipe as frozen
from cld_core.run.folder import ReportedProgress
from cld_core.run.history import Attempt, History
from cld_core.run.identity import PLUGIN, are_other_data
from cld_core.run.state import (
    ALIVE,
    WAITS,
    RunFacts,
    ShardedFacts,
    State,
    state_of,
)
from cld_core.run.timeline import Stretch, stretches
from cld_core.run.work import RequestedWork, works_of
from cld_core.sanitize import local_time, one_line
from cldctl.jobs import failures

from . import usage
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
# A run stands still or waits if it is silent for this many of its usual pauses between reports,
# and at least this many seconds.
_SILENCE = 10
_LEAST_SILENCE_S = 20.0
# While it evaluates, draws, saves or compiles, it reports nothing.
_LONG_PHASE_S = 600.0
WAITING = "waiting for the queue"
STARTING = "starting"
TRAINING = "training"
# Characters of a phase, which comes from a file.
_MOST = 40


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """One row of `cldctl status`; the fields are those of ``--json``.

    Attributes:
        started_from: the run or file, and the step, whose weights it started from, in words; None
            for other runs.
        changes: changes between attempts that may change results, such as of the code, a line each.
        problems: damaged files that the state does not tell of; only of runs that are named.
        phase: what a run that is alive does, such as "training" or "saving"; else None.
        smoothed_loss: an exponential mean of the reported losses.
        code: the digest of the code that it is to run, "live" for the checkout itself; None if it
            is unknown.
        as_of: the time of the last report of the run itself, if its state depends on a cluster that
            could not be polled; else None.
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
    def last_change(self) -> float | None:
        """When the run last wrote anything, seconds since 1970."""
        return self.updated or self.created


def message_of(error: Exception) -> str:
    """The message of an error; of an error that is not cldctl's own, on one line."""
    return str(error) if isinstance(error, CldError) else one_line(error) or type(error).__name__


def status_or_reason(
    run: RunFolder, answers: Answers, works: Sequence[RequestedWork] | None = None
) -> RunStatus:
    """As `status_of`, without raising: if the files cannot be read, the row says so."""
    try:
        problem = run.format_problem()
        if problem is None:
            return status_of(run, answers, works)
    except Exception as error:
        problem = f"its files cannot be read: {one_line(message_of(error))}"
    return RunStatus(
        name=run.name, path=str(run.path), state="LOST", reason=problem, is_readable=False
    )


def named_status(run: RunFolder, answers: Answers) -> RunStatus:
    """As `status_or_reason`, of a single run: with damaged files and edits of the recipe."""
    row = status_or_reason(run, answers)
    if row.is_readable:
        row = replace(row, problems=damages(run))
        with contextlib.suppress(Exception):  # The row without the edits is still right.
            row = replace(row, changes=changed_by_now(run, run.ledger.history()))
    return row


def status_of(
    run: RunFolder, answers: Answers, works: Sequence[RequestedWork] | None = None
) -> RunStatus:
    """The status of one run; reads its small files.

    Args:
        works: its evaluations and tunings, if the caller has them.
    """
    progress = run.progress()
    identity = run.identity()
    checkpoints = run.steps_to_continue_from()
    history = failures.with_culprits(run.ledger.history().with_progress(progress, checkpoints))
    state = state_of(history, RunFacts(run), answers)
    is_running = state.name == "RUNNING"
    job = state.job
    job_id = None if job is None else job.job_id
    last = history.last
    # The node of a running job, else where the newest attempt or job was.
    hosts = [None if last is None else last.host, state.answer.node]
    if is_running:
        hosts.reverse()
    steps = history.steps if history.steps is not None else progress.get("steps")
    phase = _phase(state, history, progress)
    silence = _silence(progress, phase, history) if is_running else None
    goes_on = is_running and state.answer.phase != "suspended" and silence is None
    rate = progress.get("steps_per_s") if goes_on else None
    attempts = stretches(history, alive=is_running)
    # Of a run without an attempt, it would read the recipe.
    used = usage.used_by(run, history, attempts, alive=is_running) if attempts else None
    step = _step(state.name, history, progress)
    evals: list[dict[str, Any]] = []
    tunings: list[dict[str, Any]] = []
    for work in works_of(run) if works is None else works:
        if work.request.kind == "evaluation":
            evals.append(evaluation_status(cast("Evaluation", work), answers))
        elif work.request.kind == "tuning":
            tunings.append(tuning_status(cast("Tuning", work), answers))
    row = RunStatus(
        name=run.name,
        path=str(run.path),
        state=state.name,
        recipe=identity.get("recipe"),
        user=identity.get("user"),
        group=identity.get("group"),
        created=identity.get("created"),
        sweep=identity.get("sweep") or {},
        started_from=None if history.imported is None else history.imported.words,
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
        job_id=job_id,
        host=hosts[0] or hosts[1] or None,
        reason=with_trouble(state.reason or silence, state.name, history, job_id),
        updated=progress.get("time"),
        attempts=_attempts(history, state.name, attempts),
        evals=evals,
        tunings=tunings,
        sweeps=_sweeps(run, evals),
        changes=changed_between(history),
        usage=None if used is None else used.to_dict(),
        code=history.code,
    )
    # The ledger has the end of these, so that the cluster does not matter.
    is_cancelled = last is not None and last.job_id == job_id and last.cause == "cancelled"
    has_ended = state.name == "FINISHED" or (state.name == "CANCELLED" and is_cancelled)
    if job is None or has_ended or not answers.is_stale(job.cluster):
        return row
    return replace(row, as_of=row.last_change)


def _step(state: str, history: History, progress: ReportedProgress) -> int:
    """The step that a run has reached, or at which it begins."""
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
    """The time of the last submission, start or end; 0 if the progress is of a living attempt."""
    last = history.last
    if last is not None and last.ended is None and last.attempt == progress.get("attempt"):
        return 0.0
    submitted = [event.time for event in history.submitted]
    attempts = [attempt.ended or attempt.started for attempt in history.attempts]
    return max([*submitted, *attempts], default=0.0)


def _silence(progress: ReportedProgress, phase: str | None, history: History) -> str | None:
    """A message if a run has not reported for much longer than usual; else None."""
    reported = progress.get("time")
    if reported is None:
        return None
    silent = time.time() - max(reported, _last_begun(history, progress))
    least = _LEAST_SILENCE_S if phase == TRAINING else _LONG_PHASE_S
    if silent < max(least, _SILENCE * progress.get("every_s", usage.SILENT_S / _SILENCE)):
        return None
    if silent < 600:
        return f"no report for {silent:.0f} s"
    return f"no report for {silent / 60:.0f} min"


def _attempts(history: History, state: str, times: Sequence[Stretch]) -> list[dict[str, Any]]:
    ran_s = {stretch.attempt.attempt: round(stretch.allocated_s, 3) for stretch in times}
    rows = [
        {name: getattr(attempt, name) for name in _ATTEMPT} | {"ran_s": ran_s.get(attempt.attempt)}
        for attempt in history.attempts
    ]
    if state == "LOST" and rows and rows[-1]["cause"] is None:
        rows[-1]["cause"] = "killed"
    return rows


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
    """The reason for a state, and the troubles of a run that is not over."""
    if state not in ALIVE:
        return reason
    now = time.time()
    parts = [reason, failures.in_vain(history, job_id)]
    crashes, how = failures.recent_crashes(history, now)
    if crashes >= failures.WORTH_TELLING:
        parts.append(how)
    if avoided := history.avoided.get(job_id or "", ()):
        why = failures.bad(history.failures, now)
        nodes = [f"{node} ({why[node]})" if node in why else node for node in avoided]
        parts.append(f"avoids {', '.join(nodes)}")
    return "; ".join(filter(None, parts)) or None


def damages(run: RunFolder) -> list[str]:
    """Damaged files, a line each. It reads the recipe, which is too slow for many runs."""
    files = ((run.progress_file, run.progress()), (run.identity_file, run.identity()))
    problems = [
        f"{file.name} is damaged" for file, content in files if file.exists() and not content
    ]
    try:
        run.recipe()
    except Exception as error:  # With any error, the run cannot continue.
        text = one_line(error)
        problems.append(text if run.recipe_file.name in text else f"{run.recipe_file.name}: {text}")
    return problems


def _work_status(work: "Evaluation | Tuning", state: State) -> dict[str, Any]:
    """The entries that evaluations and tunings have in common."""
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
    facts = ShardedFacts(work)
    state = state_of(work.ledger.history(), facts, answers)
    done, total, _ = facts.progress
    row = _work_status(work, state)
    row |= {"nfe": work.request.nfe, "rows_done": done, "rows": total}
    if solution is None:
        unknown = dict.fromkeys(("gain", "cut_off", "digest"))
        return {**row, "kept": None, "rms": {}, **unknown}
    # Only stages that this version has: a file that was copied may name anything.
    rms = {stage: solution.rms[stage] for stage in STAGES if stage in solution.rms}
    kept = solution.kept if solution.kept in rms else None
    best = rms.get(kept or "")
    gain = None
    if best and "untuned" in rms:
        gain = rms["untuned"] / best
    return {
        **row,
        "kept": kept,
        "rms": rms,
        "gain": gain,
        "cut_off": solution.cut_off,
        "digest": solution.digest,
    }


def evaluation_status(work: "Evaluation", answers: Answers) -> dict[str, Any]:
    """State, shards and results of one evaluation, an entry of ``evals``."""
    from cld_core.run.evaluations import numbers, remarks

    request = work.request
    report = work.report or {}
    history = work.ledger.history()
    facts = ShardedFacts(work, is_done=bool(report))
    state = state_of(history, facts, answers)
    messages = [history.other_code, state.reason]
    elbo = report.get("elbo") or {}
    results = {
        key: {"value": number.value, "stderr": number.stderr, "n": number.n}
        for key, number in numbers(report).items()
    }
    return {
        **_work_status(work, state),
        "metrics": list(request.metrics),
        "shards_done": request.shards - len(facts.missing),
        "shards": request.shards,
        "fid": (report.get("fid") or {}).get("value"),
        **{name: elbo.get(name) for name in ("bpd", "nll", "stderr", "true_entropy")},
        "settings": request.settings,
        "results": results,
        "remarks": [*remarks(report), *(text for text in messages if text is not None)],
    }


def _sweeps(run: RunFolder, evals: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The sweeps of a run, oldest first, with the number of their complete evaluations."""
    if not any(name.startswith("sweep-") for name in run.evaluation_names()):
        return []
    from cld_core.run.evaluations import sweeps_of

    finished = {entry["id"] for entry in evals if entry["state"] == "FINISHED"}
    rows = []
    for _, sweep in sweeps_of(run):
        row = {
            "id": sweep.id,
            "axes": to_plain(sweep.axes),
            "evaluations": list(sweep.evaluations),
            "done": len(finished.intersection(sweep.evaluations)),
        }
        rows.append(row)
    return rows


# The first digits of a digest are enough to compare it.
_DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{20,}")


def changed_between(history: History) -> list[str]:
    """The last change of code, versions, GPU, driver and data between attempts, a line each."""
    lines: dict[str, str] = {}
    values: dict[str, str] = {}
    for attempt in history.attempts:
        noted = {
            "code": attempt.code,
            **attempt.versions,
            "GPU": attempt.gpu,
            "driver": attempt.driver,
        }
        for name, value in noted.items():
            if not isinstance(value, str):
                continue
            before = values.get(name, value)
            values[name] = value
            if value != before:
                # The newest change comes last.
                lines.pop(name, None)
                lines[name] = (
                    f"{name} {_short(value)} instead of {_short(before)}, {_since(attempt)}"
                )
    edited = [f"recipe.yaml was edited by hand: {history.edited}"] if history.edited else []
    return [*lines.values(), *_other_data(history), *_other_code(history), *edited]


def changed_by_now(run: RunFolder, history: History) -> list[str]:
    """As `changed_between`, with edits of the recipe since the last start."""
    now = frozen.seen(run)
    return changed_between(history if now is None else replace(history, edited=now))


def _other_data(history: History) -> Iterator[str]:
    """The last change of data, or of the plug-in's file with the same data."""
    with_data = [attempt for attempt in history.attempts if attempt.data]
    for before, attempt in reversed(list(pairwise(with_data))):
        if are_other_data(attempt.data, before.data):
            yield f"other data than before, {_since(attempt)}"
            return
        plugin = attempt.data.get(PLUGIN)
        earlier = before.data.get(PLUGIN)
        if plugin is not None and earlier is not None and plugin != earlier:
            yield (
                f"plug-in {_short(plugin)} instead of {_short(earlier)}, {_since(attempt)}; "
                f"its first points are the same"
            )
            return


def _other_code(history: History) -> Iterator[str]:
    """A message if the newest attempt does not run the code of the run.

    In a container that hides the folder of the run, a job runs what is installed there.
    """
    last = history.last
    if last is None or last.code is None or last.requested_code in (None, "live", last.code):
        return
    yield (
        f"attempt {last.attempt} runs code {_short(last.code)}, not that of the run, "
        f"{_short(last.requested_code or '')}"
    )


def _since(attempt: Attempt) -> str:
    """From which attempt on, and when that began."""
    return f"since attempt {attempt.attempt} ({local_time(attempt.started)})"


def _short(value: str) -> str:
    return _DIGEST.sub(r"\1", value)
