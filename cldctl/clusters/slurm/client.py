"""Slurm's command line clients, each call with a time limit: a controller may be away."""

import functools
import logging
import os
import re
import shlex
import subprocess
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cld_core.files import passes
from cld_core.sanitize import is_count
from cldctl.clusters.base import Nodes, SchedulerAway, SchedulerRefused

TIMEOUT_S = 15.0
_LOG = logging.getLogger(__name__)
# Messages of clients when the controller does not answer (the first is that of `scontrol requeue`)
# or cannot be located. The batch script uses the pattern with grep.
AWAY = re.compile(
    "unexpected message received|unable to contact slurm|timed out|connection refused"
    "|zero bytes were transmitted|could not establish a configuration source"
    "|dns srv lookup failed|standby mode|communication connection failure"
    "|temporarily un(able|available)|protocol authentication error"
    "|transport endpoint is not connected|no route to host|network is unreachable"
    "|connection reset",
    re.IGNORECASE,
)
# Where Slurm's clients look for their configuration.
_CONFIGURATIONS = (
    "/etc/slurm/slurm.conf",
    "/etc/slurm-llnl/slurm.conf",
    "/usr/local/etc/slurm.conf",
    "/opt/slurm/etc/slurm.conf",
    "/run/slurm/conf/slurm.conf",  # of sackd, on machines without a file of their own
)
_CONFIGURED_WITHIN_S = 2.0
# A start later than this is no estimate: Slurm has added up the limits of earlier jobs.
_FORESEEN_S = 30 * 24 * 3600.0
# Slurm's facts about itself, a job, a partition or a QOS, by its own names; missing ones are empty.
Facts = Mapping[str, str]
# A job, or a task of an array.
_JOB_ID = re.compile(r"[0-9]{1,18}(_[0-9]{1,18})?")


@dataclass(frozen=True)
class Reply:
    """What a client printed, and its exit code.

    Attributes:
        code: the exit code; -1 if the client does not exist or was killed after its time.
        text: its output; if it failed, with its errors.
        away: the controller did not answer.
        errors: its error stream.
        missing: the client does not exist.
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
) -> Reply:
    """Call a client, whose output may be in any encoding.

    Args:
        environment: its variables; default: those of this process.
        within_s: seconds after which it is killed; default: `TIMEOUT_S`.
    """
    begin = time.monotonic()
    within_s = within_s or TIMEOUT_S
    variables = dict(os.environ if environment is None else environment)
    # Times have one form whatever a user's settings are.
    variables["SLURM_TIME_FORMAT"] = "standard"
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=within_s,
            input=stdin,
            env=variables,
        )
    except subprocess.TimeoutExpired:
        return Reply(-1, f"no answer within {within_s:.0f} s", away=True)
    except ValueError as error:  # an argument with a NUL
        return Reply(-1, str(error))
    except OSError as error:
        # If this machine cannot start a process at the moment, the controller may still be there.
        is_missing = isinstance(error, FileNotFoundError)
        return Reply(-1, str(error), away=passes(error), missing=is_missing)
    finally:
        _LOG.debug("%.3f s: %s", time.monotonic() - begin, shlex.join(command))
    if done.returncode == 0:
        return Reply(0, done.stdout, errors=done.stderr)
    text = done.stdout + done.stderr
    return Reply(done.returncode, text, away=AWAY.search(text) is not None, errors=done.stderr)


def configuration() -> str:
    """The configuration file of Slurm's clients; empty if there is none."""
    return os.environ.get("SLURM_CONF") or next(filter(os.path.exists, _CONFIGURATIONS), "")


@functools.cache
def has_controller() -> bool:
    """Whether a controller answers within 2 s."""
    return output_of(["scontrol", "show", "config"], _CONFIGURED_WITHIN_S) is not None


def output_of(command: Sequence[str], within_s: float | None = None) -> str | None:
    """The output of a client; None if it fails, does not answer or does not exist."""
    answer = run(command, within_s=within_s)
    return answer.text if answer.code == 0 else None


def show_job(job_id: str, within_s: float | None = None) -> Facts:
    """`scontrol show job`; empty for an unknown job or without an answer."""
    command = ["scontrol", "--oneliner", "show", "job", job_id]
    text = output_of(command, within_s) if is_job_id(job_id) else None
    return words_in(text or "")


def words_in(line: str) -> Facts:
    """The words ``NAME=VALUE`` of a line of `scontrol --oneliner show`."""
    return facts(word.split("=", 1) for word in line.split() if "=" in word)


def settings_in(text: str) -> Facts:
    """The settings in the text of `scontrol show config`."""
    return facts(line.split("=", 1) for line in text.splitlines() if "=" in line)


def facts(pairs: Iterable[Sequence[str]]) -> Facts:
    """The values of names, without blanks around them; those that say "none" are empty."""
    values = defaultdict[str, str](str)
    for name, value in pairs:
        text = value.strip()
        values[name.strip()] = "" if text in ("(null)", "N/A") else text
    return values


def restarts_of(job: Facts) -> int:
    """Number of times that Slurm has restarted a job, from `show_job`; 0 if it does not say."""
    restarts = job["Restarts"]
    return int(restarts) if is_count(restarts) else 0


def seconds_of(moment: str) -> float | None:
    """A time that Slurm wrote, in seconds since 1970; None for another text, such as "N/A"."""
    try:
        return time.mktime(time.strptime(moment, "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        return None


def start_of(moment: str) -> float | None:
    """The start that Slurm expects, seconds since 1970; None if it is unknown or too far ahead."""
    start = seconds_of(moment)
    if start is None or start >= time.time() + _FORESEEN_S:
        return None
    return start


def cancel(job_ids: Collection[str]) -> None:
    """Call scancel; jobs that have ended are not an error.

    Raises:
        SchedulerRefused: Slurm refused the request.
        SchedulerAway: it gave no answer.
    """
    # scancel would take any other text for an option or for other jobs.
    for job_id in job_ids:
        if not is_job_id(job_id):
            raise SchedulerRefused(
                f"'{job_id}' is not a job of Slurm. Its ledger is damaged: see `squeue --me`."
            )
    if not job_ids:
        return
    answer = run(["scancel", *job_ids])
    if answer.away:
        raise SchedulerAway(
            f"slurmctld does not answer ({answer.last_line}). Try again when it does."
        )
    if answer.code != 0:
        raise SchedulerRefused(
            f"scancel refused job {', '.join(job_ids)}: {answer.text.strip() or answer.last_line}"
        )


def nodes_in(expression: str) -> tuple[str, ...] | None:
    """The nodes of an expression such as "n[1-3],m7", as in ``--exclude``; None if unreadable."""
    text = expression.strip()
    if not text:
        return ()
    if "[" in text:
        text = output_of(["scontrol", "show", "hostnames", text]) or text
    names = re.split(r"[\s,]+", text.strip())
    return tuple(names) if all(re.fullmatch(r"[\w.-]+", name) for name in names) else None


def nodes(partition: str | None, features: str | None, exclude: str) -> Nodes | None:
    """The nodes of a partition that are neither down nor drained, and those to avoid.

    Args:
        partition: one name, or several separated by commas; None for the default partition.
        features: what a node must have, in the form of ``--constraint``; only names joined by "&"
            are understood.
        exclude: nodes to avoid, in the form of ``--exclude``.

    Returns:
        None without an answer, or if features or nodes cannot be read.
    """
    excluded = nodes_in(exclude)
    if excluded is None:
        return None
    where = [f"--partition={partition}"] if partition else []
    text = output_of(["sinfo", "--noheader", "--Node", *where, "--format=%N|%P|%T|%f"])
    if text is None:
        return None
    usable = usable_nodes(text, partition, features)
    return None if usable is None else Nodes(usable, excluded)


def usable_nodes(sinfo: str, partition: str | None, features: str | None) -> set[str] | None:
    """The nodes of sinfo that a job could run on; None if its features cannot be read.

    Args:
        sinfo: output with ``--format='%N|%P|%T|%f'``.
    """
    required = set(features.split("&")) if features else set()
    if any(not re.fullmatch(r"[\w.:-]+", feature) for feature in required):
        return None
    usable = set()
    for line in sinfo.splitlines():
        row = line.strip().split("|")
        if len(row) != 4:
            continue
        node, its_partition, state, its_features = row
        is_in_partition = partition or its_partition.endswith("*")
        is_up = not re.search("down|drain|fail|unknown", state)
        if is_in_partition and is_up and required <= set(its_features.split(",")):
            usable.add(node)
    return usable


def is_job_id(text: str) -> bool:
    """Whether Slurm's clients can take a text for a job or a task of an array alone."""
    return _JOB_ID.fullmatch(text) is not None
