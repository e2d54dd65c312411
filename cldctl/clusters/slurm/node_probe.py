"""A small job that looks at the runs from a node, where it runs ``python -m cldctl.clusters.slurm.node_probe``.

Its answer is written into a folder beside the runs; that it arrives proves that the folder is shared. Loads no torch.
"""

import ipaddress
import os
import platform
import shlex
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cld_core import rendezvous
from cld_core.files import read_object, write_json
from cld_core.sanitize import is_count
from cldctl.clusters import submitit_jobs, this_machine
from cldctl.clusters.records import SchedulerAway, SchedulerRefused

from . import client, outer, polling

ANSWER = "answer.json"
TOKEN = "token"
# Exit codes of the batch script.
NOT_SHARED, NO_PYTHON, NO_CLDCTL = 20, 21, 22
_MEANING: dict[int, "Outcome"] = {NOT_SHARED: "not_shared", NO_PYTHON: "no_python", NO_CLDCTL: "no_cldctl"}
# How long a file written on a node may take to appear here: attribute caches of NFS last up to a minute.
APPEARS_LATE_S = 15.0

Outcome = Literal["answered", "away", "refused", "waiting", "not_shared", "no_python", "no_cldctl", "unseen", "failed"]


@dataclass(frozen=True)
class Probe:
    """How the job went.

    Attributes:
        message: what Slurm said about a job without an answer.
        job: its `scontrol show job`.
    """

    outcome: Outcome
    job_id: str = ""
    message: str = ""
    job: dict[str, str] = field(default_factory=dict)
    answer: dict[str, Any] = field(default_factory=dict)


def probe(folder: Path, hosts: Sequence[str], options: Sequence[str], wait_s: float) -> Probe:
    """Submit the job, wait at most ``wait_s`` seconds for its end, and cancel it if it has none.

    Args:
        folder: new and empty; the caller removes it.
        hosts: names that the node should resolve.
        options: of sbatch.
    """
    (folder / TOKEN).write_text("here\n")
    command = [
        *("sbatch", "--parsable", "--job-name=cldctl-doctor", "--nodes=1", "--ntasks=1", "--time=1", "--requeue"),
        *("--output=/dev/null", *options, "--wrap", script(folder, hosts)),
    ]
    with outer.hidden(), this_machine.environment(this_machine.safe_path()):
        submitted = client.run(command)
    if submitted.code != 0:
        return Probe("away" if submitted.away else "refused", message=submitted.last_line)
    job_id = submitted.last_line.split(";")[0].strip()
    if not is_count(job_id):
        return Probe("refused", message=f"it did not say which job it submitted: {submitted.last_line}")
    try:
        return _wait(folder, job_id, wait_s)
    finally:
        _cancel(job_id)


def script(folder: Path, hosts: Sequence[str]) -> str:
    """The shell lines that the job runs."""
    python = submitit_jobs.python_command()
    token, words = shlex.quote(str(folder / TOKEN)), shlex.join([str(folder), *hosts])
    return (
        f"test -e {token} || exit {NOT_SHARED}\n"
        f"{python} -c pass || exit {NO_PYTHON}\n"
        f"{python} -m {__name__} {words} || exit {NO_CLDCTL}\n"
    )


def _wait(folder: Path, job_id: str, wait_s: float) -> Probe:
    deadline = time.monotonic() + wait_s
    job: dict[str, str] = {}
    while (answer := _answer(folder)) is None:
        job = client.show_job(job_id) or job
        if job and polling.seen_of(job.get("JobState", "")).is_gone:
            return _without_an_answer(folder, job_id, job)
        if time.monotonic() > deadline:
            return Probe("waiting", job_id, job.get("Reason", "no answer from slurmctld"), job)
        time.sleep(0.3)
    return Probe("answered", job_id, job=client.show_job(job_id) or job, answer=answer)


def _without_an_answer(folder: Path, job_id: str, job: dict[str, str]) -> Probe:
    said = job.get("ExitCode", "0:0").split(":")[0]
    code = int(said) if is_count(said) else -1
    if code == 0 and job.get("JobState") == "COMPLETED":
        deadline = time.monotonic() + APPEARS_LATE_S
        while time.monotonic() < deadline:
            if (answer := _answer(folder)) is not None:
                return Probe("answered", job_id, job=job, answer=answer)
            time.sleep(0.5)
        return Probe("unseen", job_id, job=job)
    return Probe(_MEANING.get(code, "failed"), job_id, f"{job.get('JobState')}, exit code {code}", job)


def _answer(folder: Path) -> dict[str, Any] | None:
    """What the job wrote, see `main`; None before it has."""
    answer = read_object(folder / ANSWER)
    fits = all(name in answer and is_of(answer[name]) for name, is_of in _FIELDS.items())
    return answer if fits else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_address_or_none(value: Any) -> bool:
    if value is None:
        return True
    try:
        return _is_text(value) and bool(ipaddress.ip_address(value))
    except ValueError:
        return False


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_named_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


_FIELDS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("host", "python", "file_system"), _is_text),
    "node": lambda value: value is None or _is_text(value),
    "own_address": _is_address_or_none,
    **dict.fromkeys(("unresolved", "interfaces"), _are_texts),
    "variables": _are_named_texts,
}


def _cancel(job_id: str) -> None:
    try:
        client.cancel([job_id])
    except (SchedulerRefused, SchedulerAway) as error:
        print(f"job {job_id}: {error}", file=sys.stderr, flush=True)


def main() -> int:
    folder, hosts = Path(sys.argv[1]), sys.argv[2:]
    kind, _ = this_machine.file_system_of(folder)
    answer = {
        "host": socket.gethostname(),
        "node": os.environ.get("SLURMD_NODENAME"),
        "python": platform.python_version(),
        "file_system": kind,
        "unresolved": [host for host in hosts if rendezvous.address_of(host) is None],
        "own_address": rendezvous.address_of(socket.gethostname()),
        "interfaces": list(rendezvous.interfaces()),
        "variables": {name: os.environ[name] for name in (rendezvous.GLOO, rendezvous.NCCL) if name in os.environ},
    }
    write_json(folder / ANSWER, answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
