"""Whether a Slurm is fit for runs, its part of `cldctl doctor`: its configuration, and what a small job sees on a node.

What the configuration means for a run asks nobody. The job runs ``python -m cldctl.clusters.slurm.doctor`` and writes
its answer into a folder beside the runs; that it arrives proves that the folder is shared. Loads no torch.
"""

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
from cld_core.files import write_json
from cld_core.sanitize import is_count
from cldctl.clusters import this_machine
from cldctl.clusters.base import Check, DoctorOptions, SchedulerAway, SchedulerRefused

from . import client, poll, submit

QOS_COLUMNS = ("Name", "Preempt", "PreemptMode", "GraceTime")
# At most so many names of nodes are looked up from a node.
MAX_HOSTS = 64
_ANSWER, _TOKEN = "answer.json", "token"
# Exit codes of the batch script.
_NOT_SHARED, _NO_PYTHON, _NO_CLDCTL = 20, 21, 22
# How long a file written on a node may take to appear here: attribute caches of NFS last up to a minute.
_APPEARS_LATE_S = 15.0
_JOB, _FOLDER = "a job on a node", "runs folder on a node"
_SHARE = "Put the runs on a file system that all nodes have (--runs-dir, or $CLDCTL_RUNS)."
_INSTALL = "Install it where all nodes see it."


# What Slurm says about itself, a partition or a QOS, by its own names; what it does not mention is empty.
Facts = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class FromNode:
    """What a job finds on a node.

    Attributes:
        unresolved: names of nodes that cannot be resolved there.
        own_address: what the node's own name resolves to.
        interfaces: of the network, and ``variables`` that choose among them.
    """

    host: str
    node: str | None
    python: str
    file_system: str
    unresolved: tuple[str, ...]
    own_address: str | None
    interfaces: tuple[str, ...]
    variables: Mapping[str, str]


def checks(runs: Path, asked: DoctorOptions) -> Iterator[Check]:
    """All partitions or those that were asked for, and what a small job sees from a node.

    If there is no Slurm or it does not answer, the check "slurm" fails and is the last.
    """
    answer = client.run(["scontrol", "show", "config"])
    if answer.code != 0:
        yield Check("slurm", "fail", answer.last_line, "Run this command again later, or use --cluster local.")
        return
    slurm = parse_configuration(answer.text)
    yield Check("slurm", "ok", f"{slurm['SLURM_VERSION']}, cluster {slurm['ClusterName']}")
    requeues = slurm["JobRequeue"] == "1"
    advice = "" if requeues else "Other jobs of yours need --requeue."
    yield Check("requeue", "ok", f"JobRequeue={int(requeues)}, and cldctl submits with --requeue", advice)
    yield _accounting(slurm)
    partitions = parse_partitions(client.output_of(["scontrol", "--oneliner", "show", "partition"]) or "")
    names = [partition["PartitionName"] for partition in partitions]
    chosen_names = names if asked.partition is None else asked.partition.split(",")
    missing = [name for name in chosen_names if name not in names]
    if missing or not names:
        problem = f"there is no partition {', '.join(missing)}".strip()
        yield Check("partitions", "fail", problem, f"There are: {', '.join(names) or 'none that you may see'}.")
        return
    wanted = [partition for partition in partitions if partition["PartitionName"] in chosen_names]
    for partition in wanted:
        yield from _partition(partition, partitions, slurm, asked)
    if slurm["PreemptType"] == "preempt/qos":
        yield from _by_qos(slurm, asked)
    if asked.job:
        chosen = next((partition for partition in wanted if _is_default(partition)), wanted[0])
        yield from _from_a_node(runs, chosen, asked)


def _accounting(slurm: Facts) -> Check:
    """Whether sacct can say how jobs ended."""
    fallback = "Works without: causes then come from the job's log and from squeue, as long as it remembers."
    kind = slurm["AccountingStorageType"].removeprefix("accounting_storage/")
    if kind in ("", "none"):
        return Check("accounting", "warn", "off (AccountingStorageType=none)", fallback)
    answer = client.run(["sacct", "--allocations", "--noheader", "--starttime=now-1hours"])
    if answer.code != 0:
        return Check("accounting", "warn", f"{kind}, but sacct does not answer: {answer.text.strip()}", fallback)
    return Check("accounting", "ok", f"{kind}, sacct answers")


def _partition(partition: Facts, every: Sequence[Facts], slurm: Facts, asked: DoctorOptions) -> Iterator[Check]:
    name = f"partition {partition['PartitionName']}" + (" (default)" if _is_default(partition) else "")
    if partition["State"] not in ("UP", ""):
        yield Check(name, "warn", "is not up: jobs wait", "Use another partition, or ask the administrators.")
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
        yield Check("QOS: preemption", "warn", f"sacctmgr does not say which QOS there are: {problem}", advice)
    for qos in every:
        yield on_preemption_by_qos(f"QOS {qos['Name']}: preemption", qos, every, slurm, asked.slowest_save_s)


