"""The process that calls `hooks.on_change`, once for each change of a run.

    python -m cldctl.jobs.hook_runner RUN LOGS [--evaluation FOLDER] [--over]

LOGS is the folder of this user's logs of the run. In it are the command (`hooks.allow`), what it has been called for,
and what it wrote. A call is limited in time and output, and nothing of it is left behind. Loads no torch.
"""

import contextlib
import getpass
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cld_core.codec import find_record, to_plain
from cld_core.config.monitor import HooksSpec
from cld_core.files import descriptor_for_writing, write_json, write_text
from cld_core.run import RunFolder, events
from cld_core.run.events import Cause, Event, Requested
from cld_core.run.history import Attempt, History
from cld_core.sanitize import one_line, printable
from cld_core.version import __version__
from cldctl.locks import locked_within

from .hooks import allowed

LOG = "hooks.log"
_DONE, _LOCK = "hooks_done.json", ".hooks.lock"
# The newest characters of the log are kept.
_MOST_LOG = 256 * 2**10
# Of the output of a call, what is kept, and with how much more it is ended.
KEPT_BYTES, MOST_BYTES = 8 * 2**10, 2**20
_LOOK_S = 0.05
# Seconds that the process before this one may take for its calls.
_PATIENCE_S = 300.0
_MAX_REASON = 500


def main(arguments: Sequence[str]) -> int:
    run, logs, options = RunFolder(arguments[0]), Path(arguments[1]), list(arguments[2:])
    evaluation = Path(options[options.index("--evaluation") + 1]) if "--evaluation" in options else None
    try:
        hook = allowed(logs)
        if hook is None or hook.on_change is None:
            return 0
        with _alone(logs):
            runner = _Runner(run, logs, hook)
            if evaluation is not None:
                runner.tell_of_evaluation(evaluation)
            else:
                runner.tell_of_run(is_over="--over" in options)
    except Exception as error:  # Nobody reads what this process prints.
        _log(logs, f"{_now()} not called: {one_line(error) or type(error).__name__}\n")
        return 1
    return 0


@dataclass(frozen=True, kw_only=True)
class Change:
    """The run is in another state.

    Attributes:
        place: the number of its event in the ledger, from 0.
        cause: why the attempt ended; of a run that begins again, why the one before did.
        step: None if the event names none.
    """

    place: int
    time: float
    state: str
    cause: Cause | None = None
    reason: str | None = None
    attempt: int | None = None
    step: int | None = None
    job_id: str | None = None
    host: str | None = None


def changes(ledger: Sequence[Event], *, is_over: bool = False) -> list[Change]:
    """All changes, oldest first. An end and what is decided about it at once, such as a requeue, are one change.

    Args:
        is_over: whether jobs that were cancelled are known to be gone, although they did not say so.
    """
    history, found = History(), list[Change]()
    replaced: Change | None = None
    for place, event in enumerate(ledger):
        verdict, before = history.verdict, history.newest
        history.take(event)
        now, last = {"place": place, "time": event.time}, found[-1] if found else None
        if isinstance(event, events.Ended) and event.afterwards:
            if last is not None and last.attempt == event.attempt and last.state != "RUNNING":
                found[-1] = replace(last, cause=event.cause, state=history.state)
        elif history.verdict is verdict or isinstance(event, Requested | events.Submitted):
            continue
        elif isinstance(event, events.Refused) and event.what == "cancellation":
            found[-1] = replace(replaced or replace(found[-1], state=history.state, cause=None), **now)
        else:
            change = _change(history, event, before, **now)
            is_decision = isinstance(event, events.Requeued | events.Refused | events.Cancelled) or (
                isinstance(event, events.GivenUp) and not event.never_began
            )
            follows = verdict is not None and last is not None and last.job_id == change.job_id
            replaced = None
            if last is not None and follows and is_decision and last.state != "RUNNING":
                cause, reason = last.cause or change.cause, change.reason or last.reason
                found[-1], replaced = replace(last, **now, state=change.state, cause=cause, reason=reason), last
            else:
                found.append(change)
    open_ = history.newest if history.newest is not None and history.newest.cause is None else None
    if is_over and history.verdict is not None and open_ is not None and open_.job_id in history.cancelled:
        # The job of an attempt without an end is gone.
        found.append(
            replace(
                found[-1], place=place, time=event.time, state="CANCELLED", cause="cancelled", reason=None, step=None
            )
        )
    return found


