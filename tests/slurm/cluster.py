"""A Slurm cluster on this machine, with four nodes and accounting, which starts in seconds."""

import contextlib
import fcntl
import itertools
import os
import random
import shlex
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from cldctl.clusters.slurm import client
from tests.support.tools import wait_for

from .config import CLUSTER_NAME, NODES, Settings, files, gpu_files
from .processes import Processes

INSTALL = "apt install slurm-wlm slurmdbd munge mariadb-server"
PROGRAMS = (
    "munged",
    "slurmctld",
    "slurmd",
    "sbatch",
    "srun",
    "squeue",
    "scontrol",
    "slurmdbd",
    "sacct",
    "sacctmgr",
    "mariadbd",
    "mariadb",
    "mariadb-install-db",
)
# Where Debian keeps daemons is often missing from the PATH of users.
SEARCH_PATH = (
    f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)
# The roots of clusters that were started without one.
ROOTS = Path(tempfile.gettempdir()) / "cldctl-slurm"
# Below the ports that the kernel assigns (32768 and up) and those that submitit picks for torch's
# MASTER_PORT (20000 to 60000), so that a daemon that is down finds its port still free when it
# comes back.
PORTS = range(10000, 20000)
# Busy CI machines are slow; a healthy cluster needs a tenth of this.
START_TIMEOUT_S = 60.0
ENDED = {
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
}
UP = frozenset({"idle", "mixed", "allocated", "completing", "planned"})


def why_unusable():
    """Why no cluster can be started on this machine (one line), or None if one can."""
    if os.geteuid() != 0:
        return "the test Slurm runs as root only (slurmd has to start jobs)"
    missing = [name for name in PROGRAMS if shutil.which(name, path=SEARCH_PATH) is None]
    return f"{', '.join(missing)} missing: {INSTALL}" if missing else None


