"""Telling `hooks.on_change` that a run has changed, from wherever that is known: a job, its
aftermath, a command.

What is told is in the ledger. Whoever has written to it (`heard`) starts a process of its own,
which reads the ledger, calls the command for each change that it has not been called for, and notes
that. So one process too many does no harm. Nobody waits for it before something that matters: a
hook that was killed with its job is called again by the next start.

The command is not read from the run's recipe, which others may be able to write: `allow` stores
what this user asked for in the folder of this user's logs, which is private. There is, too, what it
has been called for, and what it wrote. A call is limited in time and output, and nothing of it is
left behind. Loads no torch. The process is

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
from typing import Any, Literal

from cld_core.codec import find_record, to_plain
from cld_core.config import Recipe
from cld_core.config.train import HooksSpec
from cld_core.errors import CldError
from cld_core.files import read_bytes, write_json, write_text
from cld_core.ownership import require_private
from cld_core.run import RunFolder, events
from cld_core.run.evaluations import Evaluation, numbers
from cld_core.run.events import Cancelled, Event, GivenUp, Refused, Started, Wished
from cld_core.run.history import Attempt, History
from cld_core.run.work import open_work
from cld_core.sanitize import one_line, printable
from cld_core.version import __version__
from cldctl import locks
from cldctl.clusters import job_logs
from cldctl.clusters.base import InJob
from cldctl.clusters.local_processes import SAFE_PATH

SETTINGS, LOG = "hooks.json", "hooks.log"
RUNNER = "cldctl.jobs.hooks"
# Seconds for which a job that is back in the queue waits for its hook; the node is wanted by
# somebody else.
HURRY_S = 5.0
# Beyond its time limit, what a hook may take to begin and to be ended.
_MARGIN_S = 5.0
# A job is told to end by signals that are sent to all its processes: the hook that tells of it goes
# on.
_DEAF = "trap '' HUP INT TERM USR1 USR2; exec \"$@\""

_DONE, _LOCK = "hooks_done.json", ".hooks.lock"
# The newest characters of the log are kept.
_MOST_LOG = 256 * 2**10
# Of the output of a call, what is kept, and with how much more it is ended.
KEPT_BYTES, MOST_BYTES = 8 * 2**10, 2**20
_LOOK_S = 0.05
# Seconds that the process before this one may take for its calls.
_PATIENCE_S = 300.0
_MAX_REASON = 500
# After an end, one of these may follow at once; it is the same change.
DECISIONS = (Started, Wished, GivenUp, Refused, Cancelled)

_started: "list[subprocess.Popen[bytes]]" = []


def allow(run: RunFolder, recipe: Recipe) -> Callable[[], None]:
    """Let jobs of this user call the hook of a recipe that this user has made or accepts.

    Returns:
        What lets them call what they called before, except what others can write.

    Raises:
        CldError: others may write into the folder of the logs.
        OSError: it cannot be written.
    """
    logs = run.logs
    before = None
    with contextlib.suppress(OSError, CldError):
        before = None if allowed(logs) is None else read_bytes(logs / SETTINGS)
    has_one = (recipe.hooks.on_change or "").strip()
    _store(logs, json.dumps(asdict(recipe.hooks)).encode() if has_one else None)
    return lambda: _store(logs, before)


def _store(logs: Path, content: bytes | None) -> None:
    file = logs / SETTINGS
    if content is None:
        file.unlink(missing_ok=True)
        return
    job_logs.prepare(logs)
    # A command may hold the address of somebody's channel: nobody else reads it.
    before = os.umask(0o077)
    try:
        write_text(file, content.decode())
    finally:
        os.umask(before)


def allowed(logs: Path) -> HooksSpec | None:
    """What jobs of this user with their output in ``logs`` call; None for nothing.

    Raises:
        CldError: others may write there.
        OSError: it cannot be looked at.
    """
    file = logs / SETTINGS
    if not os.path.lexists(file):
        return None
    for path in (logs, file):
        require_private(path, "a hook would run what is in it")
    return find_record(HooksSpec, file) or HooksSpec()


def heard(run: Path) -> Callable[[Event], None]:
    """For the ledger of a run (`Ledger.heard`): call the hook for what is decided. What ends is
    left to `settled`."""
    return lambda event: fire(RunFolder(run)) if isinstance(event, DECISIONS) else None


def fire(
    run: RunFolder, *options: Literal["--decided", "--over"], evaluation: Path | None = None
) -> None:
    """Call the hook for what has changed, without waiting for it. It never fails.

    Args:
        options: ``--decided`` if nobody decides any more what follows the last end, so that it is
            told; ``--over`` if, too, jobs that were cancelled are known to be gone, although they
            did not say so.
        evaluation: the folder of one that may have ended, to tell of it instead.
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
        ]
        command += [*options, *([] if evaluation is None else ["--evaluation", str(evaluation)])]
        nowhere, env = subprocess.DEVNULL, {**os.environ, **SAFE_PATH}
        streams: Any = {"stdin": nowhere, "stdout": nowhere, "stderr": nowhere}
        _started.append(
            subprocess.Popen(command, **streams, start_new_session=True, cwd="/", env=env)
        )