def parse_configuration(text: str) -> Facts:
    """From the text of `scontrol show config`."""
    rows = (line.partition("=") for line in text.splitlines())
    return _facts((key.strip(), value.strip()) for key, _, value in rows)


def parse_partitions(text: str) -> list[Facts]:
    """From the text of `scontrol --oneliner show partition`, in its order."""
    lines = [_facts(client.pairs_in(line).items()) for line in text.splitlines()]
    return [partition for partition in lines if partition["PartitionName"]]


def parse_qos(text: str) -> list[Facts]:
    """From `sacctmgr --noheader --parsable2 show qos` with the columns of `QOS_COLUMNS`, in its order."""
    rows = [line.split("|") for line in text.splitlines()]
    return [_facts(zip(QOS_COLUMNS, row, strict=True)) for row in rows if len(row) == len(QOS_COLUMNS)]


def _facts(pairs: Iterable[tuple[str, str]]) -> Facts:
    return defaultdict(str, {key: "" if value in ("(null)", "N/A") else value for key, value in pairs})


def parse_duration(text: str) -> int | None:
    """Seconds of Slurm's ``[days-]hours:minutes:seconds``; None for UNLIMITED, NONE and nothing."""
    match = re.fullmatch(r"(?:([0-9]{1,9})-)?([0-9]{1,9}):([0-9]{1,9}):([0-9]{1,9})", text)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _leading_number(text: str) -> int:
    match = re.match(r"[0-9]{1,18}(?![0-9])", text)
    return int(match[0]) if match else 0


def on_preemption(name: str, partition: Facts, others: Sequence[Facts], slurm: Facts, save_s: float | None) -> Check:
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
    never = "no partition has a higher PriorityTier" if kind == "preempt/partition_prio" and is_highest else ""
    return _outcome(name, partition, slurm, save_s, never=never)


def _tier(partition: Facts) -> int:
    return _leading_number(partition["PriorityTier"] or "1")


def on_preemption_by_qos(name: str, qos: Facts, others: Sequence[Facts], slurm: Facts, save_s: float | None) -> Check:
    """What preemption does to a run of this QOS if PreemptType=preempt/qos; as `on_preemption`."""
    stronger = [other["Name"] for other in others if qos["Name"] in other["Preempt"].split(",")]
    if not stronger:
        return Check(name, "ok", "never: no QOS preempts it")
    return _outcome(name, qos, slurm, save_s, by=f"by {', '.join(stronger)}: ")


