"""Calling `hooks.on_change` for changes of the state of a run.

Jobs, their aftermath and commands that have written to the ledger (`heard`) start a process of its
own. It reads the ledger, calls the command for each change that it was not called for, and notes
that, so that one process too many does no harm. Nothing important waits for it: a hook that was
killed with its job is called again by the next start.

The command is not read from the run's recipe, which others may be able to write: `allow` stores the
command of this user in the folder of this user's logs, which is private. The record of calls and
their output are there, too. A call is limited in time and output, and its processes are ended.
Loads no torch. The process is

    python -m cldctl.jobs.hooks RUN LOGS [--evaluation FOLDER] [--decided] [--over]
"""

import contextlib
import getpass
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cld_core.config import Recipe
from cld_core.config.train import HooksSpec
from cld_core.errors import CldError
from cld_core.files import read_bytes, write_json, write_text
from cld_core.ownership import require_private
from cld_core.records import find_record, to_plain
from cld_core.run import RunFolder, events
from cld_core.run.evaluations import Evaluation, numbers
from cld_core.run.events import Cancelled, Event, GivenUp, Refused, Started, Wished
from cld_core.run.history import Attempt, History, array_of
from cld_core.run.work import Training, open_work
from cld_core.sanitize import one_line, printable
from cld_core.version import __version__
from cldctl import locks
from cldctl.clusters import job_logs
from cldctl.clusters.base import InJob
from cldctl.clusters.local_processes import SAFE_PATH

SETTINGS = "hooks.json"
LOG = "hooks.log"
RUNNER = "cldctl.jobs.hooks"
# Seconds for which a job that is back in the queue waits for its hook: other jobs want the node.
HURRY_S = 5.0
# Seconds beyond its time limit that a hook may take to begin and to be ended.
_MARGIN_S = 5.0
# The signals that end a job go to all its processes; a hook ignores them and continues.
_DEAF = "trap '' HUP INT TERM USR1 USR2; exec \"$@\""

_DONE = "hooks_done.json"
_LOCK = ".hooks.lock"
# Characters at the end of the log that are kept.
_MOST_LOG = 256 * 2**10
# Bytes of the output of a call that are kept in the log.
KEPT_BYTES = 8 * 2**10
# A call with more bytes of output is ended.
MOST_BYTES = 2**20
_LOOK_S = 0.05
# Seconds that the process before this one may take for its calls.
_PATIENCE_S = 300.0
_MAX_REASON = 500  # characters
# These may follow an end at once, and then belong to the same change.
DECISIONS = (Started, Wished, GivenUp, Refused, Cancelled)

# What a hook's environment has of its content.
_VARIABLES = (
    "run",
    "state",
    "cause",
    "reason",
    "step",
    "steps",
    "attempt",
    "job_id",
    "host",
    "link",
    "text",
    "what",
    "evaluation",
)

_processes: "list[subprocess.Popen[bytes]]" = []


def allow(run: RunFolder, recipe: Recipe) -> Callable[[], None]:
    """Let jobs of this user call the hook of a recipe that this user has made or accepts.

    Returns:
        A function that restores the hook before, unless others can write it.

    Raises:
        CldError: others may write into the folder of the logs.
        OSError: the folder cannot be written.
    """
    logs = run.logs
    before = None
    with contextlib.suppress(OSError, CldError):
        before = None if allowed(logs) is None else read_bytes(logs / SETTINGS)
    has_hook = (recipe.hooks.on_change or "").strip()
    _store(logs, json.dumps(asdict(recipe.hooks)).encode() if has_hook else None)
    return lambda: _store(logs, before)


def _store(logs: Path, content: bytes | None) -> None:
    file = logs / SETTINGS
    if content is None:
        file.unlink(missing_ok=True)
        return
    job_logs.prepare(logs)
    # Private: the command may contain the address of a channel.
    before = os.umask(0o077)
    try:
        write_text(file, content.decode())
    finally:
        os.umask(before)


def allowed(logs: Path) -> HooksSpec | None:
    """The hook that jobs of this user with their output in ``logs`` call; None for none.

    Raises:
        CldError: others may write there.
        OSError: the folder cannot be read.
    """
    file = logs / SETTINGS
    if not os.path.lexists(file):
        return None
    for path in (logs, file):
        require_private(path, "a hook would run what is in it")
    return find_record(HooksSpec, file) or HooksSpec()


def heard(run: Path) -> Callable[[Event], None]:
    """A callback for the ledger of a run (`Ledger.notify`), which calls the hook for decisions.

    For the end of a job, `settled` calls it.
    """
    return lambda event: fire(RunFolder(run)) if isinstance(event, DECISIONS) else None


