"""Slurm's command line clients, each call with a time limit: a controller may be away."""

import functools
import logging
import os
import re
import shlex
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cld_core.files import passes
from cld_core.sanitize import is_count
from cldctl.clusters.base import Nodes, SchedulerAway, SchedulerRefused

TIMEOUT_S = 15.0
# The form of times does not depend on the settings of a user.
TIMES = {"SLURM_TIME_FORMAT": "standard"}
_LOG = logging.getLogger(__name__)
# What clients say when the controller does not answer (`scontrol requeue` says the first), or
# cannot be located; as grep understands it, too.
AWAY = re.compile(
    r"unexpected message received|unable to contact slurm|timed out|connection refused|zero bytes "
    r"were transmitted"
    r"|could not establish a configuration source|dns srv lookup failed|standby mode|communication "
    r"connection failure"
    r"|temporarily un(able|available)|protocol authentication error|transport endpoint is not "
    r"connected"
    r"|no route to host|network is unreachable|connection reset",
    re.IGNORECASE,
)
# Where Slurm's clients look for their configuration; the last is that of sackd, on machines without
# a file.
_CONFIGURATIONS = (
    *("/etc/slurm/slurm.conf", "/etc/slurm-llnl/slurm.conf", "/usr/local/etc/slurm.conf"),
    *("/opt/slurm/etc/slurm.conf", "/run/slurm/conf/slurm.conf"),
)
_CONFIGURED_WITHIN_S = 2.0
# Beyond it, Slurm has only added up the limits of the jobs before, which may have none.
_FORESEEN_S = 30 * 24 * 3600.0
# A job, or a task of an array.
_JOB_ID = re.compile(r"[0-9]{1,18}(_[0-9]{1,18})?")


@dataclass(frozen=True)
class Answer:
    """What a client printed and its exit code; -1 if it does not exist, or did not answer in time
    (``away``).

    Attributes:
        errors: what it wrote to its error stream; if it failed, ``text`` has that, too.
        missing: it does not exist.
    """

    code: int
    text: str
    away: bool = False
    errors: str = ""
    missing: bool = False

    @property
    def last_line(self) -> str:
        """The line that says what went wrong."""
        return (self.text.strip().splitlines() or [f"it ended with {self.code}"])[-1]


def run(
    command: Sequence[str],
    stdin: str = "",
    environment: Mapping[str, str] | None = None,
    within_s: float | None = None,
) -> Answer:
    """Call a client; what it prints may be in any encoding.

    Args:
        environment: its variables; default: those of this process, and `TIMES`.
        within_s: seconds after which it is killed; default: `TIMEOUT_S`.
    """
    begin = time.monotonic()
    within_s = within_s or TIMEOUT_S
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=within_s,
            input=stdin,
            env=environment or {**os.environ, **TIMES},
        )
    except subprocess.TimeoutExpired:
        return Answer(-1, f"no answer within {within_s:.0f} s", away=True)
    except ValueError as error:  # a word with a NUL
        return Answer(-1, str(error))
    except OSError as error:
        # A machine that cannot start a process at this moment knows no more about the controller.
        return Answer(
            -1, str(error), away=passes(error), missing=isinstance(error, FileNotFoundError)
        )
    finally:
        _LOG.debug("%.3f s: %s", time.monotonic() - begin, shlex.join(command))
    if done.returncode == 0:
        return Answer(0, done.stdout, errors=done.stderr)
    text = done.stdout + done.stderr
    return Answer(done.returncode, text, away=AWAY.search(text) is not None, errors=done.stderr)


def configuration() -> str:
    """The file that Slurm's clients are configured by; empty if there is none."""
    return os.environ.get("SLURM_CONF") or next(filter(os.path.exists, _CONFIGURATIONS), "")


def is_configured() -> bool:
    """Whether Slurm's clients know a cluster: by $SLURM_CONF, a file, or a controller that answers
    within 2 s."""
    return bool(configuration()) or _answers()


@functools.cache
def _answers() -> bool:
    return output_of(["scontrol", "show", "config"], _CONFIGURED_WITHIN_S) is not None


def output_of(command: Sequence[str], within_s: float | None = None) -> str | None:
    """What a client prints; None if it fails, does not answer or does not exist."""
    answer = run(command, within_s=within_s)
    return answer.text if answer.code == 0 else None


def show_job(job_id: str, within_s: float | None = None) -> dict[str, str]:
    """`scontrol show job` as a dictionary; empty if the controller does not know the job or does
    not answer."""
    shown = ["scontrol", "--oneliner", "show", "job", job_id]
    return pairs_in((output_of(shown, within_s) if is_job_id(job_id) else None) or "")


def pairs_in(line: str) -> dict[str, str]:
    """The words ``NAME=VALUE`` of a line of `scontrol --oneliner show`."""
    return dict(word.split("=", 1) for word in line.split() if "=" in word)