def settle(run: RunFolder, within_s: float | None = None) -> None:
    """Wait for hooks that this process has started: what a job leaves behind, its scheduler ends.

    Args:
        within_s: for at most so many seconds; by default their own time limit.
    """
    with contextlib.suppress(Exception):
        if within_s is None and _started:
            spec = allowed(run.logs)
            within_s = (spec or HooksSpec()).timeout_s + _MARGIN_S
        deadline = time.monotonic() + (within_s or 0.0)
        for process in _started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        _started[:] = [process for process in _started if process.poll() is None]


@contextlib.contextmanager
def settled(job: InJob, tell: Callable[[], None]) -> Iterator[None]:
    """Call the hook, by ``tell``, for how the work inside the block ends, on rank 0.

    Where an aftermath follows a bad end, that is left to it: it decides what comes next.
    """
    follows = job.cluster.restarts
    try:
        yield
        follows = False
    finally:
        if not follows and job.place().rank == 0:
            tell()


def end(run: RunFolder, within_s: float | None = None) -> None:
    """Call the hook for what is left, such as an end that nothing followed, and wait for it. It
    never fails.

    Args:
        within_s: for at most so many seconds, and not as long as the hook may take.
    """
    fire(run, "--decided")
    with contextlib.suppress(Exception):
        if isinstance(run.ledger.full_history(within_s=0.0).verdict, Wished):
            within_s = HURRY_S
    settle(run, within_s)


def tell_of_works(folders: Iterable[Path], within_s: float | None = None) -> None:
    """Call the hook for those evaluations that are finished or given up, and wait for it. It never
    fails."""
    with contextlib.suppress(Exception):
        for work in map(open_work, folders):
            if isinstance(work, Evaluation) and (
                work.is_done or work.ledger.history().given_up is not None
            ):
                fire(work.run, evaluation=work.folder)
                settle(work.run, within_s)


def main(arguments: Sequence[str]) -> int:
    run, logs, options = RunFolder(arguments[0]), Path(arguments[1]), list(arguments[2:])
    evaluation = (
        Path(options[options.index("--evaluation") + 1]) if "--evaluation" in options else None
    )
    try:
        hook = allowed(logs)
    except (OSError, CldError):
        return 1  # Whose folder it is, nobody knows: nothing is written there.
    if hook is None or hook.on_change is None:
        return 0
    try:
        # Of several processes one calls the hook at a time; without locks, or after a while, nobody
        # waits.
        with locks.holding(logs / _LOCK, _PATIENCE_S):
            told = find_record(_Told, logs / _DONE) or _Told()
            news = (
                _of_run(run, told, options)
                if evaluation is None
                else _of_evaluation(evaluation, told)
            )
            for content, now_told in news:
                _tell(run, logs, hook, content)
                # A disk that is full makes it be called again.
                with contextlib.suppress(OSError):
                    write_json(logs / _DONE, to_plain(now_told))
    except Exception as error:  # Nobody reads what this process prints.
        _log(logs, f"not called: {one_line(error) or type(error).__name__}\n")
        return 1
    return 0