def fire(run: RunFolder, *options: str) -> None:
    """Call the hook for changes of a run, without waiting for it. Never raises.

    Args:
        options: ``--decided`` if no decision about the last end is still to come, so that the hook
            is called for it; ``--over`` if cancelled jobs are also known to be gone, although they
            did not note their end; ``--evaluation`` and the folder of an evaluation that may have
            ended, to call the hook for that instead.
    """
    with contextlib.suppress(Exception):
        logs = run.logs
        if not os.path.lexists(logs / SETTINGS):
            return
        command = [
            "/bin/sh",
            "-c",
            _DEAF,
            "sh",
            sys.executable,
            "-P",
            "-m",
            RUNNER,
            str(run.path),
            str(logs),
            *options,
        ]
        streams: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        environment = {**os.environ, **SAFE_PATH}
        process = subprocess.Popen(
            command, **streams, start_new_session=True, cwd="/", env=environment
        )
        _processes.append(process)


def settle(run: RunFolder, within_s: float | None = None) -> None:
    """Wait for hooks that this process has started: the scheduler would end them with the job.

    Args:
        within_s: the most seconds to wait; by default their own time limit.
    """
    with contextlib.suppress(Exception):
        if within_s is None and _processes:
            spec = allowed(run.logs)
            within_s = (spec or HooksSpec()).timeout_s + _MARGIN_S
        deadline = time.monotonic() + (within_s or 0.0)
        for process in _processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        _processes[:] = [process for process in _processes if process.poll() is None]


@contextlib.contextmanager
def settled(job: InJob, folders: Iterable[Path]) -> Iterator[None]:
    """On rank 0, call the hook for what happened in the block (`end_of`) and wait for it.

    If the block ends badly and the cluster runs an aftermath, the aftermath calls the hook instead.
    """
    has_aftermath = job.cluster.restarts
    try:
        yield
        has_aftermath = False
    finally:
        if not has_aftermath and job.place().rank == 0:
            end_of(folders)


def end_of(folders: Iterable[Path], within_s: float | None = None) -> None:
    """Call the hook for remaining changes of trainings and for evaluations that are finished or
    given up, and wait for it. Never raises.

    Args:
        within_s: the most seconds to wait; default: the hook's own time limit, or `HURRY_S` after a
            requeue.
    """
    with contextlib.suppress(Exception):
        for work in map(open_work, folders):
            if isinstance(work, Training):
                fire(work.run, "--decided")
                with contextlib.suppress(OSError):
                    if isinstance(work.ledger.full_history(within_s=0.0).verdict, Wished):
                        within_s = HURRY_S
                settle(work.run, within_s)
            elif isinstance(work, Evaluation) and (
                work.is_done or work.history().given_up is not None
            ):
                fire(work.run, "--evaluation", str(work.folder))
                settle(work.run, within_s)


def main(arguments: Sequence[str]) -> int:
    run = RunFolder(arguments[0])
    logs = Path(arguments[1])
    options = list(arguments[2:])
    try:
        hook = allowed(logs)
    except (OSError, CldError):
        return 1  # Its owner is unknown: nothing is written there.
    if hook is None or hook.on_change is None:
        return 0
    try:
        # One process calls the hook at a time, unless locks do not work or a process takes long.
        with locks.holding(logs / _LOCK, _PATIENCE_S):
            done = find_record(_Done, logs / _DONE) or _Done()
            if "--evaluation" in options:
                evaluation = Path(options[options.index("--evaluation") + 1])
                calls = _of_evaluation(evaluation, done)
            else:
                calls = _of_run(run, done, options)
            for content, done_then in calls:
                _tell(run, logs, hook, content)
                # With a full disk, the hook is called again.
                with contextlib.suppress(OSError):
                    write_json(logs / _DONE, to_plain(done_then))
    except Exception as error:  # This process has no output.
        _log(logs, f"not called: {one_line(error) or type(error).__name__}\n")
        return 1
    return 0


@dataclass(frozen=True)
class _Done:
    """The content of `hooks_done.json`.

    Attributes:
        events: the number of events in the ledger for which the hook was called.
        time: the time of the last of these events.
        evaluations: the end for which the hook was called, by name of the evaluation.
    """

    events: int = 0
    time: float | None = None
    evaluations: Mapping[str, str] = field(default_factory=dict)


# The standard input of a hook.
Content = dict[str, Any]


def changes(ledger: Sequence[Event], *, is_over: bool = False) -> list[Content]:
    """All changes of the state of a run, oldest first, each with the ``place`` of its event in the
    ledger, from 0.

    An end and what is decided about it at once, such as a requeue, are one change. A submission
    that is refused is none: the command that wanted it says so.

    Args:
        is_over: whether cancelled jobs are known to be gone, although they did not note their end.
    """
    history = History()
    contents: list[Content] = []
    for place, event in enumerate(ledger):
        verdict = history.verdict
        before = history.newest
        history.take(event)
        state = history.state
        last: Content = contents[-1] if contents else {"state": "RUNNING", "attempt": None}
        stamp = {"place": place, "time": event.time, "state": state}
        if isinstance(event, events.Ended) and event.afterwards:
            if last["attempt"] == event.attempt and last["state"] != "RUNNING":
                last.update(cause=event.cause, state=state)
        elif history.verdict is verdict or isinstance(event, events.Requested | events.Submitted):
            continue
        elif isinstance(history.request, Refused):
            continue  # Until the next request, `status` shows the refusal.
        elif isinstance(event, Refused) and event.what == "cancellation":
            last.update(
                stamp, cause=None if last.get("cause") == "cancelled" else last.get("cause")
            )
        else:
            change = _change(history, event, before)
            is_decision = isinstance(event, DECISIONS) and not getattr(event, "never_began", False)
            is_of_end = verdict is not None and "RUNNING" not in (last["state"], state)
            if is_decision and is_of_end and last["job_id"] == change["job_id"]:
                cause = last["cause"] or change["cause"]
                last.update(stamp, cause=cause, reason=change["reason"] or last["reason"])
            else:
                contents.append(change | stamp)
    newest = history.newest
    is_open = history.verdict is not None and newest is not None and newest.cause is None
    if is_over and newest is not None and is_open and newest.job_id in history.cancelled:
        over = {"state": "CANCELLED", "cause": "cancelled", "reason": None, "step": None}
        contents.append(contents[-1] | over | {"place": len(ledger) - 1, "time": ledger[-1].time})
    return contents


def _change(history: History, event: Event, before: Attempt | None) -> Content:
    """The change that an event makes, without the state.

    Args:
        before: the newest attempt before the event.
    """
    newest = history.newest
    change: Content = {
        name: getattr(event, name, None) for name in ("cause", "reason", "step", "job_id")
    }
    match event:
        case Started():
            change["cause"] = before.cause if before is not None else None
            change["reason"] = event.warning
        case events.Ended() if newest is not None:
            change |= {"cause": newest.cause, "reason": event.detail, "job_id": newest.job_id}
        case events.Failed():
            change["cause"] = "unfit" if event.kind == "unfit" else "crashed"
        case Refused():
            change["reason"] = f"could not be requeued: {event.reason}"
        case Cancelled():
            change["cause"] = "cancelled"
    if newest is not None and change["job_id"] in (None, newest.job_id):
        return change | {"attempt": newest.attempt, "host": newest.host}
    return change | {"attempt": None, "host": None}


def _of_run(run: RunFolder, done: _Done, options: Sequence[str]) -> Iterator[tuple[Content, _Done]]:
    """The changes since the last call or the last request, and the record after each call."""
    ledger = run.ledger.events()
    # The ledger may have been replaced since.
    is_same = 0 < done.events <= len(ledger) and ledger[done.events - 1].time == done.time
    requests = [place for place, event in enumerate(ledger) if isinstance(event, events.Requested)]
    first = max([done.events if is_same else 0, *requests[-1:]])
    is_over = "--over" in options
    contents = changes(ledger, is_over=is_over)
    is_decided = is_over or "--decided" in options
    # An end is left out until the aftermath has decided: the hook is called once for both.
    if contents and not is_decided and not isinstance(ledger[contents[-1]["place"]], DECISIONS):
        contents.pop()
    for change in contents:
        if (place := change.pop("place")) >= first:
            progress = run.progress()
            if change["step"] is None:
                change["step"] = progress.get("step")
            change |= {"what": "run", "loss": progress.get("loss"), "link": run.path.as_uri()}
            yield change, replace(done, events=place + 1, time=change["time"])


