"""Slurm's part of `cldctl doctor`: its configuration, and what a small job finds on a node.

Functions that judge a configuration call no client. The job runs ``python -m
cldctl.clusters.slurm.doctor``, in the container if there is one, and writes its answer into a
folder beside the runs, which proves that the folder is shared. Loads no torch.
"""

import math
import os
import platform
import re
import shlex
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cld_core import rendezvous
from cld_core.config.cluster import ClusterSpec
from cld_core.files import write_json
from cld_core.records import find_record, to_plain
from cld_core.sanitize import is_count
from cldctl.clusters import local_processes
from cldctl.clusters.base import Check, DoctorOptions, SchedulerAway, SchedulerRefused, read_from

from . import client, poll, script, submit
from .client import Facts

QOS_COLUMNS = ("Name", "Preempt", "PreemptMode", "GraceTime")
# The largest number of names that a node looks up.
MAX_HOSTS = 64
_ANSWER = "answer.json"
_ERRORS = "errors"
# Exit codes of the batch script.
_NOT_SHARED = 20
_NO_PYTHON = 21
_NO_CLDCTL = 22
_NO_SETUP = 23
# If SLURM_CONF names a missing file, clients look for it for a minute.
_PING_WITHIN_S = 10
# With less memory for a rank, in MB, torch may be killed.
_LITTLE_MB = 2000
# Seconds that a file written on a node may take to appear here. Attribute caches of NFS last up to
# a minute.
_APPEARS_LATE_S = 15.0
# Subjects of checks.
_JOB = "a job on a node"
_FOLDER = "runs folder on a node"
_SHARE = "Put the runs on a file system that all nodes have (--runs-dir, or $CLDCTL_RUNS)."


@dataclass(frozen=True, kw_only=True)
class FromNode:
    """What a job finds on a node."""

    checks: tuple[Check, ...]


def checks(runs: Path, options: DoctorOptions) -> Iterator[Check]:
    """Checks of Slurm, of the chosen partitions, and of what a small job finds on a node.

    If there is no Slurm or it does not answer, the check "slurm" fails and is the last.
    """
    answer = client.run(["scontrol", "show", "config"])
    if answer.code != 0:
        yield Check(
            "slurm",
            "fail",
            answer.last_line,
            "Run this command again later, or use --cluster local.",
        )
        return
    slurm = client.settings_in(answer.text)
    yield Check("slurm", "ok", f"{slurm['SLURM_VERSION']}, cluster {slurm['ClusterName']}")
    requeues = slurm["JobRequeue"] == "1"
    advice = "" if requeues else "Other jobs of yours need --requeue."
    setting = f"JobRequeue={int(requeues)}, and cldctl submits with --requeue"
    yield Check("requeue", "ok", setting, advice)
    yield _accounting(slurm)
    listed = client.output_of(["scontrol", "--oneliner", "show", "partition"]) or ""
    by_name = {partition["PartitionName"]: partition for partition in parse_partitions(listed)}
    names = list(by_name) if options.partition is None else options.partition.split(",")
    missing = [name for name in names if name not in by_name]
    if missing or not by_name:
        problem = f"there is no partition {', '.join(missing)}".strip()
        advice = f"There are: {', '.join(by_name) or 'none that you may see'}."
        yield Check("partitions", "fail", problem, advice)
        return
    partitions = list(by_name.values())
    chosen = [partition for name, partition in by_name.items() if name in names]
    for partition in chosen:
        yield from _partition(partition, partitions, slurm, options)
    if slurm["PreemptType"] == "preempt/qos":
        yield from _by_qos(slurm, options)
    first = _first_choice(chosen, options.size)
    name = first["PartitionName"]
    settings = {
        "partition": name,
        "account": options.account or options.size.account,
        "qos": options.size.qos,
    }
    arguments = [f"--{key}={value}" for key, value in settings.items() if value]
    subject = f"partition {name}: a job without --time and --mem"
    yield without_limits(subject, first, slurm, _refusal(arguments))
    if options.job:
        yield from _from_a_node(runs, first, arguments, options)


def _first_choice(partitions: Sequence[Facts], size: ClusterSpec) -> Facts:
    """The partition for the small job: that of the recipe, or else the default one."""
    own = (size.partition or "").split(",")
    return min(
        partitions,
        key=lambda partition: (partition["PartitionName"] not in own, not _is_default(partition)),
    )