@dataclass(frozen=True)
class _Told:
    """What `hooks_done.json` holds: how many events were told of, the time of the last, and the end
    of evaluations."""

    events: int = 0
    time: float | None = None
    evaluations: Mapping[str, str] = field(default_factory=dict)


# What a hook hears, as its standard input has it.
Content = dict[str, Any]


def changes(ledger: Iterable[Event], *, is_over: bool = False) -> list[Content]:
    """All changes of the state of a run, oldest first, each with the ``place`` of its event in the
    ledger, from 0.

    An end and what is decided about it at once, such as a requeue, are one change.

    Args:
        is_over: whether jobs that were cancelled are known to be gone, although they did not say
            so.
    """
    history = History()
    found: list[Content] = []
    # What the last change was before a decision became part of it.
    replaced = None
    place = -1
    for place, event in enumerate(ledger):
        verdict = history.verdict
        before = history.newest
        history.take(event)
        now = {"place": place, "time": event.time, "state": history.state}
        last = found[-1] if found else {"state": "RUNNING", "attempt": None}
        if isinstance(event, events.Ended) and event.afterwards:
            if last["attempt"] == event.attempt and last["state"] != "RUNNING":
                found[-1] = {**last, "cause": event.cause, "state": history.state}
        elif history.verdict is verdict or isinstance(event, events.Requested | events.Submitted):
            continue
        elif isinstance(event, events.Refused) and event.what == "cancellation":
            found[-1] = {**last, "cause": None, **(replaced or {}), **now}
        else:
            change = _change(history, event, before)
            is_of_end = verdict is not None and "RUNNING" not in (last["state"], history.state)
            follows = is_of_end and last["job_id"] == change["job_id"]
            if (
                follows
                and isinstance(event, DECISIONS)
                and not getattr(event, "never_began", False)
            ):
                why = {
                    "cause": last["cause"] or change["cause"],
                    "reason": change["reason"] or last["reason"],
                }
                found[-1] = {**last, **now, **why}
                replaced = last
            else:
                found.append({**change, **now})
                replaced = None
    newest = history.newest
    is_open = history.verdict is not None and newest is not None and newest.cause is None
    if is_over and newest is not None and is_open and newest.job_id in history.cancelled:
        over = {
            "place": place,
            "state": "CANCELLED",
            "cause": "cancelled",
            "reason": None,
            "step": None,
        }
        found.append({**found[-1], **over, "time": event.time})
    return found


def _change(history: History, event: Event, before: Attempt | None) -> Content:
    """What an event tells.

    Args:
        before: the newest attempt before it.
    """
    newest = history.newest
    job_id, step = getattr(event, "job_id", None), getattr(event, "step", None)
    cause, reason = getattr(event, "cause", None), getattr(event, "reason", None)
    match event:
        case events.Started():
            cause = before.cause if before is not None else None
            reason = event.warning
        case events.Ended() if newest is not None:
            cause, reason, job_id = newest.cause, event.detail, newest.job_id
        case events.Failed():
            cause = "unfit" if event.kind == "unfit" else "crashed"
        case events.Refused():
            reason = f"could not be requeued: {event.reason}"
        case events.Cancelled():
            cause = "cancelled"
    about = {
        "cause": cause,
        "reason": reason,
        "step": step,
        "job_id": job_id,
        "attempt": None,
        "host": None,
    }
    if newest is not None and job_id in (None, newest.job_id):
        about |= {"attempt": newest.attempt, "host": newest.host}
    return about


def _of_run(run: RunFolder, told: _Told, options: Sequence[str]) -> Iterator[tuple[Content, _Told]]:
    """The changes since the last one that was told of, or since the last request; and what is told
    of after each."""
    ledger = run.ledger.events()
    # Another ledger may be in the place of the one that was told about.
    is_same = 0 < told.events <= len(ledger) and ledger[told.events - 1].time == told.time
    requests = [place for place, event in enumerate(ledger) if isinstance(event, events.Requested)]
    first = max([told.events if is_same else 0, *requests[-1:]])
    is_over = "--over" in options
    found = changes(ledger, is_over=is_over)
    is_decided = is_over or "--decided" in options
    # Whoever decides what follows an end calls the hook then; told now, it would be told twice.
    if found and not is_decided and not isinstance(ledger[found[-1]["place"]], DECISIONS):
        found.pop()
    for change in found:
        if (place := change.pop("place")) >= first:
            progress = run.progress()
            if change["step"] is None:
                change["step"] = progress.get("step")
            content = {
                "what": "run",
                **change,
                "loss": progress.get("loss"),
                "link": run.path.as_uri(),
            }
            yield content, replace(told, events=place + 1, time=change["time"])


