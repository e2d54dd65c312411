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
# A training is reported as silent after this many of its usual pauses between reports, and at
# least this many seconds; after the longer time if it evaluates, draws, saves or compiles, when it
# reports nothing.
_SILENCE = 10
_LEAST_SILENCE_S = 20.0
_LONG_PHASE_S = 600.0
WAITING = "waiting for the queue"
STARTING = "starting"
TRAINING = "training"
# The most characters of a phase, which comes from a file.
_PHASE_WIDTH = 40


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """One row of `cldctl status`; the fields are those of ``--json``.

    Attributes:
        started_from: the run or file that the first weights come from, and the step, in words; None
            if the training started from scratch.
        changes: changes between attempts that may change results, such as other code, a line each.
        problems: damaged files, which the state does not show; only of runs that are named.
        phase: the activity of a run that is alive, such as "training" or "saving"; else None.
        smoothed_loss: an exponential mean of the reported losses.
        code: the digest of the code that the jobs run, "live" for the checkout itself; None if it
            is unknown.
        as_of: the time of the run's last report, if the state depends on a cluster that could not
            be polled; else None.
        is_readable: False if the files are damaged or of another format; not a field of ``--json``.
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
        """Whether an evaluation or a tuning of the run waits or runs."""
        return any(
            entry["state"] in ("RUNNING", "PENDING") for entry in (*self.evals, *self.tunings)
        )

    @property
    def shown_loss(self) -> float | None:
        """The smoothed loss, or the last loss before there is a smoothed one."""
        return self.loss if self.smoothed_loss is None else self.smoothed_loss

    @property
    def last_change(self) -> float | None:
        """When the run last wrote anything, seconds since 1970."""
        return self.updated or self.created


def message_of(error: Exception) -> str:
    """The message of an error, on one line unless the error is one of cldctl's own."""
    return str(error) if isinstance(error, CldError) else one_line(error) or type(error).__name__


def status_or_reason(
    run: RunFolder, answers: Answers, works: Sequence[RequestedWork] | None = None
) -> RunStatus:
    """The status of one run; if its files cannot be read, a row that says why. Never raises."""
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
    """The row of `status_or_reason`, with damaged files and later edits of the recipe."""
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
    identity = run.identity()
    history, progress = run.history_and_progress()
    history = failures.with_culprits(history)
    state = state_of(history, RunFacts(run), answers)
    is_running = state.name == "RUNNING"
    job = state.job
    job_id = None if job is None else job.job_id
    last = history.last
    node = state.answer.node
    host = (None if last is None else last.host) or node
    if is_running:
        host = node or host
    steps = history.steps if history.steps is not None else progress.get("steps")
    phase = _phase(state, history, progress)
    silence = _silence(progress, phase, history) if is_running else None
    goes_on = is_running and state.answer.phase != "suspended" and silence is None
    rate = progress.get("steps_per_s") if goes_on else None
    attempts = stretches(history, alive=is_running)
    used = None
    # Without attempts, `used_by` would read the recipe, which is slow.
    if attempts:
        used = usage.used_by(run, history, attempts, alive=is_running).to_dict()
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
        checkpoint_step=history.saved,
        cluster=job.cluster if job else None,
        job_id=job_id,
        host=host or None,
        reason=with_trouble(state.reason or silence, state.name, history, job_id),
        updated=progress.get("time"),
        attempts=_attempts(history, state.name, attempts),
        evals=evals,
        tunings=tunings,
        sweeps=_sweeps(run, evals),
        changes=changed_between(history),
        usage=used,
        code=history.code,
    )
    if job is None or not answers.is_stale(job.cluster):
        return row
    # A state that follows from a recorded end does not depend on the cluster.
    is_cancelled = last is not None and last.job_id == job_id and last.cause == "cancelled"
    if state.name == "FINISHED" or (state.name == "CANCELLED" and is_cancelled):
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


def _silence(progress: ReportedProgress, phase: str | None, history: History) -> str | None:
    """A message if a run has not reported for much longer than usual; else None."""
    if "time" not in progress:
        return None
    times = [progress["time"]]
    last = history.last
    if last is None or last.ended is not None or last.attempt != progress.get("attempt"):
        # The report is of an earlier attempt: nothing is expected of the next one before it begins.
        times += (event.time for event in history.submitted)
        times += (attempt.ended or attempt.started for attempt in history.attempts)
    silent_s = time.time() - max(times)
    least_s = _LEAST_SILENCE_S if phase == TRAINING else _LONG_PHASE_S
    usual_s = progress.get("every_s", usage.SILENT_S / _SILENCE)
    if silent_s < max(least_s, _SILENCE * usual_s):
        return None
    if silent_s < 600:
        return f"no report for {silent_s:.0f} s"
    return f"no report for {silent_s / 60:.0f} min"


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
    """The activity of a run; None if it is over."""
    if state.name in WAITS:
        # Between the start of a job and that of its attempt, the launcher says that it runs.
        return STARTING if state.answer.phase == "running" else WAITING
    if state.name != "RUNNING":
        return None
    last = history.last
    if last is None or last.cause is not None or progress.get("attempt") != last.attempt:
        return STARTING
    return one_line(progress.get("phase") or TRAINING, _PHASE_WIDTH)