def _accounting(slurm: Facts) -> Check:
    """Whether sacct can say how jobs ended."""
    fallback = (
        "Works without: causes then come from the job's log and from squeue, as long as it shows "
        "the job."
    )
    kind = slurm["AccountingStorageType"].removeprefix("accounting_storage/")
    if kind in ("", "none"):
        return Check("accounting", "warn", "off (AccountingStorageType=none)", fallback)
    answer = client.run(["sacct", "--allocations", "--noheader", "--starttime=now-1hours"])
    if answer.code != 0:
        problem = f"{kind}, but sacct does not answer: {answer.text.strip()}"
        return Check("accounting", "warn", problem, fallback)
    return Check("accounting", "ok", f"{kind}, sacct answers")


def _partition(
    partition: Facts, every: Sequence[Facts], slurm: Facts, options: DoctorOptions
) -> Iterator[Check]:
    name = f"partition {partition['PartitionName']}"
    if _is_default(partition):
        name += " (default)"
    if partition["State"] not in ("UP", ""):
        yield Check(
            name,
            "warn",
            "is not up: jobs wait",
            "Use another partition, or ask the administrators.",
        )
    yield on_preemption(f"{name}: preemption", partition, every, slurm, options.slowest_save_s)
    yield at_the_limit(f"{name}: time limit", partition, options.notice_s)


def _is_default(partition: Facts) -> bool:
    return partition["Default"] == "YES"


def _by_qos(slurm: Facts, options: DoctorOptions) -> Iterator[Check]:
    columns = f"format={','.join(QOS_COLUMNS)}"
    answer = client.run(["sacctmgr", "--noheader", "--parsable2", "show", "qos", columns])
    every = parse_qos(answer.text) if answer.code == 0 else []
    if not every:
        reason = answer.last_line if answer.text.strip() else "it lists none"
        problem = f"sacctmgr does not say which QOS there are: {reason}"
        yield Check(
            "QOS: preemption",
            "warn",
            problem,
            "Ask the administrators which QOS preempts yours, and for its GraceTime.",
        )
    for qos in every:
        subject = f"QOS {qos['Name']}: preemption"
        yield on_preemption_by_qos(subject, qos, every, slurm, options.slowest_save_s)


def parse_partitions(text: str) -> list[Facts]:
    """The partitions in the text of `scontrol --oneliner show partition`, in its order."""
    lines = map(client.words_in, text.splitlines())
    return [partition for partition in lines if partition["PartitionName"]]


def parse_qos(text: str) -> list[Facts]:
    """The QOS in the text of `sacctmgr --noheader --parsable2 show qos`, in its order.

    Its columns are `QOS_COLUMNS`.
    """
    rows = [line.split("|") for line in text.splitlines()]
    return [
        client.facts(zip(QOS_COLUMNS, row, strict=True))
        for row in rows
        if len(row) == len(QOS_COLUMNS)
    ]


def parse_duration(text: str) -> int | None:
    """Seconds of ``[days-]hours:minutes:seconds``; None for another text, such as UNLIMITED."""
    match = re.fullmatch(r"(?:([0-9]{1,9})-)?([0-9]{1,9}):([0-9]{1,9}):([0-9]{1,9})", text)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


def _leading_number(text: str) -> int:
    match = re.match(r"[0-9]{1,18}(?![0-9])", text)
    return int(match[0]) if match else 0


def on_preemption(
    name: str, partition: Facts, others: Sequence[Facts], slurm: Facts, save_s: float | None
) -> Check:
    """What preemption does to a run in a partition.

    Args:
        save_s: seconds of the slowest save so far; None before the first.
    """
    kind = slurm["PreemptType"]
    if kind in ("", "preempt/none"):
        return Check(name, "ok", "never: preemption is off on this cluster")
    if kind == "preempt/qos":
        return Check(name, "ok", "by QOS, whatever the partition says: see the lines of the QOS")
    is_highest = all(_tier(other) <= _tier(partition) for other in others)
    if kind == "preempt/partition_prio" and is_highest and _mode(partition, slurm) != "OFF":
        return Check(name, "ok", "never: no partition has a higher PriorityTier")
    return _outcome(name, partition, slurm, save_s)


def _tier(partition: Facts) -> int:
    return _leading_number(partition["PriorityTier"] or "1")


def on_preemption_by_qos(
    name: str, qos: Facts, others: Sequence[Facts], slurm: Facts, save_s: float | None
) -> Check:
    """What preemption does to a run of a QOS if PreemptType=preempt/qos; as `on_preemption`."""
    stronger = [other["Name"] for other in others if qos["Name"] in other["Preempt"].split(",")]
    if not stronger:
        return Check(name, "ok", "never: no QOS preempts it")
    return _outcome(name, qos, slurm, save_s, by=f"by {', '.join(stronger)}: ")


def _outcome(
    name: str, preempted: Facts, slurm: Facts, save_s: float | None, *, by: str = ""
) -> Check:
    """What preemption does to a run of a partition or QOS.

    Slurm sends SIGKILL after GraceTime and KillWait.

    Args:
        by: what preempts it, for display.
    """
    mode = _mode(preempted, slurm)
    if mode == "OFF":
        return Check(name, "ok", "never: PreemptMode=OFF")
    if mode == "SUSPEND":
        return Check(
            name,
            "warn",
            f"{by}SUSPEND: frozen in memory, continued later",
            "Set train.hang_timeout_s above the longest suspension, or the watchdog takes it "
            "for a hang.",
        )
    # A partition has seconds, a QOS a duration.
    grace_s = parse_duration(preempted["GraceTime"]) or _leading_number(preempted["GraceTime"])
    signals = "SIGTERM at once"
    then = "not restarted by Slurm"
    if "preempt_send_user_signal" in slurm["SlurmctldParameters"].split(","):
        signals = "SIGUSR2 and SIGTERM at once"
        if grace_s > 0:
            signals = f"SIGUSR2 at once, SIGTERM after {grace_s} s"
            then = "requeued by the run itself, if it saves within GraceTime"
    notice = grace_s + _leading_number(slurm["KillWait"])
    fits = save_fits(name, notice, save_s)
    found = f"{by}{mode}: {signals}, SIGKILL after {notice} s or more"
    if mode == "REQUEUE":
        return replace(fits, found=f"{found}; requeued by Slurm; {fits.found}")
    found += f"; {then}; {fits.found}"
    advice = f"Set cluster.successor=true: a waiting job then starts the run again. {fits.advice}"
    return Check(name, "fail" if fits.verdict == "fail" else "warn", found, advice.strip())


def _mode(preempted: Facts, slurm: Facts) -> str:
    """The PreemptMode of a partition or QOS, or else that of the cluster, or else OFF.

    It is the word that counts in for example ``GANG,REQUEUE``.
    """
    others = ("", "CLUSTER", "GANG", "WITHIN", "PRIORITY")
    words = f"{preempted['PreemptMode']},{slurm['PreemptMode']}".upper().split(",")
    return next((word for word in words if word not in others), "OFF")


def save_fits(name: str, notice: float, save_s: float | None) -> Check:
    """Whether the slowest save so far fits into ``notice`` seconds, if possible twice."""
    if save_s is None:
        return Check(
            name,
            "ok",
            "no save was measured yet",
            "Run this again once a run has saved a checkpoint.",
        )
    found = f"the slowest save took {save_s:.1f} s"
    if save_s > notice:
        return Check(
            name,
            "fail",
            f"{found} and does not fit",
            "A run loses up to train.checkpoint_minutes or checkpoint_every: lower it, or use a "
            "longer GraceTime.",
        )
    if 2 * save_s > notice:
        return Check(
            name,
            "warn",
            f"{found} and fits barely",
            "Lower train.checkpoint_minutes, so that little is lost if a save is cut off.",
        )
    return Check(name, "ok", f"{found} and fits")


def at_the_limit(name: str, partition: Facts, notice_s: int) -> Check:
    """What the time limit does to a run in a partition.

    Args:
        notice_s: seconds before the limit at which the run gets the signal to stop.
    """
    most_s = parse_duration(partition["MaxTime"])
    limit = parse_duration(partition["DefaultTime"]) or most_s
    found = (
        f"SIGUSR2 {notice_s} s before, save, requeue; default limit {_span(limit)}, at most "
        f"{_span(most_s)}"
    )
    if most_s is not None and most_s <= notice_s:
        return Check(
            name,
            "fail",
            found,
            "No job there lasts long enough to train and save. Use another partition.",
        )
    if limit is not None and limit <= notice_s + 60:
        return Check(
            name,
            "warn",
            found,
            "Set cluster.time_min: with the default limit a job is told to stop as soon as it "
            "begins.",
        )
    return Check(name, "ok", found)


def _refusal(arguments: Sequence[str]) -> str:
    """sbatch's refusal of a job without time limit and memory; empty if those do not matter.

    They matter if it accepts a job with both.
    """
    command = ["sbatch", "--test-only", *arguments]
    without = client.run(command, "#!/bin/sh\n")
    both = client.run([*command, "--time=1", "--mem=100M"], "#!/bin/sh\n")
    return without.last_line if without.code != 0 and both.code == 0 else ""


def without_limits(name: str, partition: Facts, slurm: Facts, refusal: str) -> Check:
    """The limits of a job that sets neither time nor memory, or the ``refusal`` of sbatch."""
    if refusal:
        return Check(
            name,
            "warn",
            f"is refused: {refusal}",
            "Jobs must always ask for both: set cluster.time_min and cluster.mem_gb, for "
            "example in a profile.",
        )
    limit = _span(parse_duration(partition["DefaultTime"]) or parse_duration(partition["MaxTime"]))
    key, size = _default_memory(partition, slurm)
    if key:
        memory = f"{size} MB ({key})"
    elif "memory" in slurm["SelectTypeParameters"].lower():
        memory = "all of its nodes"
    else:
        memory = "unlimited"
    found = f"time limit {limit}, memory {memory}"
    if slurm["EnforcePartLimits"] == "NO":
        found += (
            "; a job that asks for more than the partition allows waits for ever "
            "(EnforcePartLimits=NO)"
        )
    if 0 < size < _LITTLE_MB:
        return Check(
            name, "warn", found, "Set cluster.mem_gb: a rank that needs more memory is killed."
        )
    return Check(name, "ok", found)


def _default_memory(partition: Facts, slurm: Facts) -> tuple[str, int]:
    """The setting that gives a job its memory, and its value in MB; ("", 0) if there is none."""
    for facts in (partition, slurm):
        for key in ("DefMemPerNode", "DefMemPerCPU", "DefMemPerGPU"):
            if (size := _leading_number(facts[key])) > 0:
                return key, size
    return "", 0


def _span(seconds: int | None) -> str:
    if seconds is None:
        return "unlimited"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _from_a_node(
    runs: Path, partition: Facts, arguments: Sequence[str], options: DoctorOptions
) -> Iterator[Check]:
    """The folder, Python, scontrol and names, seen from a node by a small job."""
    nodes = client.nodes_in(partition["Nodes"]) or ()
    options.notify(
        f"waiting for a small job on partition {partition['PartitionName']}, at most "
        f"{options.wait_s:.0f} s"
    )
    try:
        with local_processes.scratch_folder(runs) as folder:
            yield from probe(Path(folder), nodes[:MAX_HOSTS], arguments, options)
    except OSError as error:
        yield Check(_JOB, "fail", str(error), "Fix the folder, or choose another --runs-dir.")


def probe(
    folder: Path, hosts: Sequence[str], arguments: Sequence[str], options: DoctorOptions
) -> Iterator[Check]:
    """Submit the job, wait for its end for at most ``options.wait_s`` seconds, and cancel it then.

    Args:
        folder: new and empty, beside the runs; the caller removes it.
        hosts: names that the node should resolve.
        arguments: further arguments of sbatch.
    """
    command = (
        "sbatch",
        "--parsable",
        "--job-name=cldctl-doctor",
        "--nodes=1",
        "--ntasks=1",
        "--requeue",
        f"--time={math.ceil(options.wait_s / 60)}",
        "--output=/dev/null",
        *arguments,
    )
    environment = {**submit.environment(), **local_processes.safe_path()}
    submitted = client.run(command, probe_script(folder, hosts, options.size), environment)
    job_id = submitted.last_line.split(";")[0].strip()
    if submitted.code != 0 or not is_count(job_id):
        advice = "Name --partition or --account, or pass --no-job."
        if submitted.away:
            advice = "slurmctld does not answer: run this command again later."
        yield Check(_JOB, "fail", f"sbatch: {submitted.last_line}", advice)
        return
    try:
        job, answer = _wait(folder, job_id, options.wait_s)
    finally:
        try:
            client.cancel([job_id])
        except (SchedulerRefused, SchedulerAway) as error:
            print(f"job {job_id}: {error}", file=sys.stderr, flush=True)
    if answer is None:
        yield _without_an_answer(f"job {job_id}", job, folder, _where(options.size))
        return
    yield from answer.checks
    yield _requeueable(job)


def probe_script(folder: Path, hosts: Sequence[str], size: ClusterSpec) -> str:
    """The script of the job, with the setup of a run, and Python in its container."""
    python = f"{script.python_beside(size)} -P"
    here = shlex.quote(str(folder))
    arguments = shlex.join([platform.node(), *hosts])
    lines = (
        "#!/bin/bash",
        f"test -d {here} || exit {_NOT_SHARED}",
        f"exec 2>{here}/{_ERRORS}",
        f"trap 'exit {_NO_SETUP}' EXIT",
        "set -e",
        *size.setup,
        "set +eu",
        "trap - EXIT",
        f"problem=$(timeout {_PING_WITHIN_S} scontrol ping 2>&1) && problem=",
        f"{python} -c pass || exit {_NO_PYTHON}",
        f'{python} -m {__name__} {here} "{_where(size)}" "$problem" {arguments} || '
        f"exit {_NO_CLDCTL}",
    )
    return "".join(f"{line}\n" for line in lines)


def _where(size: ClusterSpec) -> str:
    """The end of a sentence about Python on a node: " in the container", or nothing."""
    is_inside = script.python_beside(size) != script.python_beside(ClusterSpec())
    return " in the container" if is_inside else ""


def _wait(folder: Path, job_id: str, wait_s: float) -> tuple[Facts, FromNode | None]:
    """The job's `scontrol show job` at its end or after ``wait_s`` seconds, and its answer."""
    deadline = time.monotonic() + wait_s
    is_over = False
    job = client.words_in("")
    while True:
        answer = find_record(FromNode, folder / _ANSWER)
        if answer is not None:
            return client.show_job(job_id) or job, answer
        if time.monotonic() >= deadline:
            return job, None
        if not is_over:
            job = client.show_job(job_id) or job
            is_over = poll.seen_of(job["JobState"]).is_gone
            if is_over:
                late_s = _APPEARS_LATE_S if job["JobState"] == "COMPLETED" else 0.0
                deadline = time.monotonic() + late_s
        time.sleep(0.3)


def _without_an_answer(name: str, job: Facts, folder: Path, where: str) -> Check:
    state = job["JobState"]
    code = job["ExitCode"].split(":")[0]
    if not poll.seen_of(state).is_gone:
        reason = job["Reason"] or "no answer from slurmctld"
        return Check(_JOB, "warn", f"{name} did not run ({reason})", "Wait longer: --wait SECONDS.")
    if state == "COMPLETED":
        return Check(_FOLDER, "fail", f"what {name} wrote is not seen here", _SHARE)
    error = _last_line(read_from(folder / _ERRORS, 0))
    install = "Mount it there at the same path." if where else "Install it where all nodes see it."
    failures = {
        _NOT_SHARED: (_FOLDER, f"{name} does not see {folder.parent}", _SHARE),
        _NO_PYTHON: (_JOB, f"{name} has no {sys.executable}{where}: {error}", install),
        _NO_CLDCTL: (_JOB, f"{name} cannot load cldctl{where}: {error}", install),
        _NO_SETUP: (_JOB, f"{name} fails in cluster.setup: {error}", "Correct the line."),
    }
    advice = "Ask the administrators, or pass --no-job."
    other = (_JOB, f"{name}: {state}, exit code {code}", advice)
    subject, found, advice = failures.get(int(code or 0), other)
    return Check(subject, "fail", found, advice)


def _requeueable(job: Facts) -> Check:
    if job["Requeue"] in ("1", ""):
        return Check("--requeue", "ok", "accepted")
    return Check(
        "--requeue",
        "fail",
        "this cluster drops it",
        "A job that is preempted or loses a node does not come back; set cluster.successor=true.",
    )


def _on_this_node(
    folder: Path, where: str, problem: str, asker: str, hosts: Sequence[str]
) -> Iterator[Check]:
    """The checks that the job itself makes.

    Args:
        folder: beside the runs.
        where: " in the container" if it is in one.
        problem: why scontrol does not answer outside of the container; empty if it does.
        asker: the machine that submitted it.
        hosts: names that should resolve.
    """
    host = socket.gethostname()
    job = os.environ.get("SLURM_JOB_ID", "?")
    node = os.environ.get("SLURMD_NODENAME", "?")
    # If the node is this machine, the job proves nothing about the others.
    here = ", but that node is this machine" if host == asker else ""
    kind, _ = local_processes.file_system_of(folder)
    yield Check(_FOLDER, "ok", f"seen and written there ({kind}){here}")
    yield Check(_JOB, "ok", f"job {job} ran on {node}, Python {platform.python_version()}{where}")
    yield _scontrol(node, where, problem)
    yield _names(hosts)
    if len(hosts) > 1:
        yield _own_name(host)
    for variable in (rendezvous.GLOO, rendezvous.NCCL):
        if variable in os.environ:
            yield _interface(variable, os.environ[variable])


def _scontrol(node: str, where: str, problem: str) -> Check:
    """Whether the batch script, which runs outside of a container, can requeue jobs."""
    if problem:
        found = f"answers here, but not on {node}: {_last_line(problem)}"
        return Check(
            "scontrol",
            "fail",
            found,
            "After a crash or a time limit, only cluster.successor or `cldctl resume` continues a "
            "run.",
        )
    inside = client.run(["scontrol", "ping"], within_s=_PING_WITHIN_S)
    if inside.code != 0:
        reason = "there is none" if inside.missing else inside.last_line
        found = (
            f"answers here and on {node}, not{where} ({reason}): wishes are carried out on the node"
        )
        return Check("scontrol", "ok", found)
    if where:
        return Check("scontrol", "ok", f"answers here and on {node} and{where}")
    return Check("scontrol", "ok", f"answers here and on {node}")


def _names(hosts: Sequence[str]) -> Check:
    unresolved = [host for host in hosts if rendezvous.address_of(host) is None]
    if unresolved:
        shown = ", ".join(unresolved[:5])
        if len(unresolved) > 5:
            shown += " ..."
        return Check(
            "MASTER_ADDR",
            "fail",
            f"names that a node cannot resolve: {shown}",
            "Processes of several nodes cannot connect there; ask the administrators, or use "
            "cluster.nodes=1.",
        )
    return Check("MASTER_ADDR", "ok", f"the names of {len(hosts)} nodes resolve there")


def _own_name(host: str) -> Check:
    """Whether the address at which gloo listens by default can be reached from other nodes."""
    address = rendezvous.address_of(host)
    if address is not None and not rendezvous.is_loopback(address):
        return Check("own name of a node", "ok", f"{host} is {address} there")
    found = f"{host} is {address} there, which no other node can reach"
    if address is None:
        found = f"{host} does not resolve there"
    return Check(
        "own name of a node",
        "warn",
        found,
        "cldctl lets gloo use the interface that leads to the other nodes; set "
        f"{rendezvous.GLOO} to use another one.",
    )


def _interface(variable: str, value: str) -> Check:
    """Whether a variable that chooses interfaces fits those of this node.

    The variable of gloo has their names. That of NCCL has prefixes, or after "=" names; a "^"
    before these excludes them.
    """
    interfaces = rendezvous.interfaces()
    names = value.removeprefix("^").removeprefix("=").split(",")
    if variable == rendezvous.GLOO:
        fits = set(interfaces).issuperset(names)
    else:
        is_exact = value.removeprefix("^").startswith("=")
        matching = {
            name
            for name in interfaces
            if (name in names if is_exact else name.startswith(tuple(names)))
        }
        fits = bool(set(interfaces) - matching if value.startswith("^") else matching)
    if fits:
        return Check(variable, "ok", f"{value}, which that node has")
    found = f"{value}: that node has only {', '.join(interfaces)}"
    return Check(
        variable,
        "fail",
        found,
        "Jobs of several ranks cannot start there; unset it, or name one of these.",
    )


def main() -> int:
    folder, where, problem, asker, *hosts = sys.argv[1:]
    answer = FromNode(checks=tuple(_on_this_node(Path(folder), where, problem, asker, hosts)))
    write_json(Path(folder) / _ANSWER, to_plain(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