def _outcome(
    name: str, preempted: Facts, slurm: Facts, save_s: float | None, *, by: str = "", never: str = ""
) -> Check:
    """What preemption does to a run of a partition or QOS. SIGKILL comes GraceTime and then KillWait after SIGTERM.

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
        advice = "Set train.hang_timeout_s above the longest suspension, or the watchdog takes it for a hang."
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
    then = "requeued by the run itself, if it saves within GraceTime" if comes_back else "not restarted by Slurm"
    advice = f"Set cluster.successor=true: a waiting job then starts the run again. {fits.advice}".strip()
    found += f"; {then}; {fits.found}"
    return Check(name, "fail" if fits.verdict == "fail" else "warn", found, advice)


def _mode(text: str) -> str:
    """The word that counts in for example ``GANG,REQUEUE``; empty if that of the cluster does."""
    others = ("CLUSTER", "GANG", "WITHIN", "PRIORITY")
    return next((word for word in text.upper().split(",") if word not in others), "")


def save_fits(name: str, notice: float, save_s: float | None) -> Check:
    """Whether the slowest measured save, with a margin of its own length, fits into ``notice`` seconds."""
    if save_s is None:
        return Check(name, "ok", "no save was measured yet", "Run this again once a run has saved a checkpoint.")
    found = f"the slowest save took {save_s:.1f} s"
    if save_s > notice:
        advice = "A preempted run loses up to train.checkpoint_every steps: lower it, or ask for a longer GraceTime."
        return Check(name, "fail", f"{found} and does not fit", advice)
    if 2 * save_s > notice:
        advice = "Lower train.checkpoint_every, so that little is lost if a save is cut off."
        return Check(name, "warn", f"{found} and fits barely", advice)
    return Check(name, "ok", f"{found} and fits")


def at_the_limit(name: str, partition: Facts, notice_s: int) -> Check:
    """What the time limit does to a run in a partition, which is told ``notice_s`` seconds before it to stop."""
    default_s = parse_duration(partition["DefaultTime"])
    most_s = parse_duration(partition["MaxTime"])
    limit = default_s or most_s
    shown = _span(default_s) if default_s else f"the maximum, {_span(limit)}"
    found = f"SIGUSR2 {notice_s} s before, save, requeue; default limit {shown}"
    if default_s and default_s != most_s:
        found += f", at most {_span(most_s)}"
    if most_s is not None and most_s <= notice_s:
        return Check(name, "fail", found, "No job there lasts long enough to train and save. Use another partition.")
    if limit is not None and limit <= notice_s + 60:
        advice = "Set cluster.time_min: with the default limit a job is told to stop as soon as it begins."
        return Check(name, "warn", found, advice)
    return Check(name, "ok", found)


def _span(seconds: int | None) -> str:
    if seconds is None:
        return "unlimited"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _from_a_node(runs: Path, partition: Facts, asked: DoctorOptions) -> Iterator[Check]:
    """The folder, Python and names, seen from a node by a small job."""
    name = partition["PartitionName"]
    options = [f"--partition={name}", *([f"--account={asked.account}"] if asked.account else [])]
    hosts = (client.output_of(["scontrol", "show", "hostnames", partition["Nodes"]]) or "").split()[:MAX_HOSTS]
    asked.say(f"waiting for a small job on partition {name}, at most {asked.wait_s:.0f} s")
    try:
        with this_machine.scratch_folder(runs) as folder:
            yield from probe(Path(folder), hosts, options, asked.wait_s, runs)
    except OSError as error:
        yield Check(_JOB, "fail", str(error), "Fix the folder, or choose another --runs-dir.")


def probe(folder: Path, hosts: Sequence[str], options: Sequence[str], wait_s: float, runs: Path) -> Iterator[Check]:
    """Submit the job, wait at most ``wait_s`` seconds for its end, and cancel it if it has none.

    Args:
        folder: new and empty, beside ``runs``; the caller removes it.
        hosts: names that the node should resolve.
        options: of sbatch.
    """
    (folder / _TOKEN).write_text("here\n")
    command = [
        *("sbatch", "--parsable", "--job-name=cldctl-doctor", "--nodes=1", "--ntasks=1", "--time=1", "--requeue"),
        *("--output=/dev/null", *options, "--wrap", probe_script(folder, hosts)),
    ]
    submitted = client.run(command, environment={**submit.environment(), **this_machine.safe_path()})
    job_id = submitted.last_line.split(";")[0].strip()
    if submitted.away:
        yield Check(_JOB, "fail", f"slurmctld does not answer ({submitted.last_line})", "Run this command again later.")
        return
    if submitted.code != 0 or not is_count(job_id):
        advice = "Name --partition or --account, or pass --no-job."
        yield Check(_JOB, "fail", f"sbatch: {submitted.last_line}", advice)
        return
    try:
        job, answer = _wait(folder, job_id, wait_s)
    finally:
        try:
            client.cancel([job_id])
        except (SchedulerRefused, SchedulerAway) as error:
            print(f"job {job_id}: {error}", file=sys.stderr, flush=True)
    if answer is None:
        yield _without_an_answer(f"job {job_id}", job, runs)
        return
    yield Check(_JOB, "ok", f"job {job_id} ran on {answer.node or answer.host}, Python {answer.python}")
    # A node that is this machine proves nothing about the others.
    here = ", but that node is this machine" if answer.host == platform.node() else ""
    yield Check(_FOLDER, "ok", f"seen and written there ({answer.file_system}){here}")
    yield _names(answer.unresolved, len(hosts))
    if len(hosts) > 1:
        yield _own_name(answer.host, answer.own_address)
    for variable, value in answer.variables.items():
        yield _interface(variable, value, answer.interfaces)
    yield _requeueable(job)


def probe_script(folder: Path, hosts: Sequence[str]) -> str:
    """The shell lines that the job runs."""
    python = this_machine.python_command()
    token, words = shlex.quote(str(folder / _TOKEN)), shlex.join([str(folder), *hosts])
    return (
        f"test -e {token} || exit {_NOT_SHARED}\n"
        f"{python} -c pass || exit {_NO_PYTHON}\n"
        f"{python} -m {__name__} {words} || exit {_NO_CLDCTL}\n"
    )


def _wait(folder: Path, job_id: str, wait_s: float) -> tuple[dict[str, str], FromNode | None]:
    """The job's `scontrol show job` once it is over or the time is up, and its answer if there is one."""
    deadline = time.monotonic() + wait_s
    is_over = False
    job: dict[str, str] = {}
    while (answer := find_record(FromNode, folder / _ANSWER)) is None and time.monotonic() < deadline:
        if not is_over:
            job = client.show_job(job_id) or job
            is_over = poll.seen_of(job.get("JobState", "")).is_gone
            if is_over:
                deadline = time.monotonic() + (_APPEARS_LATE_S if job["JobState"] == "COMPLETED" else 0.0)
        time.sleep(0.3)
    return (job if answer is None else client.show_job(job_id) or job), answer


