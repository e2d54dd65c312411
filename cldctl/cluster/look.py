"""A small job that looks at the runs from a node; it runs `python -m cldctl.cluster.look FOLDER HOST ...` there.

The answer is written into FOLDER, and its arrival is the proof that the folder is shared. Loads no torch.
"""

import os
import platform
import shlex
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cld_core.run.atomic import read_json, write_json

from . import slurm

ANSWER = "answer.json"
TOKEN = "token"
# Exit codes of the batch script.
NOT_SHARED, NO_PYTHON, NO_CLDCTL = 20, 21, 22
# How long a file written on a node may take to be seen here: attribute caches of NFS last up to a minute.
SEEN_LATE_S = 15.0


@dataclass(frozen=True)
class Looked:
    """How the job went: ``how`` is answered, refused, waiting, not_shared, no_python, no_cldctl, unseen or failed."""

    how: str
    job_id: str = ""
    said: str = ""
    job: dict[str, str] = field(default_factory=dict)
    answer: dict[str, Any] = field(default_factory=dict)


def from_a_node(folder: Path, hosts: Sequence[str], options: Sequence[str], wait_s: float) -> Looked:
    """Submit the job, wait at most ``wait_s`` seconds for it to begin and end, and leave none behind.

    folder: new and empty; the caller removes it.
    """
    (folder / TOKEN).write_text("here\n")
    code, text = slurm.run_client(
        [
            *("sbatch", "--parsable", "--job-name=cldctl-doctor", "--nodes=1", "--ntasks=1", "--time=1", "--requeue"),
            *("--output=/dev/null", *options, "--wrap", script(folder, hosts)),
        ]
    )
    if code != 0:
        return Looked("refused", said=text.strip().splitlines()[-1] if text.strip() else f"sbatch ended with {code}")
    job_id = text.strip().splitlines()[-1].split(";")[0]
    try:
        return _wait(folder, job_id, wait_s)
    finally:
        slurm.cancel([job_id])


def script(folder: Path, hosts: Sequence[str]) -> str:
    """The shell lines that the job runs."""
    python = shlex.quote(sys.executable)
    token, words = shlex.quote(str(folder / TOKEN)), shlex.join([str(folder), *hosts])
    return (
        f"test -e {token} || exit {NOT_SHARED}\n"
        f"{python} -c pass || exit {NO_PYTHON}\n"
        f"{python} -m cldctl.cluster.look {words} || exit {NO_CLDCTL}\n"
    )


def _wait(folder: Path, job_id: str, wait_s: float) -> Looked:
    deadline = time.monotonic() + wait_s
    job: dict[str, str] = {}
    while (answer := read_json(folder / ANSWER)) is None:
        job = slurm.show_job(job_id) or job
        if slurm.seen_of(job.get("JobState", "")).over and job:
            return _without_an_answer(folder, job_id, job)
        if time.monotonic() > deadline:
            return Looked("waiting", job_id, job.get("Reason", "no answer from slurmctld"), job)
        time.sleep(0.3)
    return Looked("answered", job_id, job=slurm.show_job(job_id) or job, answer=answer)


def _without_an_answer(folder: Path, job_id: str, job: dict[str, str]) -> Looked:
    code = int(job.get("ExitCode", "0:0").split(":")[0])
    if code == 0 and job.get("JobState") == "COMPLETED":
        deadline = time.monotonic() + SEEN_LATE_S
        while time.monotonic() < deadline:
            if (answer := read_json(folder / ANSWER)) is not None:
                return Looked("answered", job_id, job=job, answer=answer)
            time.sleep(0.5)
        return Looked("unseen", job_id, job=job)
    how = {NOT_SHARED: "not_shared", NO_PYTHON: "no_python", NO_CLDCTL: "no_cldctl"}.get(code, "failed")
    return Looked(how, job_id, f"{job.get('JobState')}, exit code {code}", job)


def file_system(path: Path) -> tuple[str, str]:
    """Type and device of the file system that holds ``path``, for example ("nfs4", "server:/home")."""
    found, best = ("unknown", ""), -1
    try:
        lines = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return found
    where = path.resolve()
    for line in lines:
        device, mount, kind = line.split(" ")[:3]
        mount = mount.replace("\\040", " ")
        # The last of equals lies over the others.
        if where.is_relative_to(mount) and len(mount) >= best:
            found, best = (kind, device), len(mount)
    return found


def main() -> int:
    folder, hosts = Path(sys.argv[1]), sys.argv[2:]
    kind, _ = file_system(folder)
    answer = {
        "host": socket.gethostname(),
        "node": os.environ.get("SLURMD_NODENAME"),
        "python": platform.python_version(),
        "file_system": kind,
        "unresolved": [host for host in hosts if not _resolves(host)],
    }
    write_json(folder / ANSWER, answer)
    return 0


def _resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
