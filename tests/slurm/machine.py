"""What the test cluster takes from the machine it runs on: host names, free ports, a folder, and its removal."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .config import NODES, Ports
from .errors import SlurmTestError
from .processes import Processes, identity, is_running

# Below the ports that the kernel assigns (32768 and up) and those that submitit picks for torch's
# MASTER_PORT (20000 to 60000), so that a daemon that is down finds its port still free when it comes back.
_PORTS = range(10000, 20000)

# A longer path than this cannot be a socket's address.
_MAX_SOCKET_PATH = 107


def short_hostname() -> str:
    """The name by which Slurm knows this machine."""
    return socket.gethostname().split(".")[0]


def name_nodes(hosts: Path = Path("/etc/hosts")) -> None:
    """Let the nodes' names resolve to this machine: torch's MASTER_ADDR is one of them."""
    text = hosts.read_text()
    known = {name for line in text.splitlines() for name in line.partition("#")[0].split()[1:]}
    missing = [node for node in NODES if node not in known]
    if missing:
        newline = "" if text.endswith("\n") or not text else "\n"
        with open(hosts, "a") as file:
            file.write(f"{newline}127.0.0.1 {' '.join(missing)}\n")


def free_ports() -> Ports:
    """Ports that nobody listens on. Call it, and start what uses them, within `starting_alone()`."""
    candidates = iter(random.SystemRandom().sample(_PORTS, len(_PORTS)))
    free = (port for port in candidates if _is_free(port))
    return Ports(
        controller=next(free),
        accounting=next(free),
        database=next(free),
        nodes=tuple(next(free) for _ in NODES),
    )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def is_listening(port: int) -> bool:
    """Whether something on this machine accepts connections to `port`."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def roots() -> Path:
    """The folder with the roots of clusters that were started without one."""
    return Path(tempfile.gettempdir()) / "cldctl-slurm"


@contextlib.contextmanager
def starting_alone() -> Iterator[None]:
    """Keep other clusters from starting: two at the same moment would pick the same free ports."""
    roots().mkdir(mode=0o755, exist_ok=True)
    with open(roots() / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_root(root: Path | None, *, keep: bool) -> Path:
    """Create the folder of a cluster, and note its owner: this process, or nobody with `keep`.

    Raises SlurmTestError for a path that Slurm cannot use, or if a cluster is already running there.
    """
    root = Path(tempfile.mkdtemp(dir=roots(), prefix="c")) if root is None else root.absolute()
    if len(str(root / "munge.socket")) > _MAX_SOCKET_PATH or any(c in str(root) for c in " ,=#"):
        raise SlurmTestError(
            f"{root} is too long for a socket's path, or has a space, comma, '=' or '#': use another folder"
        )
    if (root / "owner.json").exists():
        if not is_stale(root):
            raise SlurmTestError(f"a cluster is already running in {root}: stop it first (make slurm-down)")
        destroy(root)
    root.mkdir(exist_ok=True, parents=True)
    (root / "owner.json").write_text(json.dumps(None if keep else identity()))
    # munge's clients, and jobs of other users, must reach the socket; the folder of the key is private.
    root.chmod(0o755)
    for folder in ("log", "run", "state", "spool", "gpu", "pids", "key"):
        (root / folder).mkdir(mode=0o700 if folder == "key" else 0o755)
    for node in NODES:
        (root / "spool" / node).mkdir()
    return root


def is_stale(root: Path) -> bool:
    """Whether the cluster in `root` was left behind: its owner, or its controller if it has none, is gone."""
    try:
        owner = json.loads((root / "owner.json").read_text())
    except (FileNotFoundError, ValueError):
        return True
    if owner is None:
        return not Processes(root).alive("slurmctld")
    return not is_running(owner)


def sweep() -> None:
    """End the processes and remove the folders of test runs that crashed."""
    for root in roots().glob("c*"):
        # A root without an owner is being created, or has no process yet.
        if (root / "owner.json").exists() and is_stale(root):
            destroy(root)


def destroy(root: Path) -> None:
    """End every process of the cluster in `root`, check that none is left, and remove the folder."""
    processes = Processes(root)
    processes.kill_all()
    left = processes.remaining()
    assert not left, f"processes of the test cluster in {root} survived SIGKILL: {left}"
    _remove(root)


def _remove(root: Path) -> None:
    # Only folders that this module created are ever removed.
    if (root / "owner.json").exists():
        shutil.rmtree(root, onerror=_unless_gone)


def _unless_gone(_function: object, path: str, error: tuple[type, BaseException, object]) -> None:
    if os.path.lexists(path):
        raise error[1]