def restarts_of(job: Mapping[str, str]) -> int:
    """How often Slurm has started a job again, from `show_job`; 0 if it does not say."""
    text = job.get("Restarts", "")
    return int(text) if is_count(text) else 0


def seconds_of(moment: str) -> float | None:
    """A time as Slurm writes it, in seconds since 1970; None if it is none, such as "N/A"."""
    try:
        return time.mktime(time.strptime(moment, "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        return None


def start_of(moment: str) -> float | None:
    """As `seconds_of`, of the start that Slurm expects; None for one so far ahead that it is no
    estimate."""
    start = seconds_of(moment)
    return start if start is not None and start < time.time() + _FORESEEN_S else None


def cancel(job_ids: Collection[str]) -> None:
    """Call scancel; jobs that have ended are no error.

    Raises:
        SchedulerRefused, SchedulerAway
    """
    # Anything else, a client would take for an option or for other jobs.
    for job_id in job_ids:
        if not is_job_id(job_id):
            raise SchedulerRefused(
                f"'{job_id}' is not a job of Slurm. Its ledger is damaged: see `squeue --me`."
            )
    answer = run(["scancel", *job_ids]) if job_ids else Answer(0, "")
    if answer.away:
        raise SchedulerAway(
            f"slurmctld does not answer ({answer.last_line}). Try again when it does."
        )
    if answer.code != 0:
        problem = f"scancel refused job {', '.join(job_ids)}"
        raise SchedulerRefused(f"{problem}: {answer.text.strip() or answer.last_line}")


def nodes_in(expression: str) -> tuple[str, ...] | None:
    """The single nodes of an expression such as "n[1-3],m7", as ``--exclude`` takes it; None if it
    cannot be read."""
    text = expression.strip()
    if text in ("", "(null)"):
        return ()
    if "[" in text:
        text = output_of(["scontrol", "show", "hostnames", text]) or text
    names = re.split(r"[\s,]+", text.strip())
    return tuple(names) if all(re.fullmatch(r"[\w.-]+", name) for name in names) else None


def nodes(partition: str | None, features: str | None, exclude: str) -> Nodes | None:
    """The nodes of a partition that are neither down nor drained, and those to avoid; None without
    an answer.

    Args:
        partition: several, with commas between them, count together; None is the default one.
        features: what a node must have, as ``--constraint`` takes it; only names joined by "&" are
            understood.
        exclude: as ``--exclude`` takes it.
    """
    excluded = nodes_in(exclude)
    if excluded is None:
        return None
    where = [f"--partition={partition}"] if partition else []
    text = output_of(["sinfo", "--noheader", "--Node", *where, "--format=%N|%P|%T|%f"])
    usable = None if text is None else usable_nodes(text, partition, features)
    return None if usable is None else Nodes(usable, excluded)


def usable_nodes(sinfo: str, partition: str | None, features: str | None) -> set[str] | None:
    """The nodes of ``sinfo --format='%N|%P|%T|%f'`` that a job could run on; None if its features
    cannot be read."""
    wanted = set() if features in (None, "", "(null)") else set(str(features).split("&"))
    if any(not re.fullmatch(r"[\w.:-]+", feature) for feature in wanted):
        return None
    rows = [line.strip().split("|") for line in sinfo.splitlines()]
    return {
        row[0]
        for row in rows
        if len(row) == 4
        and (partition or row[1].endswith("*"))
        and not re.search("down|drain|fail|unknown", row[2])
        and wanted <= set(row[3].split(","))
    }


def submitted_since(name: str, when: float) -> list[str] | None:
    """Ids of this user's jobs of a name that were submitted after ``when``, seconds.

    None without an answer, or if a line of it cannot be read: there may be such jobs.
    """
    text = output_of(["squeue", "--me", "--noheader", f"--name={name}", "--format=%A|%V"])
    if text is None:
        return None
    found = set()
    # Sites let squeue print more than jobs.
    for line in map(str.strip, text.splitlines()):
        if not line[:1].isdecimal():
            continue
        job, _, at = line.partition("|")
        submitted = seconds_of(at) if is_count(job) else None
        if submitted is None:
            return None
        if submitted >= int(when):
            found.add(job)
    return sorted(found)


def sacct(fields: str, job_ids: Sequence[str]) -> str | None:
    """Accounting of every start of jobs, oldest first, with ``|`` between the fields; None without
    an answer."""
    return output_of(
        [
            *(
                "sacct",
                "--allocations",
                "--noheader",
                "--duplicates",
                "--parsable2",
                "--starttime=now-90days",
            ),
            *(f"--format={fields}", "--jobs", ",".join(job_ids)),
        ]
    )


def is_job_id(text: str) -> bool:
    """Whether a text can name a job or a task of an array, and nothing else that a client of Slurm
    understands."""
    return _JOB_ID.fullmatch(text) is not None