def _of_evaluation(folder: Path, told: _Told) -> Iterator[tuple[Content, _Told]]:
    """An evaluation that is finished or given up, once for each job; and what is told of then."""
    work = Evaluation(folder)
    history, report = work.ledger.history(), work.report
    jobs = history.submitted
    state, job_id = (
        "FAILED" if report is None else "FINISHED",
        jobs[-1].job.job_id.partition("_")[0] if jobs else "",
    )
    now_told = {**told.evaluations, work.name: f"{state} {job_id}"}
    if (report is None and history.given_up is None) or now_told == told.evaluations:
        return
    found = {} if report is None else {key: number.value for key, number in numbers(report).items()}
    results = ", ".join(f"{key} {value:.6g}" for key, value in found.items())
    content = {
        "what": "evaluation",
        "evaluation": work.name,
        "state": state,
        "reason": history.given_up if report is None else results,
        "step": work.request.checkpoint_step,
        "job_id": job_id or None,
        "results": found,
        "time": round(time.time(), 3),
        "link": folder.as_uri(),
    }
    yield content, replace(told, evaluations=now_told)


def _tell(run: RunFolder, logs: Path, hook: HooksSpec, about: Content) -> None:
    """Call the hook, and log how that went."""
    history, identity = run.ledger.history(), run.identity()
    content = {
        "run": run.name,
        "path": str(run.path),
        **about,
        "reason": one_line(about["reason"], _MAX_REASON) if about["reason"] else None,
        "steps": history.steps if history.steps is not None else run.progress().get("steps"),
        "recipe": identity.get("recipe"),
        "group": identity.get("group"),
        "tags": list(history.tags),
        "note": history.note,
        "user": getpass.getuser(),
        "version": __version__,
    }
    content["text"] = sentence(content)
    assert hook.on_change is not None, "there is something to call"
    environment = {**os.environ, **variables(content)}
    text, began = json.dumps(content) + "\n", time.monotonic()
    output, problem = call(
        hook.on_change,
        environment=environment,
        content=text,
        timeout_s=hook.timeout_s,
        folder=run.path,
    )
    said = "".join(f"  {line}\n" for line in printable(output).splitlines())
    _log(logs, f"{content['text']}: {problem or 'done'} ({time.monotonic() - began:.1f} s)\n{said}")


def call(
    command: str, *, environment: Mapping[str, str], content: str, timeout_s: float, folder: Path
) -> tuple[str, str | None]:
    """Run a shell command with ``content`` on its standard input. Whatever it started is ended when
    this returns.

    Args:
        environment: all of it.
        folder: its working directory.

    Returns:
        The beginning of its output, and what was wrong; None if it ended by itself with exit code
        0.
    """
    began = time.monotonic()
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as output:
        stdin.write(content.encode())
        stdin.seek(0)
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", command],
                stdin=stdin,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=dict(environment),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return "", f"could not be started: {error}"
        problem = None
        try:
            # It is not reaped before its group is ended: until then nobody else has its number.
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
    """What a hook finds in its environment; empty for what is not known."""
    known = {name: str(value) for name, value in content.items() if value is not None}
    names = (
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
    )
    texts = {
        f"CLDCTL_{name.upper()}": known.get(name, "") for name in (*names, "what", "evaluation")
    }
    return texts | {"CLDCTL_RUN_PATH": known["path"]}


def sentence(content: dict[str, Any]) -> str:
    """A change in one line, for the text of a message."""
    cause, steps = content.get("cause"), content.get("steps")
    what = f"evaluation {content['evaluation']} " if content.get("evaluation") else ""
    why = (
        f" ({cause.replace('_', ' ')})"
        if cause not in (None, "finished", content["state"].lower())
        else ""
    )
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
