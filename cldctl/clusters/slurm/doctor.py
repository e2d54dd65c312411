"""Whether a Slurm is fit for runs, its part of `cldctl doctor`: its configuration, and what a small
job sees on a node.

What the configuration means for a run asks nobody. The job runs ``python -m
cldctl.clusters.slurm.doctor``, in the container if there is one, and writes its answer into a
folder beside the runs; that it arrives proves that the folder is shared. Loads no torch.
"""

import math
import os
import platform
import re
import shlex
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cld_core import rendezvous
from cld_core.codec import find_record, to_plain
from cld_core.config.cluster import ClusterSpec
from cld_core.files import write_json
from cld_core.sanitize import is_count
from cldctl.clusters import local_processes
from cldctl.clusters.base import Check, DoctorOptions, SchedulerAway, SchedulerRefused, read_from

from . import client, poll, script, submit

QOS_COLUMNS = ("Name", "Preempt", "PreemptMode", "GraceTime")
# At most so many names of nodes are looked up from a node.
MAX_HOSTS = 64
_ANSWER, _ERRORS = "answer.json", "errors"
# Exit codes of the batch script.
_NOT_SHARED, _NO_PYTHON, _NO_CLDCTL, _NO_SETUP = 20, 21, 22, 23
# Where SLURM_CONF names a file that is not there, clients look for it for a minute.
_PING_WITHIN_S = 10
# MB of memory for a rank below which torch is in danger.
_LITTLE_MB = 2000
# How long a file written on a node may take to appear here: attribute caches of NFS last up to a
# minute.
_APPEARS_LATE_S = 15.0
_JOB, _FOLDER = "a job on a node", "runs folder on a node"
_SHARE = "Put the runs on a file system that all nodes have (--runs-dir, or $CLDCTL_RUNS)."


# What Slurm says about itself, a partition or a QOS, by its own names; what it does not mention is
# empty.
Facts = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class FromNode:
    """What a job finds on a node."""

    checks: tuple[Check, ...]