def _change(history: History, event: Event, before: Attempt | None, *, place: int, time: float) -> Change:
    """What an event has changed.

    Args:
        before: the newest attempt before it.
    """
    newest, job_id = history.newest, getattr(event, "job_id", None)
    cause: Cause | None = getattr(event, "cause", None)
    reason: str | None = getattr(event, "reason", None)
    match event:
        case events.Started():
            cause, reason = before.cause if before is not None else None, event.warning
        case events.Ended() if newest is not None:
            cause, reason, job_id = newest.cause, event.detail, newest.job_id
        case events.Failed():
            cause = "unfit" if event.kind == "unfit" else "crashed"
        case events.Refused():
            reason = f"could not be requeued: {event.reason}"
        case events.Cancelled():
            cause = "cancelled"
    mine = newest if newest is not None and job_id in (None, newest.job_id) else None
    return Change(
        place=place,
        time=time,
        state=history.state,
        cause=cause,
        reason=reason,
        attempt=None if mine is None else mine.attempt,
        step=event.step if isinstance(event, events.Started | events.Ended) else None,
        job_id=job_id,
        host=None if mine is None else mine.host,
    )


@dataclass(frozen=True)
class _Told:
    """What `hooks_done.json` holds: how many events were told of, the time of the last, and the end of evaluations."""

    events: int = 0
    time: float | None = None
    evaluations: Mapping[str, str] = field(default_factory=dict)


class _Runner:
    def __init__(self, run: RunFolder, logs: Path, hook: HooksSpec) -> None:
        self._run, self._logs, self._hook = run, logs, hook
        done = find_record(_Told, logs / _DONE) or _Told()
        self._told, self._told_time = done.events, done.time
        self._evaluations = dict(done.evaluations)

    def tell_of_run(self, *, is_over: bool) -> None:
        """Call the hook for the changes since the last one that it was called for, or since the last request."""
        ledger = self._run.ledger.events()
        # Another ledger may be in the place of the one that was told about.
        is_same = 0 < self._told <= len(ledger) and ledger[self._told - 1].time == self._told_time
        first = max(self._told if is_same else 0, _last_request(ledger))
        for change in changes(ledger, is_over=is_over):
            if change.place >= first:
                self._call(self._about(change))
                self._told, self._told_time = change.place + 1, change.time
                self._note()

    def tell_of_evaluation(self, folder: Path) -> None:
        """Call the hook for an evaluation that is finished or given up, once for each job."""
        from cld_core.evaluate.evaluation import Evaluation
        from cld_core.evaluate.reports import numbers

        work = Evaluation(folder)
        history, report = work.ledger.history(), work.report
        reason = history.given_up
        if report is None and reason is None:
            return
        jobs = history.submitted
        job_id = jobs[-1].job.job_id.partition("_")[0] if jobs else ""
        what = f"{'FINISHED' if report is not None else 'FAILED'} {job_id}"
        if self._evaluations.get(work.name) == what:
            return
        found = {} if report is None else {key: number.value for key, number in numbers(report).items()}
        told = ", ".join(f"{key} {value:.6g}" for key, value in found.items())
        self._call(
            {
                "what": "evaluation",
                "evaluation": work.name,
                "state": what.split()[0],
                "reason": told if report is not None else one_line(reason or "", _MAX_REASON),
                "step": work.request.checkpoint_step,
                "job_id": job_id or None,
                "results": found,
                "time": round(time.time(), 3),
                "folder": folder,
            }
        )
        self._evaluations[work.name] = what
        self._note()

    def _about(self, change: Change) -> dict[str, Any]:
        progress = self._run.progress()
        step = change.step if change.step is not None else progress.get("step")
        return {
            "what": "run",
            "state": change.state,
            "cause": change.cause,
            "reason": one_line(change.reason, _MAX_REASON) if change.reason else None,
            "step": step,
            "attempt": change.attempt,
            "job_id": change.job_id,
            "host": change.host,
            "loss": progress.get("loss"),
            "time": change.time,
            "folder": self._run.path,
        }

    def _call(self, about: dict[str, Any]) -> None:
        folder = about.pop("folder")
        history, identity = self._run.ledger.history(), self._run.identity()
        steps = history.steps if history.steps is not None else self._run.progress().get("steps")
        content = {
            "run": self._run.name,
            "path": str(self._run.path),
            **about,
            "steps": steps,
            "link": folder.as_uri(),
            "recipe": identity.get("recipe"),
            "group": identity.get("group"),
            "tags": list(history.tags),
            "note": history.note,
            "user": getpass.getuser(),
            "version": __version__,
        }
        content["text"] = sentence(content)
        assert self._hook.on_change is not None, "there is something to call"
        result = call(
            self._hook.on_change,
            environment={**os.environ, **variables(content)},
            content=json.dumps(content) + "\n",
            timeout_s=self._hook.timeout_s,
            folder=self._run.path,
        )
        said = "".join(f"  {line}\n" for line in printable(result.output).splitlines())
        outcome = result.problem or "done"
        _log(self._logs, f"{_now()} {content['text']}: {outcome} ({result.seconds:.1f} s)\n{said}")

    def _note(self) -> None:
        """Note what the hook was called for; a disk that is full makes it be called again."""
        with contextlib.suppress(OSError):
            write_json(self._logs / _DONE, to_plain(_Told(self._told, self._told_time, self._evaluations)))


