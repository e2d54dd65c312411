"""Every process of a test cluster: start, find and end all of them, including those of a crashed test run.

A process belongs to a cluster

- if it is a daemon: its pid is recorded in the cluster's root, with the time at which it began, since pids are
  reused; and its environment carries ROOT_MARK, in case this process died before it could record the pid;
- if it is a helper of a daemon, such as slurmstepd, which overwrites its own environment: its name begins with
  slurm and it works in a folder inside the root, the one in which its daemon was started;
- if it is a task of a job: its environment has the cluster's SLURM_CONF, and SLURMD_NODENAME, which no user's
  shell has; or it descends from one of the above.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil

from .errors import SlurmTestError
from .polling import wait_until

ROOT_MARK = "CLDCTL_TEST_SLURM_ROOT"


class Processes:
    """The processes of the cluster whose files are in `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._pids = root / "pids"

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str], node: str | None = None) -> None:
        """Start a daemon (`argv` keeps it in the foreground) detached from this process; record its pid.

        node: the node of which it is the slurmd.
        """
        with open(self.root / "log" / f"{name}.out", "ab") as output:
            daemon = subprocess.Popen(
                argv,
                env={**env, ROOT_MARK: str(self.root)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self._node_folder(node) if node else self.root,
            )
        # `down` ends it from another process, so this one keeps no handle; a zombie counts as ended.
        daemon.returncode = 0
        _write_identity(self._pids / f"{name}.json", daemon.pid)

    def alive(self, name: str) -> bool:
        """Whether the daemon called `name` is running."""
        return _read_identity(self._pids / f"{name}.json") is not None

    def check_alive(self, name: str) -> bool:
        """True, or a SlurmTestError with the end of the log of the daemon that died."""
        if self.alive(name):
            return True
        raise SlurmTestError(f"{name} died. The end of its log:\n{self.log_tail(name)}")

    def log_tail(self, name: str, lines: int = 15) -> str:
        """The last lines of what the daemon called `name` printed (in the foreground: all that it logs)."""
        output = self.root / "log" / f"{name}.out"
        text = output.read_text(errors="replace") if output.exists() else "(nothing)"
        return "\n".join(text.splitlines()[-lines:])

    def stop(self, name: str, *, timeout: float = 10) -> None:
        """SIGTERM, then SIGKILL after `timeout` seconds."""
        process = _read_identity(self._pids / f"{name}.json")
        if process is None:
            return
        _signal(process, signal.SIGTERM)
        try:
            wait_until(lambda: not _runs(process), timeout=timeout, what=f"the end of {name}", every=0.02)
        except SlurmTestError:
            end([process])

    def kill(self, name: str) -> None:
        """SIGKILL, as a crash."""
        process = _read_identity(self._pids / f"{name}.json")
        if process is not None:
            end([process])

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a daemon that is alive."""
        process = _read_identity(self._pids / f"{name}.json")
        assert process is not None, f"{name} is not alive"
        process.send_signal(number)

    def kill_node(self, node: str) -> None:
        """End slurmd and all that runs on `node`, as a power cut does. Nothing is notified."""
        self.kill(f"slurmd.{node}")
        self._end_all(node)

    def kill_tasks(self) -> None:
        """SIGKILL what jobs run, but not the slurmstepd around it, which then reports the end."""
        steps = [process for process in self._found(None) if _is_step(process)]
        tasks = [child for step in steps for child in _descendants(step) if not _is_step(child)]
        end(tasks)

    def kill_all(self) -> None:
        """End every process of this cluster; none is left when this returns."""
        end(self._recorded())
        self._end_all(None)

    def remaining(self) -> list[psutil.Process]:
        """What is still running of this cluster: daemons, job steps, tasks."""
        return list({process.pid: process for process in [*self._recorded(), *self._found(None)]}.values())

    def in_jobs(self, module: str, *variables: str) -> list[psutil.Process]:
        """Processes of this cluster's jobs that run a module of Python, and have these variables."""
        found = []
        for process in self._found(None):
            try:
                command, environ = process.cmdline(), process.environ()
            except psutil.Error:
                continue
            # srun has the whole command among its arguments.
            is_python = bool(command) and Path(command[0]).name.startswith("python")
            if is_python and module in command and {"SLURM_JOB_ID", *variables} <= environ.keys():
                found.append(process)
        return found

    def _recorded(self) -> list[psutil.Process]:
        processes = [_read_identity(path) for path in self._pids.glob("*.json")]
        return [process for process in processes if process is not None]

    def _end_all(self, node: str | None) -> None:
        # A process may fork between the scan and the kill: scan until nothing is left.
        def none_left() -> bool:
            found = self._found(node)
            end([*found, *(child for process in found for child in _descendants(process))])
            return not found

        wait_until(none_left, timeout=20, what=f"the end of the processes of {self.root}", every=0.02)

    def _found(self, node: str | None) -> list[psutil.Process]:
        """The running processes of this cluster, or those on `node`, that can be recognised."""
        me = psutil.Process()
        spared = {me.pid, *(parent.pid for parent in me.parents())}
        return [
            process
            for process in psutil.process_iter()
            if process.pid not in spared and self._is_ours(process, node) and _runs(process)
        ]

    def _is_ours(self, process: psutil.Process, node: str | None) -> bool:
        try:
            environ = process.environ()
            name, folder = process.name(), Path(process.cwd())
        except (psutil.Error, OSError):
            return False
        is_daemon = environ.get(ROOT_MARK) == str(self.root)
        is_helper = name.startswith("slurm") and folder.is_relative_to(self.root)
        if is_daemon or is_helper:
            return node is None or folder == self._node_folder(node)
        is_task = "SLURMD_NODENAME" in environ and environ.get("SLURM_CONF") == str(self.root / "slurm.conf")
        return is_task and node in (None, environ["SLURMD_NODENAME"])

    def _node_folder(self, node: str) -> Path:
        return self.root / "spool" / node


def end(processes: Iterable[psutil.Process], *, timeout: float = 10) -> None:
    """SIGKILL each process, and wait until all are gone."""
    doomed = list(processes)
    for process in doomed:
        _signal(process, signal.SIGKILL)
    wait_until(
        lambda: not [process for process in doomed if _runs(process)],
        timeout=timeout,
        what="the end of processes after SIGKILL",
        every=0.02,
        last_seen=lambda: doomed,
    )


def identity() -> dict[str, int]:
    """What distinguishes this process from a later one with the same pid."""
    return {"pid": os.getpid(), "start": _start_ticks(os.getpid())}


def is_running(recorded: Mapping[str, int]) -> bool:
    """Whether the process recorded by `identity()` is still running."""
    return _find(recorded) is not None


def _write_identity(path: Path, pid: int) -> None:
    try:
        start = _start_ticks(pid)
    except OSError:
        path.unlink(missing_ok=True)
        return
    path.write_text(json.dumps({"pid": pid, "start": start}))


def _read_identity(path: Path) -> psutil.Process | None:
    try:
        return _find(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError):
        return None


def _find(recorded: Mapping[str, int]) -> psutil.Process | None:
    try:
        if _start_ticks(recorded["pid"]) != recorded["start"]:
            return None
        process = psutil.Process(recorded["pid"])
    except (OSError, psutil.NoSuchProcess):
        return None
    return process if _runs(process) else None


def _start_ticks(pid: int) -> int:
    """When the process began, in clock ticks since boot: unlike a time of day, this is never adjusted."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(after_name[19])


def _runs(process: psutil.Process) -> bool:
    """Whether `process` is running; a child of ours that has ended is reaped."""
    with contextlib.suppress(psutil.NoSuchProcess):
        if process.status() != psutil.STATUS_ZOMBIE:
            return bool(process.is_running())
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)
    return False


def _signal(process: psutil.Process, signum: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signum)


def _is_step(process: psutil.Process) -> bool:
    # A new task has this name too until it executes its own program.
    try:
        return bool(process.name() == "slurmstepd")
    except psutil.Error:
        return False


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []
