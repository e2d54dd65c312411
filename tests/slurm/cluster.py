"""A Slurm cluster on this machine: controller, four nodes, accounting. Starts in seconds and leaves nothing behind."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from . import machine
from .clients import SlurmClients
from .config import CLUSTER_NAME, NODES, Settings, cgroup_conf, gpu_files, gres_conf, slurm_conf, slurmdbd_conf
from .errors import SlurmTestError, why_unusable
from .polling import wait_until
from .processes import Processes

# Busy CI machines are slow; a healthy cluster needs a tenth of this.
START_TIMEOUT_S = 60.0


class SlurmCluster(SlurmClients):
    """A disposable cluster; every file is under `root`, every process ends with `stop()`.

    Nodes n1..n4 (2 CPUs and 2 fake GPUs each) are in all partitions:

    low      preempted by `high`: REQUEUE, GraceTime=settings.grace_time; the default partition
    low0     the same with GraceTime=0, as on most clusters
    cancel   preempted by `high`: CANCEL
    short    as `low`, with a default time limit of 1 minute
    high     preempts all others

    root: the folder, by default a new one under the temporary folder.
    accounting: start MariaDB and slurmdbd, for sacct.
    keep: outlive the process that started it, until `machine.destroy(root)`.
    """

    def __init__(self, root: Path | None = None, *, accounting: bool = True, keep: bool = False) -> None:
        self._wanted_root = root
        self._keep = keep
        self.accounting = accounting
        self.defaults = Settings(accounting=accounting)
        self.settings = self.defaults

    # --- lifecycle -----------------------------------------------------------------------------------------

    def start(self) -> SlurmCluster:
        """Bring up every daemon; return when all nodes are idle.

        Raises SlurmTestError with the end of the daemon's log if one does not come up.
        """
        reason = why_unusable(accounting=self.accounting)
        if reason:
            raise SlurmTestError(reason)
        machine.name_nodes()
        with machine.starting_alone():
            machine.sweep()
            self.root = machine.make_root(self._wanted_root, keep=self._keep)
            self.processes = Processes(self.root)
            self.ports = machine.free_ports()
            try:
                for device in gpu_files(self.root):
                    device.symlink_to("/dev/null")
                self._write_config()
                self._start_munge()
                if self.accounting:
                    self._start_database()
                    self.start_accounting()
                    self.run(["sacctmgr", "-i", "add", "cluster", CLUSTER_NAME])
                self.start_controller()
                for node in NODES:
                    self._start_slurmd(node)
                self.wait_idle(START_TIMEOUT_S)
            except BaseException:
                self.stop()
                raise
        return self

    def stop(self) -> None:
        """End every process of the cluster and remove its folder. May be called twice."""
        if hasattr(self, "root"):
            machine.destroy(self.root)

    def __enter__(self) -> SlurmCluster:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- settings -------------------------------------------------------------------------------------

    def configure(self, **changes: Any) -> None:
        """Give the running cluster the default Settings with `changes`; returns when they are in effect.

        Settings that are not named return to their defaults, so that one call shows everything a test changes.
        """
        wanted = replace(self.defaults, **changes)
        if wanted.accounting and not self.accounting:
            raise SlurmTestError("this cluster was started without accounting")
        if wanted == self.settings:
            return
        self.settings = wanted
        self._write_config()
        self.run(["scontrol", "reconfigure"])
        self._wait_controller()
        self._wait_nodes_up()

    # --- failures -------------------------------------------------------------------------------------

    def kill_node(self, name: str) -> None:
        """Cut the power of a node (slurmd, job steps and tasks vanish), and tell the controller."""
        self.processes.kill_node(_node(name))
        self.run(["scontrol", "update", f"nodename={name}", "state=down", "reason=test"])

    def restore_node(self, name: str) -> None:
        """Bring a node back from whatever state it is in; returns when it accepts jobs."""
        if not self.processes.alive(f"slurmd.{_node(name)}"):
            self._start_slurmd(name)

        def is_up() -> bool:
            state = self.node_state(name)
            if any(word in state for word in ("down", "drain", "fail")) and not state.endswith("*"):
                self.run(["scontrol", "update", f"nodename={name}", "state=resume"], check=False)
            # A node that is down is called "completing" as long as parts of a job are left on it.
            return _is_up(state) and state != "completing"

        wait_until(is_up, timeout=START_TIMEOUT_S, what=f"node {name} to come back",
                   last_seen=lambda: self.node_state(name))  # fmt: skip

    def kill_controller(self) -> None:
        """Stop slurmctld."""
        self.processes.stop("slurmctld", timeout=20)

    def start_controller(self) -> None:
        """Start slurmctld if it is not running; returns when it answers."""
        if not self.processes.alive("slurmctld"):
            self.processes.start("slurmctld", ["slurmctld", "-D"], self.env)
        self._wait_controller()

    def stop_accounting(self) -> None:
        """Stop slurmdbd: sacct fails, everything else keeps working."""
        self.processes.stop("slurmdbd")

    def start_accounting(self) -> None:
        """Start slurmdbd if it is not running; returns when it answers."""
        if not self.processes.alive("slurmdbd"):
            self.processes.start("slurmdbd", ["slurmdbd", "-D"], self.env)
        self._wait_port("slurmdbd", self.ports.accounting)

    # --- cleanup ----------------------------------------------------------------------------------------

    def wait_idle(self, timeout: float = 60) -> None:
        """Wait until no job is waiting, running or cleaning up, and every node is idle."""

        def is_idle() -> bool:
            return not self._active_jobs() and all(state == "idle" for state in self._node_states())

        def current_state() -> str:
            return f"{self.describe()}\nslurmctld's log ends with:\n{self.processes.log_tail('slurmctld')}"

        wait_until(is_idle, timeout=timeout, what="an idle cluster", last_seen=current_state)

    def cancel_all(self, timeout: float = 30) -> None:
        """End every job immediately, without waiting for KillWait."""

        def none_left() -> bool:
            jobs = self._active_jobs()
            if jobs:
                # Slurm turns even scancel --signal=KILL into SIGTERM, KillWait, SIGKILL. A job may have ended
                # since the queue was read, hence no check.
                self.run(["scancel", *jobs], check=False)
                self.processes.kill_tasks()
            return not jobs

        wait_until(none_left, timeout=timeout, what="the end of all jobs", every=0.3, last_seen=self.describe)

    def reset(self) -> None:
        """Undo whatever a test did: daemons up, no jobs, nodes up, default settings."""
        if self.accounting:
            self.start_accounting()
        self.start_controller()
        self.cancel_all()
        self.configure()
        self.restore_nodes()
        self.wait_idle()

    def restore_nodes(self) -> None:
        """Bring back every node that is down."""
        for node in NODES:
            if not _is_up(self.node_state(node)) or not self.processes.alive(f"slurmd.{node}"):
                self.restore_node(node)

    # --- internals ---------------------------------------------------------------------------------------

    def _write_config(self) -> None:
        host = machine.short_hostname()
        files = {
            "slurm.conf": slurm_conf(self.root, host, self.ports, self.settings),
            "slurmdbd.conf": slurmdbd_conf(self.root, host, self.ports),
            "gres.conf": gres_conf(self.root),
            "cgroup.conf": cgroup_conf(),
        }
        for name, text in files.items():
            unfinished = self.root / f".{name}"
            unfinished.write_text(text)
            unfinished.chmod(0o600 if name == "slurmdbd.conf" else 0o644)
            unfinished.rename(self.root / name)

    def _start_munge(self) -> None:
        key = self.root / "key" / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        socket = self.root / "munge.socket"
        self.processes.start(
            "munged",
            [
                "munged", "--foreground", "--force",
                f"--key-file={key}", f"--socket={socket}", f"--pid-file={self.root}/run/munged.pid",
                f"--log-file={self.root}/log/munged.log", f"--seed-file={self.root}/key/munge.seed",
            ],
            self.env,
        )  # fmt: skip
        wait_until(
            lambda: self.processes.check_alive("munged") and socket.exists(),
            timeout=START_TIMEOUT_S, what="munged", every=0.02,
        )  # fmt: skip

    def _start_database(self) -> None:
        data = self.root / "db"
        self.run(
            ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--user=root", "--skip-test-db",
             "--auth-root-authentication-method=normal"],
            timeout=START_TIMEOUT_S,
        )  # fmt: skip
        socket = self.root / "db.socket"
        self.processes.start(
            "mariadbd",
            [
                "mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", f"--socket={socket}",
                f"--port={self.ports.database}", "--bind-address=127.0.0.1", "--skip-name-resolve",
                f"--pid-file={self.root}/run/mariadbd.pid",
                # Nothing here has to survive a power cut.
                "--innodb-flush-log-at-trx-commit=0", "--skip-log-bin", "--innodb-lock-wait-timeout=900",
            ],
            self.env,
        )  # fmt: skip
        self._wait_port("mariadbd", self.ports.database)
        # Debian's slurmdbd crashes if it has to create the database itself.
        self.run(
            ["mariadb", "--no-defaults", f"--socket={socket}", "--user=root", "--execute",
             "CREATE DATABASE slurm_acct_db;"
             "CREATE USER slurm@127.0.0.1 IDENTIFIED BY 'slurm';"
             "GRANT ALL ON slurm_acct_db.* TO slurm@127.0.0.1;"]
        )  # fmt: skip

    def _start_slurmd(self, node: str) -> None:
        self.processes.start(f"slurmd.{node}", ["slurmd", "-D", "-N", node], self.env, node=node)

    def _wait_port(self, daemon: str, port: int) -> None:
        wait_until(
            lambda: self.processes.check_alive(daemon) and machine.is_listening(port),
            timeout=START_TIMEOUT_S, what=f"{daemon} to listen on port {port}", every=0.05,
        )  # fmt: skip

    def _wait_controller(self) -> None:
        # Clients block for a long time on a controller that does not listen yet.
        self._wait_port("slurmctld", self.ports.controller)
        wait_until(
            lambda: "is UP" in self.run("scontrol ping", check=False).stdout,
            timeout=START_TIMEOUT_S, what="slurmctld to answer",
        )  # fmt: skip

    def _wait_nodes_up(self) -> None:
        for node in NODES:
            if self.processes.alive(f"slurmd.{node}"):
                # A controller that was stopped right after a node came back remembers it as down.
                self.restore_node(node)

    def _active_jobs(self) -> list[str]:
        return sorted(set(self.run(["squeue", "-h", "-o", "%A"]).stdout.split()))

    def _node_states(self) -> list[str]:
        return self.run(["sinfo", "-h", "-N", "-p", "low", "-o", "%T"]).stdout.split()


def _node(name: str) -> str:
    if name not in NODES:
        raise SlurmTestError(f"no node {name!r}; there are {', '.join(NODES)}")
    return name


def _is_up(state: str) -> bool:
    return state in {"idle", "mixed", "allocated", "completing", "planned"}