@dataclass(frozen=True)
class Result:
    """How a call ended; ``problem`` is None if that was by itself with exit code 0."""

    output: str
    seconds: float
    problem: str | None = None


def call(command: str, *, environment: Mapping[str, str], content: str, timeout_s: float, folder: Path) -> Result:
    """Run a shell command with ``content`` on its standard input. Whatever it started is ended when this returns.

    Args:
        environment: all of it.
        folder: its working directory.
    """
    began = time.monotonic()
    with tempfile.TemporaryFile() as stdin:
        stdin.write(content.encode())
        stdin.seek(0)
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", command],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=dict(environment),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return Result("", time.monotonic() - began, f"could not be started: {error}")
    assert process.stdout is not None, "its output is a pipe"
    output, problem, stream = bytearray(), None, process.stdout
    # Beyond that, it waits until somebody reads.
    reader = threading.Thread(target=lambda: output.extend(stream.read(MOST_BYTES + 1)), daemon=True)
    reader.start()
    # It is not reaped before its group is ended: until then nobody else has its number.
    while problem is None and os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        reader.join(_LOOK_S) if reader.is_alive() else time.sleep(_LOOK_S)
        if time.monotonic() - began > timeout_s:
            problem = f"did not end within {timeout_s:g} s (hooks.timeout_s) and was ended"
        elif len(output) > MOST_BYTES:
            problem = f"wrote more than {MOST_BYTES:,} bytes and was ended"
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    code = process.wait()
    reader.join(1.0)
    if not reader.is_alive():
        stream.close()
    if problem is None and code != 0:
        problem = f"ended with exit code {code}" if code > 0 else f"was ended by signal {-code}"
    return Result(output[:KEPT_BYTES].decode(errors="replace"), time.monotonic() - began, problem)


def variables(content: dict[str, Any]) -> dict[str, str]:
    """What a hook finds in its environment; empty for what is not known."""
    names = ("run", "state", "cause", "reason", "step", "steps", "attempt", "job_id", "host", "link", "text")
    values = {name: content.get(name) for name in (*names, "what", "evaluation")}
    texts = {f"CLDCTL_{name.upper()}": "" if value is None else str(value) for name, value in values.items()}
    return texts | {"CLDCTL_RUN_PATH": str(content["path"])}


def sentence(content: dict[str, Any]) -> str:
    """A change in one line, for the text of a message."""
    cause, steps = content.get("cause"), content.get("steps")
    what = f"evaluation {content['evaluation']} " if content.get("evaluation") else ""
    why = f" ({cause.replace('_', ' ')})" if cause not in (None, "finished", content["state"].lower()) else ""
    step = f" at step {content['step']}" if content.get("step") is not None else ""
    of = f" of {steps}" if step and steps is not None else ""
    reason = f": {content['reason']}" if content.get("reason") else ""
    return f"{content['run']}: {what}{content['state']}{why}{step}{of}{reason}"


def _last_request(ledger: Sequence[Event]) -> int:
    """The number of the newest request: the hook is not called for what was before it was there."""
    return max((place for place, event in enumerate(ledger) if isinstance(event, Requested)), default=0)


@contextlib.contextmanager
def _alone(logs: Path) -> Iterator[None]:
    """Of several processes one calls the hook at a time; without locks, or after a while, nobody waits."""
    descriptor = descriptor_for_writing(logs / _LOCK)
    try:
        with contextlib.suppress(OSError):
            locked_within(descriptor, _PATIENCE_S)
        yield
    finally:
        os.close(descriptor)


def _log(logs: Path, text: str) -> None:
    """Append to the log of the hook, and keep that short."""
    with contextlib.suppress(OSError):
        file = logs / LOG
        before = file.read_text(errors="replace") if file.exists() else ""
        write_text(file, (before + text)[-_MOST_LOG:])


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
