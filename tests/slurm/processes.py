"""Every process of a test cluster: start, find and end all of them, including those of a crashed
test run.

A process belongs to a cluster

- if it is a daemon or one of its children: its environment carries ROOT_MARK;
- if it is a helper of a daemon, such as slurmstepd, which overwrites its own environment: its name
  begins with slurm and it works in a folder inside the root, the one in which its daemon was
  started;
- if it is a task of a job: its environment has the cluster's SLURM_CONF, and SLURMD_NODENAME, which
  no user's shell has; or it descends from one of the above.
"""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import psutil

from tests.support.tools import wait_for

ROOT_MARK = "CLDCTL_TEST_SLURM_ROOT"


class Processes:
    """The processes of the cluster whose files are in `root`."""

    def __init__(self, root):
        self.root = root

    def start(self, name, argv, env, node=None):
        """Start a daemon (`argv` keeps it in the foreground) detached from this process; record its
        pid.

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
        # `down` ends it from another process, so this one keeps no handle; a zombie counts as
        # ended.
        daemon.returncode = 0
        (self.root / "pids" / name).write_text(str(daemon.pid))

    def daemon(self, name):
        """The daemon called `name` if it is running, and no other process that has its pid now."""
        with contextlib.suppress(FileNotFoundError, ValueError, psutil.NoSuchProcess):
            process = psutil.Process(int((self.root / "pids" / name).read_text()))
            # The environment of a process that has just been started reads as empty; later it may
            # work elsewhere.
            if _runs(process) and (
                self._is_ours(process, None) or Path(process.cwd()).is_relative_to(self.root)
            ):
                return process
        return None

    def check_alive(self, name):
        """True; fails with the end of the log of the daemon that died."""
        assert self.daemon(name), f"{name} died. The end of its log:\n{self.log_tail(name)}"
        return True

    def log_tail(self, name, lines=15):
        """The last lines of the output of the daemon `name`, which is its log."""
        output = self.root / "log" / f"{name}.out"
        text = output.read_text(errors="replace") if output.exists() else "(nothing)"
        return "\n".join(text.splitlines()[-lines:])

    def stop(self, name, timeout=20):
        """SIGTERM, then SIGKILL after `timeout` seconds."""
        process = self.daemon(name)
        if process is not None:
            _signal(process, signal.SIGTERM)
            with contextlib.suppress(AssertionError):
                wait_for(lambda: not _runs(process), timeout, 0.02)
            end([process])

    def kill_tasks(self):
        """SIGKILL what jobs run, but not the slurmstepd around it, which then reports the end."""
        steps = [process for process in self.found() if _is_step(process)]
        end(child for step in steps for child in _descendants(step) if not _is_step(child))

    def kill(self, node=None):
        """End every process of this cluster, or of a node, as a power cut does."""

        # A process may fork between the scan and the kill: scan until nothing is left.
        def none_left():
            found = self.found(node)
            end([*found, *(child for process in found for child in _descendants(process))])
            return not found

        wait_for(none_left, 20, 0.02, what=f"the end of the processes of {self.root}")

    def in_jobs(self, module, *variables):
        """Processes of this cluster's jobs that run a module of Python with these variables."""
        found = []
        for process in self.found():
            with contextlib.suppress(psutil.Error):
                command = process.cmdline()
                # srun has the whole command among its arguments.
                is_python = bool(command) and Path(command[0]).name.startswith("python")
                if (
                    is_python
                    and module in command
                    and {"SLURM_JOB_ID", *variables} <= process.environ().keys()
                ):
                    found.append(process)
        return found

    def found(self, node=None):
        """The processes of this cluster, or of a node: daemons, job steps, tasks."""
        me = psutil.Process()
        spared = {me.pid, *(parent.pid for parent in me.parents())}
        return [
            process
            for process in psutil.process_iter()
            if process.pid not in spared and self._is_ours(process, node) and _runs(process)
        ]

    def _is_ours(self, process, node):
        try:
            environ = process.environ()
            name = process.name()
            folder = Path(process.cwd())
        except (psutil.Error, OSError):
            return False
        is_daemon = environ.get(ROOT_MARK) == str(self.root)
        is_helper = name.startswith("slurm") and folder.is_relative_to(self.root)
        if is_daemon or is_helper:
            return node is None or folder == self._node_folder(node)
        is_task = "SLURMD_NODENAME" in environ and environ.get("SLURM_CONF") == str(
            self.root / "slurm.conf"
        )
        return is_task and node in (None, environ["SLURMD_NODENAME"])

    def _node_folder(self, node):
        return self.root / "spool" / node


def end(processes):
    """SIGKILL each process, and wait until all are gone."""
    doomed = list(processes)
    for process in doomed:
        _signal(process, signal.SIGKILL)
    wait_for(
        lambda: not any(map(_runs, doomed)),
        10,
        0.02,
        what="the end after SIGKILL",
        last_seen=lambda: doomed,
    )


def _runs(process):
    """Whether `process` is running; a child of ours that has ended is reaped."""
    with contextlib.suppress(psutil.NoSuchProcess):
        if process.status() != psutil.STATUS_ZOMBIE:
            return bool(process.is_running())
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)
    return False


def _signal(process, signum):
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signum)


def _is_step(process):
    # A new task has this name too until it executes its own program.
    with contextlib.suppress(psutil.Error):
        return bool(process.name() == "slurmstepd")
    return False


def _descendants(process):
    with contextlib.suppress(psutil.Error):
        return list(process.children(recursive=True))
    return []