def with_trouble(
    reason: str | None, state: str, history: History, job_id: str | None
) -> str | None:
    """The reason for a state; of a run that is alive, also recent crashes and avoided nodes."""
    if state not in ALIVE:
        return reason
    now = time.time()
    parts = [reason, failures.in_vain(history, job_id)]
    crashes, message = failures.recent_crashes(history, now)
    if crashes >= failures.REPORT_FROM:
        parts.append(message)
    if avoided := history.avoided.get(job_id or "", ()):
        causes = failures.bad(history.failures, now)
        nodes = [f"{node} ({causes[node]})" if node in causes else node for node in avoided]
        parts.append(f"avoids {', '.join(nodes)}")
    return "; ".join(filter(None, parts)) or None


def damages(run: RunFolder) -> list[str]:
    """The damaged files of a run, a line each. Reads the recipe, which is slow for many runs."""
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


def _work_status(
    work: "Evaluation | Tuning", facts: ShardedFacts, answers: Answers
) -> dict[str, Any]:
    """The state of an evaluation or a tuning, and other values that both have."""
    state = state_of(work.ledger.history(), facts, answers)
    return {
        "id": work.name,
        "state": state.name,
        "cause": state.cause,
        "reason": state.reason,
        "checkpoint_step": work.request.checkpoint_step,
    }


def tuning_status(work: "Tuning", answers: Answers) -> dict[str, Any]:
    """State, rows and gain of one tuning, an entry of ``tunings``.

    ``rms`` has root mean square distances from the network's flow on held-out noise. ``gain`` is
    the distance of the best setting without a fit, divided by that of the kept setting: 1 if no fit
    was better. ``cut_off`` says that the budget ended the fit.
    """
    from cld_core.run.tunings import STAGES

    solution = work.solution
    facts = ShardedFacts(work)
    done, total, _ = facts.progress
    row = _work_status(work, facts, answers)
    row |= {"nfe": work.request.nfe, "rows_done": done, "rows": total}
    row |= {"kept": None, "rms": {}, "gain": None, "cut_off": None, "digest": None}
    if solution is None:
        return row
    # Only stages that this version has: a file that was copied may name anything.
    rms = {stage: solution.rms[stage] for stage in STAGES if stage in solution.rms}
    row |= {"rms": rms, "cut_off": solution.cut_off, "digest": solution.digest}
    if solution.kept in rms:
        row["kept"] = solution.kept
        if rms[solution.kept] and "untuned" in rms:
            row["gain"] = rms["untuned"] / rms[solution.kept]
    return row


def evaluation_status(work: "Evaluation", answers: Answers) -> dict[str, Any]:
    """State, shards and results of one evaluation, an entry of ``evals``."""
    from cld_core.run.evaluations import numbers, remarks

    request = work.request
    report = work.report or {}
    facts = ShardedFacts(work, is_done=bool(report))
    row = _work_status(work, facts, answers)
    messages = [*remarks(report), work.ledger.history().other_code, row["reason"]]
    elbo = report.get("elbo") or {}
    results = {
        key: {"value": number.value, "stderr": number.stderr, "n": number.n}
        for key, number in numbers(report).items()
    }
    return {
        **row,
        "metrics": list(request.metrics),
        "shards_done": request.shards - len(facts.missing),
        "shards": request.shards,
        "fid": (report.get("fid") or {}).get("value"),
        **{name: elbo.get(name) for name in ("bpd", "nll", "stderr", "true_entropy")},
        "settings": request.settings,
        "results": results,
        "remarks": [message for message in messages if message is not None],
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
    earlier: dict[str, str] = {}
    for attempt in history.attempts:
        values = {
            "code": attempt.code,
            **attempt.versions,
            "GPU": attempt.gpu,
            "driver": attempt.driver,
        }
        for name, value in values.items():
            if not isinstance(value, str):
                continue
            before = earlier.setdefault(name, value)
            if value != before:
                # The newest change comes last.
                lines.pop(name, None)
                lines[name] = (
                    f"{name} {_short(value)} instead of {_short(before)}, {_since(attempt)}"
                )
                earlier[name] = value
    edited = [f"recipe.yaml was edited by hand: {history.edited}"] if history.edited else []
    return [*lines.values(), *_other_data(history), *_other_code(history), *edited]


def changed_by_now(run: RunFolder, history: History) -> list[str]:
    """The changes of `changed_between`, and edits of the recipe since the last start."""
    edited = frozen.seen(run)
    return changed_between(history if edited is None else replace(history, edited=edited))


def _other_data(history: History) -> Iterator[str]:
    """The last change of the data, or of a plug-in's file that still yields the same data."""
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
    """A message if the newest attempt does not run the code that was submitted.

    In a container that hides the run folder, a job runs the code that is installed there.
    """
    last = history.last
    if last is None or last.code is None or last.requested_code in (None, "live", last.code):
        return
    yield (
        f"attempt {last.attempt} runs code {_short(last.code)}, not that of the run, "
        f"{_short(last.requested_code or '')}"
    )


def _since(attempt: Attempt) -> str:
    """The attempt that a change begins with, and its time."""
    return f"since attempt {attempt.attempt} ({local_time(attempt.started)})"


def _short(value: str) -> str:
    return _DIGEST.sub(r"\1", value)