def _without_an_answer(name: str, job: Mapping[str, str], runs: Path) -> Check:
    state, code = job.get("JobState", ""), job.get("ExitCode", "").split(":")[0]
    if not poll.seen_of(state).is_gone:
        reason = job.get("Reason", "no answer from slurmctld")
        return Check(_JOB, "warn", f"{name} did not run ({reason})", "Wait longer: --wait SECONDS.")
    if state == "COMPLETED":
        return Check(_FOLDER, "fail", f"what {name} wrote is not seen here", _SHARE)
    known = {
        str(_NOT_SHARED): Check(_FOLDER, "fail", f"{name} does not see {runs.absolute()}", _SHARE),
        str(_NO_PYTHON): Check(_JOB, "fail", f"{name} has no {sys.executable}", _INSTALL),
        str(_NO_CLDCTL): Check(_JOB, "fail", f"{name} cannot load cldctl", _INSTALL),
    }
    found = f"{name}: {state}, exit code {code}"
    return known.get(code) or Check(_JOB, "fail", found, "Ask the administrators, or pass --no-job.")


def _names(unresolved: Sequence[str], count: int) -> Check:
    if unresolved:
        shown = ", ".join(unresolved[:5]) + (" ..." if len(unresolved) > 5 else "")
        advice = "Jobs of several nodes cannot meet there; ask the administrators, or use cluster.nodes=1."
        return Check("MASTER_ADDR", "fail", f"names that a node cannot resolve: {shown}", advice)
    return Check("MASTER_ADDR", "ok", f"the names of {count} nodes resolve there")


def _own_name(host: str, address: str | None) -> Check:
    """Whether gloo, left to itself, would listen where other nodes can reach it."""
    if address is not None and not rendezvous.is_loopback(address):
        return Check("own name of a node", "ok", f"{host} is {address} there")
    problem = "does not resolve there" if address is None else f"is {address} there, which no other node can reach"
    advice = f"cldctl has gloo use the interface that leads to the other nodes; {rendezvous.GLOO} names another one."
    return Check("own name of a node", "warn", f"{host} {problem}", advice)


def _interface(variable: str, value: str, interfaces: Sequence[str]) -> Check:
    """Whether a variable that chooses interfaces fits those of a node."""
    if variable == rendezvous.NCCL:
        absent = [] if _usable_by_nccl(value, interfaces) else [value]
    else:
        absent = [name for name in value.split(",") if name not in interfaces]
    if not absent:
        return Check(variable, "ok", f"{value}, which that node has")
    problem = f"{', '.join(absent)}: that node has only {', '.join(interfaces)}"
    return Check(variable, "fail", problem, "Jobs of several ranks cannot start there; unset it, or name one of these.")


def _usable_by_nccl(value: str, interfaces: Sequence[str]) -> list[str]:
    """The interfaces that NCCL_SOCKET_IFNAME admits: prefixes; after "=", whole names; after "^", all but those."""
    names = value.removeprefix("^")
    wanted = names.removeprefix("=").split(",")
    exact, excluded = names.startswith("="), value.startswith("^")

    def named(interface: str) -> bool:
        return interface in wanted if exact else interface.startswith(tuple(wanted))

    return [interface for interface in interfaces if named(interface) is not excluded]


def _requeueable(job: Mapping[str, str]) -> Check:
    if job.get("Requeue", "1") == "1":
        return Check("--requeue", "ok", "accepted")
    advice = "A job that is preempted or loses a node does not come back; set cluster.successor=true."
    return Check("--requeue", "fail", "this cluster drops it", advice)


def main() -> int:
    folder, hosts = Path(sys.argv[1]), sys.argv[2:]
    answer = FromNode(
        host=socket.gethostname(),
        node=os.environ.get("SLURMD_NODENAME"),
        python=platform.python_version(),
        file_system=this_machine.file_system_of(folder)[0],
        unresolved=tuple(host for host in hosts if rendezvous.address_of(host) is None),
        own_address=rendezvous.address_of(socket.gethostname()),
        interfaces=tuple(rendezvous.interfaces()),
        variables={name: os.environ[name] for name in (rendezvous.GLOO, rendezvous.NCCL) if name in os.environ},
    )
    write_json(folder / _ANSWER, to_plain(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