def _of_evaluation(folder: Path, done: _Done) -> Iterator[tuple[Content, _Done]]:
    """The end of an evaluation, once for each job, and the record after the call."""
    work = Evaluation(folder)
    history = work.ledger.history()
    report = work.report
    job_id = array_of(history.submitted[-1].job.job_id) if history.submitted else ""
    if report is not None:
        state = "FINISHED"
        results = {key: number.value for key, number in numbers(report).items()}
        reason = ", ".join(f"{key} {value:.6g}" for key, value in results.items())
    elif history.given_up is not None:
        state = "FAILED"
        results = {}
        reason = history.given_up
    else:
        return
    ends = {**done.evaluations, work.name: f"{state} {job_id}"}
    if ends == done.evaluations:
        return
    content: Content = {"what": "evaluation", "evaluation": work.name, "link": folder.as_uri()}
    content |= {"state": state, "reason": reason, "results": results, "job_id": job_id or None}
    content |= {"step": work.request.checkpoint_step, "time": round(time.time(), 3)}
    yield content, replace(done, evaluations=ends)


def _tell(run: RunFolder, logs: Path, hook: HooksSpec, about: Content) -> None:
    """Call the hook, and log how that went."""
    history = run.ledger.history()
    identity = run.identity()
    reason = one_line(about["reason"], _MAX_REASON) if about["reason"] else None
    steps = history.steps if history.steps is not None else run.progress().get("steps")
    content: Content = {"run": run.name, "path": str(run.path)} | about
    content |= {"reason": reason, "steps": steps}
    content |= {name: identity.get(name) for name in ("recipe", "group")}
    content |= {"tags": list(history.tags), "note": history.note}
    content |= {"user": getpass.getuser(), "version": __version__}
    content["text"] = sentence(content)
    assert hook.on_change is not None, "there is something to call"
    began = time.monotonic()
    output, problem = call(hook.on_change, content, hook.timeout_s)
    took_s = time.monotonic() - began
    lines = "".join(f"  {line}\n" for line in printable(output).splitlines())
    _log(logs, f"{content['text']}: {problem or 'done'} ({took_s:.1f} s)\n{lines}")


def call(command: str, content: Content, timeout_s: float) -> tuple[str, str | None]:
    """Run a shell command in the folder of a run, with ``content`` in its environment and, as JSON,
    on its standard input.

    All processes that it started are ended when this returns.

    Returns:
        The beginning of its output, and the problem; None if it exited with code 0.
    """
    began = time.monotonic()
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as output:
        stdin.write(f"{json.dumps(content)}\n".encode())
        stdin.seek(0)
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", command],
                stdin=stdin,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=content["path"],
                env={**os.environ, **variables(content)},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return "", f"could not be started: {error}"
        problem = None
        try:
            # It is not reaped before its group is ended: until then its number is not reused.
            while (
                problem is None
                and os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
            ):
                time.sleep(_LOOK_S)
                if time.monotonic() - began > timeout_s:
                    problem = f"did not end within {timeout_s:g} s (hooks.timeout_s) and was ended"
                elif os.fstat(output.fileno()).st_size > MOST_BYTES:
                    problem = f"wrote more than {MOST_BYTES:,} bytes and was ended"
        finally:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        if problem is None and code != 0:
            problem = f"ended with exit code {code}" if code > 0 else f"was ended by signal {-code}"
        return os.pread(output.fileno(), KEPT_BYTES, 0).decode(errors="replace"), problem


def variables(content: dict[str, Any]) -> dict[str, str]:
    """The variables of a hook's environment; empty for unknown values."""
    environment = {"CLDCTL_RUN_PATH": content["path"]}
    for name in _VARIABLES:
        value = content.get(name)
        environment[f"CLDCTL_{name.upper()}"] = "" if value is None else str(value)
    return environment


def sentence(content: dict[str, Any]) -> str:
    """A change in one line, for the text of a message."""
    cause = content.get("cause")
    steps = content.get("steps")
    what = f"evaluation {content['evaluation']} " if content.get("evaluation") else ""
    why = ""
    if cause not in (None, "finished", content["state"].lower()):
        why = f" ({cause.replace('_', ' ')})"
    step = f" at step {content['step']}" if content.get("step") is not None else ""
    of = f" of {steps}" if step and steps is not None else ""
    reason = f": {content['reason']}" if content.get("reason") else ""
    return f"{content['run']}: {what}{content['state']}{why}{step}{of}{reason}"


def _log(logs: Path, text: str) -> None:
    """Append to the log of the hook, and keep that short."""
    with contextlib.suppress(OSError):
        file = logs / LOG
        before = read_bytes(file).decode(errors="replace") if os.path.lexists(file) else ""
        write_text(file, f"{before}{time.strftime('%Y-%m-%d %H:%M:%S')} {text}"[-_MOST_LOG:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
