"""Explains the state of a run by its ledger, its logs and its scheduler."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from cld_core.run import RunFolder
from cld_core.run.events import GivenUp, JobRef, state_after
from cld_core.run.history import History
from cld_core.run.state import DECIDING, OVER, WAITS, living
from cld_core.run.timeline import Stretch, stretches
from cld_core.run.work import evaluations_of
from cld_core.sanitize import one_line
from cldctl import clusters
from cldctl.clusters.base import Held, Waiting
from cldctl.jobs import failures

from . import survey, usage
from .logs import FirstFailure, dead_rank, first_failure, has_failed
from .status import (
    STARTING,
    RunStatus,
    changed_by_now,
    damages,
    message_of,
    status_or_reason,
)
from .survey import Answers

_Part = TypeVar("_Part")
_ATTEMPT = (
    "attempt",
    "job_id",
    "restart",
    "hosts",
    "started",
    "ended",
    "cause",
    "detail",
    "first_step",
    "last_step",
)
# Entries of ``--json`` that are those of `status`.
_OF_ROW = (
    "name",
    "path",
    "state",
    "reason",
    "step",
    "steps",
    "checkpoint_step",
    "cluster",
    "job_id",
    "host",
)
# The end of an attempt in words, by its cause.
_ENDS = {
    "preempted": "was preempted",
    "timeout": "reached its time limit",
    "terminated": "was terminated",
    "cancelled": "was cancelled",
    "requeued": "was requeued by an administrator",
    "node_failure": "lost its node",
    "out_of_memory": "ran out of memory",
    "crashed": "crashed",
    "nonfinite": "diverged",
    "save_failed": "could not save",
    "imported": "was imported",
    "killed": "was killed",
}


@dataclass(kw_only=True)
class Why:
    """The explanation of a run's state.

    Attributes:
        row: the status of the run, with changes between attempts; its problems name files that
            could not be read and clusters that could not be polled.
        headline: state and reason in a sentence.
        history: the history of the run; empty if its ledger cannot be read.
        stretches: the attempts with their times, oldest first.
        failed: the rank that failed first, if the newest attempt failed.
        excluded: nodes that the job avoids.
        waiting: why the job waits, if it does.
        do: advice to follow before typing a command; None without any.
        next: commands to type next, without "cldctl ".
    """

    row: RunStatus
    headline: str
    history: History = field(default_factory=History)
    stretches: Sequence[Stretch] = ()
    failed: FirstFailure | None = None
    excluded: tuple[str, ...] = ()
    waiting: Waiting | None = None
    do: str | None = None
    next: list[str] = field(default_factory=list)

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """The rows of the attempts, oldest first; the last one ended as `status` shows it."""
        rows = [_attempt_row(stretch) for stretch in self.stretches]
        if rows and rows[-1]["cause"] is None and self.row.attempts:
            rows[-1]["cause"] = self.row.attempts[-1]["cause"]
        return rows

    @property
    def ends(self) -> list[tuple[Stretch, str, str]]:
        """The attempts, each with the state in which it left the run, and its cause in words."""
        ends = []
        for stretch, row in zip(self.stretches, self.attempts, strict=True):
            state = "LOST"
            words = "no recorded end"
            if cause := row["cause"]:
                state = state_after(cause)
                words = cause.replace("_", " ")
            elif stretch is self.stretches[-1] and self.row.state == "RUNNING":
                state = "RUNNING"
                words = "running"
            ends.append((stretch, state, words))
        return ends

    def to_dict(self) -> dict[str, Any]:
        row = self.row
        failed_first = None
        if self.failed is not None:
            failed_first = asdict(self.failed)
            if self.failed.file is not None:
                failed_first["file"] = str(self.failed.file)
        return {
            **{name: getattr(row, name) for name in _OF_ROW},
            "headline": self.headline,
            "code": row.code,
            "attempts": self.attempts,
            "failed_first": failed_first,
            "excluded": list(self.excluded),
            "changed": row.changes,
            "waiting": None if self.waiting is None else asdict(self.waiting),
            "evals": row.evals,
            "tunings": row.tunings,
            "usage": row.usage,
            "problems": row.problems,
            "do": self.do,
            "next": [f"cldctl {text}" for text in self.next],
        }


def why(run: RunFolder) -> Why:
    """Explain the state of a run; its problems name the files that cannot be read."""
    answers = survey.of_runs([run], max_age_s=survey.TO_LOOK_S)
    why = explained(status_or_reason(run, answers), answers, polls=True)
    if answers.remark:
        why.row.problems.insert(0, answers.remark)
    return why


def explained(row: RunStatus, answers: Answers, *, polls: bool = False) -> Why:
    """Explain a row of ``status``; never raises.

    Args:
        answers: what the clusters said when the row was made.
        polls: whether the cluster may be asked why a job waits, if the answers do not tell.
    """
    run = RunFolder(row.path)
    problems: list[str] = []

    def attempted(part: str, make: Callable[[], _Part], otherwise: _Part) -> _Part:
        """The result of ``make``; if it fails, ``otherwise``, and a problem names the part."""
        try:
            return make()
        except Exception as error:
            problems.append(f"{part}: {one_line(message_of(error))}")
            return otherwise

    if not row.is_readable:
        problems.append(row.reason or "its files cannot be read")
        if run.identity().get("format") is not None and run.format_problem() is not None:
            return Why(row=replace(row, problems=problems), headline="nothing is known about it")
    history = attempted("attempts.jsonl", lambda: run.history_and_progress()[0], History())
    damaged = damages(run)
    problems += damaged
    alive = row.state == "RUNNING"
    attempts = attempted("the attempts", lambda: stretches(history, alive=alive), None)
    waiting = attempted("the job", lambda: _waiting(row, history, answers, polls=polls), None)
    dead = attempted("the logs", lambda: dead_rank(run, history), None) if alive else None
    last = history.last
    failed: FirstFailure | None = None
    # The failure of an earlier attempt does not explain the state that a later one has led to.
    if last is not None and has_failed(last):
        failed = attempted("the logs", lambda: first_failure(run, history, last), None)
    do, commands = _next(row, history, waiting, failed)
    is_recipe_damaged = any(run.recipe_file.name in problem for problem in damaged)
    if is_recipe_damaged and row.is_readable and row.state in OVER:
        do = "restore recipe.yaml from a backup"
        if os.path.lexists(run.submitted_recipe):
            do = f"restore recipe.yaml: {run.submitted_recipe} is how it was submitted"
        commands = [text for text in commands if text.startswith(("logs ", "report "))]
    used = None
    if attempts is not None:
        used = attempted(
            "usage", lambda: usage.used_by(run, history, attempts, alive=alive).to_dict(), None
        )
    evals = attempted("the evaluations", lambda: _evaluations(run, row, answers), row.evals)
    changes = attempted("the changes", lambda: changed_by_now(run, history), list[str]())
    return Why(
        row=replace(row, usage=used, changes=changes, problems=problems, evals=evals),
        headline=_headline(row, waiting, failures.in_vain(history, row.job_id), dead),
        history=history,
        stretches=attempts or (),
        failed=failed,
        excluded=_excluded(run, history, row.job_id),
        waiting=waiting,
        do=do,
        next=commands,
    )


def _attempt_row(stretch: Stretch) -> dict[str, Any]:
    """The row of an attempt: the steps that it gained and lost, and its times."""
    attempt = stretch.attempt
    row = {name: getattr(attempt, name) for name in _ATTEMPT}
    row["hosts"] = list(dict.fromkeys(attempt.hosts)) or ([attempt.host] if attempt.host else [])
    return {
        **row,
        "gained": stretch.kept,
        "lost": stretch.lost,
        "set_aside": stretch.set_aside,
        "waited_s": round(stretch.waited_s, 3),
        "ran_s": round(stretch.allocated_s, 3),
    }


def _waiting(row: RunStatus, history: History, answers: Answers, *, polls: bool) -> Waiting | None:
    """Why the job of a run waits; None if it does not, or its launcher does not tell."""
    job = next((event.job for event in history.submitted if event.job.job_id == row.job_id), None)
    if row.state not in WAITS or job is None:
        return None
    if answers.of(job).phase == "running" and not _is_unanswered(history, answers, job.cluster):
        return None
    return _why_waiting(job, answers, polls=polls)


def _why_waiting(job: JobRef, answers: Answers, *, polls: bool) -> Waiting | None:
    answer = answers.of(job)
    if answer.phase in ("suspended", "ending", "gone") or job.cluster not in clusters.CLUSTERS:
        return None
    return clusters.find(job.cluster).why_waiting(job, answer, asks=polls)


def _is_unanswered(history: History, answers: Answers, cluster: str) -> bool:
    """Whether a job has requested a requeue that its cluster, as far as is known, has not done."""
    if history.requeued is None:
        return False
    as_of = answers.as_of(cluster)
    return answers.is_stale(cluster) or as_of is None or as_of > history.requeued.time


def _evaluations(run: RunFolder, row: RunStatus, answers: Answers) -> list[dict[str, Any]]:
    """The evaluations of a row; if they wait, with the reasons of their launchers, too."""
    works = {work.name: work for work in evaluations_of(run)} if row.is_evaluating else {}
    entries = []
    for entry in row.evals:
        reasons = [entry["reason"]]
        if entry["state"] == "PENDING":
            for event in living(works[entry["id"]].history(), answers):
                waiting = _why_waiting(event.job, answers, polls=False)
                if waiting is not None and answers.of(event.job).phase != "running":
                    reasons.insert(0, waiting.reason)
        reason = "; ".join(filter(None, dict.fromkeys(reasons)))
        entries.append({**entry, "reason": reason or None})
    return entries


def _excluded(run: RunFolder, history: History, job_id: str | None) -> tuple[str, ...]:
    """The nodes that a job avoids after failures, and those that the recipe excludes."""
    size = usage.size_of(run)
    nodes = [*history.avoided.get(job_id or "", ()), None if size is None else size.exclude]
    return tuple(dict.fromkeys(filter(None, nodes)))


def _headline(
    row: RunStatus,
    waiting: Waiting | None,
    in_vain: str | None,
    dead: str | None,
) -> str:
    """State and reason in one sentence.

    Args:
        in_vain: why the last start of a job that waits did not train; None if it did.
        dead: the rank that has ended although the attempt lasts.
    """
    done = f"step {row.step:,}"
    if row.steps:
        done += f" of {row.steps:,}"
    saved = "nothing is saved"
    if row.checkpoint_step is not None:
        saved = f"step {row.checkpoint_step:,} is saved"
    last = row.attempts[-1] if row.attempts else None
    ended = "" if last is None else _end_of(last)
    reason = one_line(row.reason or "", 300).removesuffix(".")
    where = f" on {row.host}" if row.host else ""
    match row.state:
        case _ if not row.is_readable:
            text = "its state is not known"
            reason = ""
        case "FINISHED":
            text = f"all {row.step:,} steps are done"
        case "RUNNING" if dead is not None:
            text = f"{dead} at {done}; its job is deciding whether to start again"
        case "RUNNING" if DECIDING in reason:
            text = done
        case "RUNNING":
            text = f"it trains{where}, {done}"
        case "PENDING" | "REQUEUED" if row.phase == STARTING and waiting is None:
            text = f"job {row.job_id} is starting{where}"
        case "PENDING":
            text = f"job {row.job_id} waits in the queue" if row.job_id else "no job exists yet"
        case "REQUEUED" if row.phase == STARTING:
            text = f"it {ended or 'was interrupted'} at {done}; {saved}"
        case "REQUEUED":
            waits = "waits" if isinstance(waiting, Held) else "waits to continue automatically"
            text = f"it {ended or 'was interrupted'} at {done}, and {waits}"
        case "CANCELLED" if last is not None and last["cause"] != "cancelled":
            text = f"its job was cancelled at {done}; {saved}"
        case "STOPPED" | "CANCELLED":
            text = f"it {ended or 'was cancelled'} at {done}; {saved}"
        case _:
            text = reason or f"it {ended or 'ended'}"
            reason = ""
            # Without an attempt, the reason alone explains the state and what to do.
            if last is not None:
                text += f", at {done}; {saved}"
    if waiting is not None:
        reason = "; ".join(filter(None, (waiting.reason, in_vain)))
    return f"{text}: {reason}" if reason else text


def _end_of(attempt: Mapping[str, Any]) -> str:
    """The end of an attempt in words, such as "was preempted"."""
    words = _ENDS.get(attempt["cause"] or "", f"ended ({attempt['cause']})")
    signal = attempt.get("detail") if attempt["cause"] == "terminated" else None
    return f"{words} ({signal})" if signal else words


def _next(
    row: RunStatus, history: History, waiting: Waiting | None, failed: FirstFailure | None
) -> tuple[str | None, list[str]]:
    """Advice to follow first, if any, and the commands to type next, the most useful one first."""
    name = row.name
    if not row.is_readable:
        return "restore what is damaged, from a backup", []
    if row.state in WAITS:
        advice = "" if waiting is None else waiting.advice.replace(" RUN", f" {name}")
        watch = [] if isinstance(waiting, Held) else [f"status {name} --watch"]
        return advice or None, [*watch, f"cancel {name}"]
    if row.state == "RUNNING":
        if history.by_other_launcher:
            return None, [f"status {name} --watch"]
        logs = [f"logs {name} -f"]
        if failed is not None:
            logs.append(f"logs {name} --failed")
        return None, logs
    if row.state == "FINISHED":
        first = f"eval {name} --elbo"
        if row.is_evaluating:
            first = f"status {name} --watch"
        elif any(entry["state"] == "FINISHED" for entry in row.evals):
            first = f"sample {name}"
        return None, [first, f"report {name}"]
    return _next_of_stopped(row, history, failed)


def _next_of_stopped(
    row: RunStatus, history: History, failed: FirstFailure | None
) -> tuple[str | None, list[str]]:
    """The advice and the commands for a run that can be resumed."""
    name = row.name
    logs: list[str] = []
    if not history.by_other_launcher:
        option = "" if failed is None else "--failed "
        logs = [f"logs {name} {option}--tail 50"]
    event = history.last_of.get(row.job_id or "")
    never_began = isinstance(event, GivenUp) and event.never_began
    if row.state == "FAILED" and failures.SETUP_FAILED in (row.reason or ""):
        return "correct cluster.setup", [f"resume {name} cluster.setup='[LINE, ...]'", *logs]
    if row.state == "FAILED" and (history.bug is not None or never_began):
        return "fix the error first: another start would meet it again", [*logs, f"resume {name}"]
    if _has_crashed_twice(history):
        return "correct the cause first: the same error has ended the last two starts", logs
    if history.cause == "nonfinite":
        lower = f"resume {name} optim.lr=VALUE"
        if row.checkpoint_step is None:
            return "lower optim.lr", [lower, *logs]
        advice = "lower optim.lr, or go back to an earlier step"
        return advice, [lower, f"resume {name} --from STEP", *logs]
    if history.by_other_launcher:
        return (
            "run the same command again, whose launcher has the output; or continue the run as a "
            "job of cldctl"
        ), [f"resume {name}"]
    return None, [f"resume {name}", *(logs if row.state in ("FAILED", "LOST") else [])]


def _has_crashed_twice(history: History) -> bool:
    """Whether the same error ended the last two attempts, at the same step."""
    if len(history.attempts) < 2:
        return False
    before, last = history.attempts[-2:]
    if before.cause != "crashed" or last.cause != "crashed" or not last.detail:
        return False
    return (before.detail, before.first_step) == (last.detail, last.first_step)