class SlurmCluster:
    """A disposable cluster; every file is under `root`, every process ends with `stop()`.

    Nodes n1..n4 (2 CPUs and 2 fake GPUs each) are in all partitions:

    low      preempted by `high`: REQUEUE, GraceTime=settings.grace_time; the default partition
    low0     the same with GraceTime=0, as on most clusters
    cancel   preempted by `high`: CANCEL
    short    as `low`, with a default time limit of 1 minute
    high     preempts all others

    root: the folder, by default a new one under the temporary folder. A cluster in a folder of its
        own outlives the process that started it, until `destroy(root)`.
    """

    def __init__(self, root=None):
        self._wanted_root = root
        self.settings = Settings()

    # --- lifecycle
    # -----------------------------------------------------------------------------------------

    def start(self):
        """Start every daemon, and wait for idle nodes; fails with the log of one that did not."""
        reason = why_unusable()
        assert reason is None, reason
        name_nodes()
        sweep()
        with starting_alone():
            self.root = self._wanted_root or Path(tempfile.mkdtemp(dir=ROOTS, prefix="c"))
            self.processes = Processes(self.root)
            # If another process can lock it, its owner is gone.
            self._owner = prepare(self.root)
            fcntl.flock(self._owner, fcntl.LOCK_EX)
            self.ports = free_ports(3 + len(NODES))
            try:
                self._write_config()
                self._start_munge()
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

    def stop(self):
        """End every process of the cluster and remove its folder."""
        destroy(self.root)
        self._owner.close()

    def __enter__(self):
        return self.start()

    def __exit__(self, *error):
        self.stop()

    # --- settings
    # -------------------------------------------------------------------------------------

    def configure(self, **changes):
        """Give the running cluster the default Settings with `changes`; returns when they are in
        effect.

        Settings that are not named return to their defaults, so that one call shows everything a
        test changes.
        """
        wanted = Settings(**changes)
        if wanted == self.settings:
            return
        self.settings = wanted
        self._write_config()
        self.run(["scontrol", "reconfigure"])
        self._wait_controller()
        for node in NODES:
            if self.processes.daemon(f"slurmd.{node}"):
                # A controller that was stopped right after a node came back remembers it as down.
                self.restore_node(node)

    # --- what users do
    # ---------------------------------------------------------------------------------

    @property
    def env(self):
        """Environment for clients: this cluster's SLURM_CONF, no variables of another Slurm."""
        foreign = (
            "SLURM",
            "SBATCH_",
            "SALLOC_",
            "SRUN_",
            "SQUEUE_",
            "SACCT_",
            "SINFO_",
            "SCANCEL_",
        )
        clean = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        return clean | {"SLURM_CONF": str(self.root / "slurm.conf"), "PATH": SEARCH_PATH}

    def run(self, command, timeout=30, *, check=True):
        """Run a client (no shell; a string is split as a shell would split it), for at most
        `timeout` seconds.

        With `check`, fails with what the command printed if it fails.
        """
        argv = shlex.split(command) if isinstance(command, str) else list(command)
        done = subprocess.run(
            argv,
            env=self.env,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        failed = check and done.returncode != 0
        assert not failed, (
            f"`{shlex.join(argv)}` ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        )
        return done

    def sbatch(self, *options, wrap):
        """Submit a job, a line of shell, with options of sbatch; returns its id."""
        # Later options win: unless the caller passes --output, no slurm-N.out is left behind.
        done = self.run(["sbatch", "--parsable", "--output=/dev/null", "--wrap", wrap, *options])
        return done.stdout.strip().split(";")[0]

    def job_state(self, job_id):
        """Slurm's long name of a job's state (PENDING, RUNNING, ...); "" for an unknown job."""
        return self.run(
            ["squeue", "-h", "--states=all", "-j", job_id, "-o", "%T"], check=False
        ).stdout.strip()

    def job_info(self, job_id):
        """`scontrol show job` as a dict; {} for an unknown job."""
        done = self.run(["scontrol", "--oneliner", "show", "job", job_id], check=False)
        return client.words_in(done.stdout)

    def wait_end(self, job_id, timeout=60):
        """Wait until the job has ended for good and return its last state."""
        return wait_for(
            lambda: (state := self.job_state(job_id)) in ENDED and state,
            timeout, 0.1, what=f"the end of job {job_id}", last_seen=self.describe,
        )  # fmt: skip

    def wait_requeued(self, job_id):
        """Wait until Slurm has requeued the job; by then it may be pending or running again."""
        wait_for(
            lambda: int(self.job_info(job_id).get("Restarts", 0)) >= 1,
            60, 0.1, what=f"a requeue of job {job_id}", last_seen=self.describe,
        )  # fmt: skip

    def expire(self, job_id, seconds=1):
        """Move a running job's limit to `seconds` from now; Slurm checks limits every 30 s."""
        self.run(["scontrol", "update", f"jobid={job_id}", f"EndTime=now+{seconds}seconds"])

    def preempt_all(self, seconds):
        """Submit a job to `high` that takes every node for `seconds`; return its id immediately."""
        size = (f"--nodes={len(NODES)}", "--exclusive", "--partition=high", "--job-name=preempt")
        return self.sbatch(*size, wrap=f"sleep {seconds}")

    def node_states(self, *options):
        """Slurm's long names of the states of nodes: idle, mixed, allocated, down*, ..."""
        return self.run(["sinfo", "-h", "-N", "-p", "low", *options, "-o", "%T"]).stdout.split()

    def describe(self):
        """Nodes and jobs as Slurm shows them, for error messages."""
        nodes = self.run(["sinfo", "-N", "-p", "low", "-o", "%N %T %E"], check=False).stdout
        jobs = self.run(["squeue", "-o", "%i %P %T %r %N"], check=False).stdout
        return f"\n{nodes}{jobs}"

    # --- failures
    # -------------------------------------------------------------------------------------

    def kill_node(self, name):
        """Cut the power of a node (slurmd, job steps and tasks vanish), and tell the controller."""
        self.processes.kill(name)
        self.run(["scontrol", "update", f"nodename={name}", "state=down", "reason=test"])

    def restore_node(self, name):
        """Bring a node back from whatever state it is in; returns when it accepts jobs."""
        if not self.processes.daemon(f"slurmd.{name}"):
            self._start_slurmd(name)
            # A controller that was restarted while the node ran a job goes on calling it mixed when
            # it is down.
            self.run(["scontrol", "update", f"nodename={name}", "state=resume"], check=False)

        def is_up():
            (state,) = self.node_states("-n", name)
            if any(word in state for word in ("down", "drain", "fail")) and not state.endswith("*"):
                self.run(["scontrol", "update", f"nodename={name}", "state=resume"], check=False)
            # A node that is down is called "completing" as long as parts of a job are left on it.
            return state in UP and state != "completing"

        wait_for(
            is_up, START_TIMEOUT_S, 0.1, what=f"node {name} to come back", last_seen=self.describe
        )

    def restore_nodes(self):
        """Bring back every node that is down."""
        for node in NODES:
            if not set(self.node_states("-n", node)) <= UP or not self.processes.daemon(
                f"slurmd.{node}"
            ):
                self.restore_node(node)

    def kill_controller(self):
        """Stop slurmctld."""
        self.processes.stop("slurmctld")

    def start_controller(self):
        """Start slurmctld if it is not running; returns when it answers."""
        if not self.processes.daemon("slurmctld"):
            self.processes.start("slurmctld", ["slurmctld", "-D"], self.env)
        self._wait_controller()

    def start_accounting(self):
        """Start slurmdbd if it is not running; returns when it answers."""
        if not self.processes.daemon("slurmdbd"):
            self.processes.start("slurmdbd", ["slurmdbd", "-D"], self.env)
        self._wait_port("slurmdbd", self.ports[1])

    # --- cleanup
    # ----------------------------------------------------------------------------------------

    def wait_idle(self, timeout=60):
        """Wait until no job is waiting, running or cleaning up, and every node is idle."""

        def is_idle():
            return not self._active_jobs() and set(self.node_states()) == {"idle"}

        def current_state():
            return (
                f"{self.describe()}\nslurmctld's log ends "
                f"with:\n{self.processes.log_tail('slurmctld')}"
            )

        wait_for(is_idle, timeout, 0.1, what="an idle cluster", last_seen=current_state)

    def reset(self):
        """Undo whatever a test did: daemons up, no jobs, nodes up, default settings."""

        def no_job_is_left():
            jobs = self._active_jobs()
            if jobs:
                # Slurm turns even scancel --signal=KILL into SIGTERM, KillWait, SIGKILL. A job may
                # have ended since the queue was read, hence no check.
                self.run(["scancel", *jobs], check=False)
                self.processes.kill_tasks()
            return not jobs

        self.start_accounting()
        self.start_controller()
        wait_for(no_job_is_left, 30, 0.3, what="the end of all jobs", last_seen=self.describe)
        self.configure()
        self.restore_nodes()
        self.wait_idle()

    # --- internals
    # ---------------------------------------------------------------------------------------

    def _write_config(self):
        host = socket.gethostname().split(".")[0]
        for name, text in files(self.root, host, self.ports, self.settings).items():
            unfinished = self.root / f".{name}"
            unfinished.write_text(text)
            unfinished.chmod(0o600 if name == "slurmdbd.conf" else 0o644)
            unfinished.rename(self.root / name)

    def _start_munge(self):
        key = self.root / "key" / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        socket_file = self.root / "munge.socket"
        paths = {"key": key, "socket": socket_file, "pid": self.root / "run/munged.pid"}
        options = [
            f"--{name}{'' if name == 'socket' else '-file'}={path}" for name, path in paths.items()
        ]
        options += [
            f"--log-file={self.root}/log/munged.log",
            f"--seed-file={self.root}/key/munge.seed",
        ]
        self.processes.start("munged", ["munged", "--foreground", "--force", *options], self.env)
        wait_for(
            lambda: self.processes.check_alive("munged") and socket_file.exists(),
            START_TIMEOUT_S,
            0.02,
            what="munged",
        )

    def _start_database(self):
        own = ["--no-defaults", "--user=root", f"--datadir={self.root}/db"]
        plain = ["--skip-test-db", "--auth-root-authentication-method=normal"]
        self.run(["mariadb-install-db", *own, *plain], START_TIMEOUT_S)
        place = [
            f"--socket={self.root}/db.socket",
            f"--port={self.ports[2]}",
            f"--pid-file={self.root}/run/db.pid",
        ]
        # Nothing here has to survive a power cut.
        lax = [
            "--innodb-flush-log-at-trx-commit=0",
            "--skip-log-bin",
            "--innodb-lock-wait-timeout=900",
        ]
        reached = ["--bind-address=127.0.0.1", "--skip-name-resolve"]
        self.processes.start("mariadbd", ["mariadbd", *own, *place, *reached, *lax], self.env)
        self._wait_port("mariadbd", self.ports[2])
        # Debian's slurmdbd crashes if it has to create the database itself.
        statements = (
            "CREATE DATABASE slurm_acct_db;"
            "CREATE USER slurm@127.0.0.1 IDENTIFIED BY 'slurm';"
            "GRANT ALL ON slurm_acct_db.* TO slurm@127.0.0.1;"
        )
        self.run(["mariadb", "--no-defaults", place[0], "--user=root", "--execute", statements])

    def _start_slurmd(self, node):
        self.processes.start(f"slurmd.{node}", ["slurmd", "-D", "-N", node], self.env, node=node)

    def _wait_port(self, daemon, port):
        def is_listening():
            with socket.socket() as probe:
                probe.settimeout(1)
                return (
                    self.processes.check_alive(daemon)
                    and probe.connect_ex(("127.0.0.1", port)) == 0
                )

        wait_for(is_listening, START_TIMEOUT_S, what=f"{daemon} to listen on port {port}")

    def _wait_controller(self):
        # Clients block for a long time on a controller that does not listen yet.
        self._wait_port("slurmctld", self.ports[0])
        wait_for(
            lambda: "is UP" in self.run("scontrol ping", check=False).stdout,
            START_TIMEOUT_S, 0.1, what="slurmctld to answer",
        )  # fmt: skip

    def _active_jobs(self):
        return sorted(set(self.run(["squeue", "-h", "-o", "%A"]).stdout.split()))


# --- what a cluster takes from the machine
# ------------------------------------------------------------------


def name_nodes(hosts=Path("/etc/hosts")):
    """Let the nodes' names resolve to this machine: torch's MASTER_ADDR is one of them."""
    text = hosts.read_text()
    known = {name for line in text.splitlines() for name in line.partition("#")[0].split()[1:]}
    if missing := [node for node in NODES if node not in known]:
        newline = "" if text.endswith("\n") or not text else "\n"
        with open(hosts, "a") as file:
            file.write(f"{newline}127.0.0.1 {' '.join(missing)}\n")


def free_ports(count):
    """Free ports. Call it, and start what uses them, within `starting_alone()`."""

    def is_free(port):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
            return True
        return False

    return list(
        itertools.islice(filter(is_free, random.SystemRandom().sample(PORTS, len(PORTS))), count)
    )


@contextlib.contextmanager
def starting_alone():
    """Keep other clusters from starting: two at the same moment would pick the same free ports."""
    ROOTS.mkdir(mode=0o755, exist_ok=True)
    with open(ROOTS / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def prepare(root):
    """Make the folders of a cluster, replacing one that is down; returns the file that it locks."""
    assert Processes(root).daemon("slurmctld") is None, (
        f"a cluster is already running in {root}: make slurm-down"
    )
    assert len(f"{root}/munge.socket") < 108, (
        f"{root} is too long for the path of a socket: use another folder"
    )
    destroy(root)
    root.mkdir(exist_ok=True, parents=True)
    # munge's clients, and jobs of other users, must reach the socket; the folder of the key is
    # private.
    root.chmod(0o755)
    for folder in (
        "log",
        "run",
        "state",
        "gpu",
        "pids",
        "key",
        *(f"spool/{node}" for node in NODES),
    ):
        (root / folder).mkdir(mode=0o700 if folder == "key" else 0o755, parents=True)
    for device in gpu_files(root):
        device.symlink_to("/dev/null")
    return open(root / "owner", "w")


def sweep():
    """End the processes and remove the folders of test runs that crashed."""
    if os.geteuid() != 0:
        return
    with starting_alone():
        for file in ROOTS.glob("c*/owner"):
            with file.open("a") as owner, contextlib.suppress(BlockingIOError):
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                destroy(file.parent)


def destroy(root):
    """End every process of the cluster in `root`, and remove the folder if it is a cluster's."""
    if (root / "owner").exists():
        Processes(root).kill()
        shutil.rmtree(root, onerror=_unless_gone)


def _unless_gone(_function, path, error):
    if os.path.lexists(path):
        raise error[1]