def checks(runs: Path, asked: DoctorOptions) -> Iterator[Check]:
    """All partitions or those that were asked for, and what a small job sees from a node.

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
    slurm = parse_configuration(answer.text)
    yield Check("slurm", "ok", f"{slurm['SLURM_VERSION']}, cluster {slurm['ClusterName']}")
    requeues = slurm["JobRequeue"] == "1"
    advice = "" if requeues else "Other jobs of yours need --requeue."
    yield Check(
        "requeue", "ok", f"JobRequeue={int(requeues)}, and cldctl submits with --requeue", advice
    )
    yield _accounting(slurm)
    partitions = parse_partitions(
        client.output_of(["scontrol", "--oneliner", "show", "partition"]) or ""
    )
    names = [partition["PartitionName"] for partition in partitions]
    chosen_names = names if asked.partition is None else asked.partition.split(",")
    missing = [name for name in chosen_names if name not in names]
    if missing or not names:
        problem = f"there is no partition {', '.join(missing)}".strip()
        yield Check(
            "partitions",
            "fail",
            problem,
            f"There are: {', '.join(names) or 'none that you may see'}.",
        )
        return
    wanted = [partition for partition in partitions if partition["PartitionName"] in chosen_names]
    for partition in wanted:
        yield from _partition(partition, partitions, slurm, asked)
    if slurm["PreemptType"] == "preempt/qos":
        yield from _by_qos(slurm, asked)
    own = (asked.size.partition or "").split(",")
    chosen = min(wanted, key=lambda it: (it["PartitionName"] not in own, not _is_default(it)))
    name, account = chosen["PartitionName"], asked.account or asked.size.account
    given = {"partition": name, "account": account, "qos": asked.size.qos}
    options = [f"--{key}={value}" for key, value in given.items() if value]
    yield without_limits(
        f"partition {name}: a job without --time and --mem", chosen, slurm, _refusal(options)
    )
    if asked.job:
        yield from _from_a_node(runs, chosen, options, asked)


def _accounting(slurm: Facts) -> Check:
    """Whether sacct can say how jobs ended."""
    fallback = (
        "Works without: causes then come from the job's log and from squeue, as long as it "
        "remembers."
    )
    kind = slurm["AccountingStorageType"].removeprefix("accounting_storage/")
    if kind in ("", "none"):
        return Check("accounting", "warn", "off (AccountingStorageType=none)", fallback)
    answer = client.run(["sacct", "--allocations", "--noheader", "--starttime=now-1hours"])
    if answer.code != 0:
        return Check(
            "accounting",
            "warn",
            f"{kind}, but sacct does not answer: {answer.text.strip()}",
            fallback,
        )
    return Check("accounting", "ok", f"{kind}, sacct answers")


def _partition(
    partition: Facts, every: Sequence[Facts], slurm: Facts, asked: DoctorOptions
) -> Iterator[Check]:
    name = f"partition {partition['PartitionName']}" + (
        " (default)" if _is_default(partition) else ""
    )
    if partition["State"] not in ("UP", ""):
        yield Check(
            name,
            "warn",
            "is not up: jobs wait",
            "Use another partition, or ask the administrators.",
        )
    yield on_preemption(f"{name}: preemption", partition, every, slurm, asked.slowest_save_s)
    yield at_the_limit(f"{name}: time limit", partition, asked.notice_s)


def _is_default(partition: Facts) -> bool:
    return partition["Default"] == "YES"


def _by_qos(slurm: Facts, asked: DoctorOptions) -> Iterator[Check]:
    columns = f"format={','.join(QOS_COLUMNS)}"
    answer = client.run(["sacctmgr", "--noheader", "--parsable2", "show", "qos", columns])
    every = parse_qos(answer.text) if answer.code == 0 else []
    if not every:
        problem = answer.last_line if answer.text.strip() else "it lists none"
        advice = "Ask the administrators which QOS preempts yours, and for its GraceTime."
        yield Check(
            "QOS: preemption",
            "warn",
            f"sacctmgr does not say which QOS there are: {problem}",
            advice,
        )
    for qos in every:
        yield on_preemption_by_qos(
            f"QOS {qos['Name']}: preemption", qos, every, slurm, asked.slowest_save_s
        )


def parse_configuration(text: str) -> Facts:
    """From the text of `scontrol show config`."""
    rows = (line.partition("=") for line in text.splitlines())
    return _facts((key.strip(), value.strip()) for key, _, value in rows)


def parse_partitions(text: str) -> list[Facts]:
    """From the text of `scontrol --oneliner show partition`, in its order."""
    lines = [_facts(client.pairs_in(line).items()) for line in text.splitlines()]
    return [partition for partition in lines if partition["PartitionName"]]


def parse_qos(text: str) -> list[Facts]:
    """From `sacctmgr --noheader --parsable2 show qos` with the columns of `QOS_COLUMNS`, in its
    order."""
    rows = [line.split("|") for line in text.splitlines()]
    return [
        _facts(zip(QOS_COLUMNS, row, strict=True)) for row in rows if len(row) == len(QOS_COLUMNS)
    ]


def _facts(pairs: Iterable[tuple[str, str]]) -> Facts:
    return defaultdict(
        str, {key: "" if value in ("(null)", "N/A") else value for key, value in pairs}
    )


def parse_duration(text: str) -> int | None:
    """Seconds of Slurm's ``[days-]hours:minutes:seconds``; None for UNLIMITED, NONE and nothing."""
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
        save_s: seconds of the slowest save that was measured, None before the first.
    """
    kind = slurm["PreemptType"]
    if kind in ("", "preempt/none"):
        return Check(name, "ok", "never: preemption is off on this cluster")
    if kind == "preempt/qos":
        return Check(name, "ok", "by QOS, whatever the partition says: see the lines of the QOS")
    is_highest = all(_tier(other) <= _tier(partition) for other in others)
    never = (
        "no partition has a higher PriorityTier"
        if kind == "preempt/partition_prio" and is_highest
        else ""
    )
    return _outcome(name, partition, slurm, save_s, never=never)


def _tier(partition: Facts) -> int:
    return _leading_number(partition["PriorityTier"] or "1")


def on_preemption_by_qos(
    name: str, qos: Facts, others: Sequence[Facts], slurm: Facts, save_s: float | None
) -> Check:
    """What preemption does to a run of this QOS if PreemptType=preempt/qos; as `on_preemption`."""
    stronger = [other["Name"] for other in others if qos["Name"] in other["Preempt"].split(",")]
    if not stronger:
        return Check(name, "ok", "never: no QOS preempts it")
    return _outcome(name, qos, slurm, save_s, by=f"by {', '.join(stronger)}: ")


def _outcome(
    name: str,
    preempted: Facts,
    slurm: Facts,
    save_s: float | None,
    *,
    by: str = "",
    never: str = "",
) -> Check:
    """What preemption does to a run of a partition or QOS. SIGKILL comes GraceTime and then
    KillWait after SIGTERM.

    Args:
        by: who preempts it, for people.
        never: why nobody does.
    """
    mode = _mode(preempted["PreemptMode"]) or _mode(slurm["PreemptMode"])
    if mode in ("OFF", ""):
        never = "PreemptMode=OFF"
    if never:
        return Check(name, "ok", f"never: {never}")
    if mode == "SUSPEND":
        advice = (
            "Set train.hang_timeout_s above the longest suspension, or the watchdog takes it "
            "for a hang."
        )
        return Check(name, "warn", f"{by}SUSPEND: frozen in memory, continued later", advice)
    # Seconds of a partition, a duration of a QOS.
    grace_s = parse_duration(preempted["GraceTime"]) or _leading_number(preempted["GraceTime"])
    warns_early = "preempt_send_user_signal" in slurm["SlurmctldParameters"].split(",")
    signals = "SIGUSR2 and SIGTERM at once" if warns_early else "SIGTERM at once"
    if warns_early and grace_s > 0:
        signals = f"SIGUSR2 at once, SIGTERM after {grace_s} s"
    notice = grace_s + _leading_number(slurm["KillWait"])
    fits = save_fits(name, notice, save_s)
    found = f"{by}{mode}: {signals}, SIGKILL after {notice} s or more"
    if mode == "REQUEUE":
        return replace(fits, found=f"{found}; requeued by Slurm; {fits.found}")
    comes_back = warns_early and grace_s > 0
    then = (
        "requeued by the run itself, if it saves within GraceTime"
        if comes_back
        else "not restarted by Slurm"
    )
    advice = (
        f"Set cluster.successor=true: a waiting job then starts the run again. {fits.advice}"
    ).strip()
    found += f"; {then}; {fits.found}"
    return Check(name, "fail" if fits.verdict == "fail" else "warn", found, advice)


def _mode(text: str) -> str:
    """The word that counts in for example ``GANG,REQUEUE``; empty if that of the cluster does."""
    others = ("CLUSTER", "GANG", "WITHIN", "PRIORITY")
    return next((word for word in text.upper().split(",") if word not in others), "")


def save_fits(name: str, notice: float, save_s: float | None) -> Check:
    """Whether the slowest measured save, with a margin of its own length, fits into ``notice``
    seconds."""
    if save_s is None:
        return Check(
            name,
            "ok",
            "no save was measured yet",
            "Run this again once a run has saved a checkpoint.",
        )
    found = f"the slowest save took {save_s:.1f} s"
    if save_s > notice:
        advice = (
            "A run loses up to train.checkpoint_minutes or checkpoint_every: lower it, or "
            "use "
            "a longer GraceTime."
        )
        return Check(name, "fail", f"{found} and does not fit", advice)
    if 2 * save_s > notice:
        advice = "Lower train.checkpoint_minutes, so that little is lost if a save is cut off."
        return Check(name, "warn", f"{found} and fits barely", advice)
    return Check(name, "ok", f"{found} and fits")


def at_the_limit(name: str, partition: Facts, notice_s: int) -> Check:
    """What the time limit does to a run in a partition, which is told ``notice_s`` seconds before
    it to stop."""
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
        advice = (
            "Set cluster.time_min: with the default limit a job is told to stop as soon as "
            "it "
            "begins."
        )
        return Check(name, "warn", found, advice)
    return Check(name, "ok", found)


def _refusal(options: Sequence[str]) -> str:
    """What sbatch says to a job that asks for neither time nor memory, if it would take one that
    asks for both."""
    command = ["sbatch", "--test-only", *options]
    bare, full = (
        client.run([*command, *more], "#!/bin/sh\n") for more in ([], ["--time=1", "--mem=100M"])
    )
    return bare.last_line if bare.code != 0 and full.code == 0 else ""


def without_limits(name: str, partition: Facts, slurm: Facts, refusal: str) -> Check:
    """What a job gets that asks for neither time nor memory, or the ``refusal`` of sbatch."""
    if refusal:
        advice = (
            "Jobs must always ask for both: set cluster.time_min and cluster.mem_gb, for "
            "example in a profile."
        )
        return Check(name, "warn", f"is refused: {refusal}", advice)
    limit = _span(parse_duration(partition["DefaultTime"]) or parse_duration(partition["MaxTime"]))
    keys = ("DefMemPerNode", "DefMemPerCPU", "DefMemPerGPU")
    sizes = [(key, _leading_number(facts[key])) for facts in (partition, slurm) for key in keys]
    key, size = next((pair for pair in sizes if pair[1] > 0), ("", 0))
    shared = (
        "all of its nodes" if "memory" in slurm["SelectTypeParameters"].lower() else "unlimited"
    )
    found = f"time limit {limit}, memory {f'{size} MB ({key})' if key else shared}"
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


def _span(seconds: int | None) -> str:
    if seconds is None:
        return "unlimited"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _from_a_node(
    runs: Path, partition: Facts, options: Sequence[str], asked: DoctorOptions
) -> Iterator[Check]:
    """The folder, Python, scontrol and names, seen from a node by a small job."""
    hosts = (client.output_of(["scontrol", "show", "hostnames", partition["Nodes"]]) or "").split()[
        :MAX_HOSTS
    ]
    asked.say(
        f"waiting for a small job on partition {partition['PartitionName']}, at most "
        f"{asked.wait_s:.0f} s"
    )
    try:
        with local_processes.scratch_folder(runs) as folder:
            yield from probe(Path(folder), hosts, options, asked)
    except OSError as error:
        yield Check(_JOB, "fail", str(error), "Fix the folder, or choose another --runs-dir.")


def probe(
    folder: Path, hosts: Sequence[str], options: Sequence[str], asked: DoctorOptions
) -> Iterator[Check]:
    """Submit the job, wait at most ``asked.wait_s`` seconds for its end, and cancel it if it has
    none.

    Args:
        folder: new and empty, beside the runs; the caller removes it.
        hosts: names that the node should resolve.
        options: of sbatch.
    """
    command = [
        *(
            "sbatch",
            "--parsable",
            "--job-name=cldctl-doctor",
            "--nodes=1",
            "--ntasks=1",
            "--requeue",
        ),
        *(f"--time={math.ceil(asked.wait_s / 60)}", "--output=/dev/null", *options),
    ]
    environment = {**submit.environment(), **local_processes.safe_path()}
    submitted = client.run(command, probe_script(folder, hosts, asked.size), environment)
    job_id = submitted.last_line.split(";")[0].strip()
    if submitted.code != 0 or not is_count(job_id):
        advice = "Name --partition or --account, or pass --no-job."
        advice = (
            "slurmctld does not answer: run this command again later." if submitted.away else advice
        )
        yield Check(_JOB, "fail", f"sbatch: {submitted.last_line}", advice)
        return
    try:
        job, answer = _wait(folder, job_id, asked.wait_s)
    finally:
        try:
            client.cancel([job_id])
        except (SchedulerRefused, SchedulerAway) as error:
            print(f"job {job_id}: {error}", file=sys.stderr, flush=True)
    if answer is None:
        yield _without_an_answer(f"job {job_id}", job, folder, _where(asked.size))
        return
    yield from answer.checks
    yield _requeueable(job)


def probe_script(folder: Path, hosts: Sequence[str], size: ClusterSpec) -> str:
    """The script of the job, with the setup of a run, and Python in its container."""
    python = f"{script.python_beside(size)} -P"
    here, arguments = shlex.quote(str(folder)), shlex.join([platform.node(), *hosts])
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
        (
            f'{python} -m {__name__} {here} "{_where(size)}" "$problem" {arguments} || exit '
            f"{_NO_CLDCTL}"
        ),
    )
    return "".join(f"{line}\n" for line in lines)


def _where(size: ClusterSpec) -> str:
    return (
        " in the container"
        if script.python_beside(size) != script.python_beside(ClusterSpec())
        else ""
    )


def _wait(folder: Path, job_id: str, wait_s: float) -> tuple[dict[str, str], FromNode | None]:
    """The job's `scontrol show job` once it is over or the time is up, and its answer if there is
    one."""
    deadline = time.monotonic() + wait_s
    is_over = False
    job: dict[str, str] = {}
    while (
        answer := find_record(FromNode, folder / _ANSWER)
    ) is None and time.monotonic() < deadline:
        if not is_over:
            job = client.show_job(job_id) or job
            is_over = poll.seen_of(job.get("JobState", "")).is_gone
            if is_over:
                deadline = time.monotonic() + (
                    _APPEARS_LATE_S if job["JobState"] == "COMPLETED" else 0.0
                )
        time.sleep(0.3)
    return (job if answer is None else client.show_job(job_id) or job), answer


def _without_an_answer(name: str, job: Mapping[str, str], folder: Path, where: str) -> Check:
    state, code = job.get("JobState", ""), job.get("ExitCode", "").split(":")[0]
    if not poll.seen_of(state).is_gone:
        reason = job.get("Reason", "no answer from slurmctld")
        return Check(_JOB, "warn", f"{name} did not run ({reason})", "Wait longer: --wait SECONDS.")
    if state == "COMPLETED":
        return Check(_FOLDER, "fail", f"what {name} wrote is not seen here", _SHARE)
    said = f": {_last_line(read_from(folder / _ERRORS, 0))}"
    install = "Mount it there at the same path." if where else "Install it where all nodes see it."
    known = {
        _NOT_SHARED: (_FOLDER, f"{name} does not see {folder.parent}", _SHARE),
        _NO_PYTHON: (_JOB, f"{name} has no {sys.executable}{where}{said}", install),
        _NO_CLDCTL: (_JOB, f"{name} cannot load cldctl{where}{said}", install),
        _NO_SETUP: (_JOB, f"{name} fails in cluster.setup{said}", "Correct the line."),
    }
    other = (
        _JOB,
        f"{name}: {state}, exit code {code}",
        "Ask the administrators, or pass --no-job.",
    )
    subject, found, advice = known.get(int(code or 0), other)
    return Check(subject, "fail", found, advice)


def _requeueable(job: Mapping[str, str]) -> Check:
    if job.get("Requeue", "1") == "1":
        return Check("--requeue", "ok", "accepted")
    advice = (
        "A job that is preempted or loses a node does not come back; set cluster.successor=true."
    )
    return Check("--requeue", "fail", "this cluster drops it", advice)


def _on_this_node(
    folder: Path, where: str, problem: str, asker: str, hosts: Sequence[str]
) -> Iterator[Check]:
    """What the job says.

    Args:
        folder: beside the runs.
        where: " in the container" if it is in one; ``problem``: why scontrol does not answer
            outside of it, if so.
        asker: the machine that submitted it.
        hosts: names that should resolve.
    """
    host = socket.gethostname()
    job, node = (os.environ.get(name, "?") for name in ("SLURM_JOB_ID", "SLURMD_NODENAME"))
    # A node that is this machine proves nothing about the others.
    here = ", but that node is this machine" if host == asker else ""
    yield Check(
        _FOLDER, "ok", f"seen and written there ({local_processes.file_system_of(folder)[0]}){here}"
    )
    yield Check(_JOB, "ok", f"job {job} ran on {node}, Python {platform.python_version()}{where}")
    yield _scontrol(node, where, problem)
    yield _names(hosts)
    if len(hosts) > 1:
        yield _own_name(host)
    variables = (rendezvous.GLOO, rendezvous.NCCL)
    yield from (_interface(name, os.environ[name]) for name in variables if name in os.environ)


def _scontrol(node: str, where: str, problem: str) -> Check:
    """Where jobs can be put back into the queue: the batch script does that, outside of a
    container."""
    if problem:
        advice = (
            "After a crash or a time limit, only cluster.successor or `cldctl resume` "
            "continues a run."
        )
        return Check(
            "scontrol", "fail", f"answers here, but not on {node}: {_last_line(problem)}", advice
        )
    inside = client.run(["scontrol", "ping"], within_s=_PING_WITHIN_S)
    if inside.code != 0:
        reason = "there is none" if inside.missing else inside.last_line
        found = (
            f"answers here and on {node}, not{where} ({reason}): wishes are carried out on the node"
        )
        return Check("scontrol", "ok", found)
    return Check("scontrol", "ok", f"answers here and on {node}{where and ' and'}{where}")


def _names(hosts: Sequence[str]) -> Check:
    unresolved = [host for host in hosts if rendezvous.address_of(host) is None]
    if unresolved:
        shown = ", ".join(unresolved[:5]) + (" ..." if len(unresolved) > 5 else "")
        advice = (
            "Jobs of several nodes cannot meet there; ask the administrators, or use "
            "cluster.nodes=1."
        )
        return Check("MASTER_ADDR", "fail", f"names that a node cannot resolve: {shown}", advice)
    return Check("MASTER_ADDR", "ok", f"the names of {len(hosts)} nodes resolve there")


def _own_name(host: str) -> Check:
    """Whether gloo, left to itself, would listen where other nodes can reach it."""
    address = rendezvous.address_of(host)
    if address is not None and not rendezvous.is_loopback(address):
        return Check("own name of a node", "ok", f"{host} is {address} there")
    problem = (
        "does not resolve there"
        if address is None
        else f"is {address} there, which no other node can reach"
    )
    advice = (
        f"cldctl has gloo use the interface that leads to the other nodes; {rendezvous.GLOO} "
        f"names another one."
    )
    return Check("own name of a node", "warn", f"{host} {problem}", advice)


def _interface(variable: str, value: str) -> Check:
    """Whether a variable that chooses interfaces fits those of this node.

    That of gloo names them. That of NCCL has prefixes; after "=", whole names; after "^", all but
    those.
    """
    interfaces = rendezvous.interfaces()
    names = value.removeprefix("^").removeprefix("=").split(",")
    are_whole = variable == rendezvous.GLOO or value.removeprefix("^").startswith("=")
    meant = {it for it in interfaces if (it in names if are_whole else it.startswith(tuple(names)))}
    usable = set(interfaces) - meant if value.startswith("^") else meant
    if usable if variable == rendezvous.NCCL else meant.issuperset(names):
        return Check(variable, "ok", f"{value}, which that node has")
    problem = f"{value}: that node has only {', '.join(interfaces)}"
    return Check(
        variable,
        "fail",
        problem,
        "Jobs of several ranks cannot start there; unset it, or name one of these.",
    )


def main() -> int:
    folder, where, problem, asker, *hosts = sys.argv[1:]
    seen = tuple(_on_this_node(Path(folder), where, problem, asker, hosts))
    write_json(Path(folder) / _ANSWER, to_plain(FromNode(checks=seen)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
