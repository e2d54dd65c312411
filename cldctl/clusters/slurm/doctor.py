"""Whether a Slurm is fit for runs: its part of `cldctl doctor`."""

import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cld_core import rendezvous
from cldctl.clusters import this_machine
from cldctl.clusters.records import Check, DoctorOptions, MeasuredSaves

from . import client, configuration, node_probe, preemption
from .configuration import Configuration, Partition
from .node_probe import Probe

# At most so many names of nodes are looked up from a node.
MAX_HOSTS = 64
_SHARE = "Put the runs on a file system that all nodes have (--runs-dir, or $CLDCTL_RUNS)."
_INSTALL = "Install it where all nodes see it."


def checks(runs: Path, asked: DoctorOptions, saves: MeasuredSaves) -> Iterator[Check]:
    """All partitions or the one that was asked for, and what a small job sees from a node.

    If there is no Slurm or it does not answer, the check "slurm" fails and is the last.
    """
    answer = client.run(["scontrol", "show", "config"])
    if answer.code != 0:
        yield Check("slurm", "fail", answer.last_line, "Run this command again later, or use --cluster local.")
        return
    slurm = configuration.parse_configuration(answer.text)
    yield Check("slurm", "ok", f"{slurm.version}, cluster {slurm.cluster}")
    yield preemption.requeueing("requeue", slurm)
    answer = client.run(["sacct", "--allocations", "--noheader", "--starttime=now-1hours"])
    yield preemption.accounting("accounting", slurm, answer.code == 0, answer.text.strip())
    partitions = configuration.parse_partitions(client.output_of(["scontrol", "--oneliner", "show", "partition"]) or "")
    wanted = [partition for partition in partitions if asked.partition in (None, partition.name)]
    if not wanted:
        others = ", ".join(partition.name for partition in partitions) or "none that you may see"
        problem = f"there is no partition {asked.partition or ''}".strip()
        yield Check("partitions", "fail", problem, f"There are: {others}.")
        return
    for partition in wanted:
        yield from _partition(partition, partitions, slurm, saves)
    if slurm.preempt_type == "qos":
        yield from _by_qos(slurm, saves)
    if asked.job:
        chosen = next((partition for partition in wanted if partition.default), wanted[0])
        yield from _from_a_node(runs, chosen, asked)


def _partition(
    partition: Partition, every: Sequence[Partition], slurm: Configuration, saves: MeasuredSaves
) -> Iterator[Check]:
    name = f"partition {partition.name}" + (" (default)" if partition.default else "")
    if not partition.up:
        yield Check(name, "warn", "is not up: jobs wait", "Use another partition, or ask the administrators.")
    yield preemption.on_preemption(f"{name}: preemption", partition, every, slurm, saves.slowest_s)
    yield preemption.at_the_limit(f"{name}: time limit", partition, saves.notice_s)


def _by_qos(slurm: Configuration, saves: MeasuredSaves) -> Iterator[Check]:
    columns = f"format={','.join(configuration.QOS_COLUMNS)}"
    answer = client.run(["sacctmgr", "--noheader", "--parsable2", "show", "qos", columns])
    every = configuration.parse_qos(answer.text) if answer.code == 0 else []
    if not every:
        problem = answer.last_line if answer.text.strip() else "it lists none"
        advice = "Ask the administrators which QOS preempts yours, and for its GraceTime."
        yield Check("QOS: preemption", "warn", f"sacctmgr does not say which QOS there are: {problem}", advice)
    for qos in every:
        yield preemption.on_preemption_by_qos(f"QOS {qos.name}: preemption", qos, every, slurm, saves.slowest_s)


def _from_a_node(runs: Path, partition: Partition, asked: DoctorOptions) -> Iterator[Check]:
    """The folder, Python and names, seen from a node by a small job."""
    options = [f"--partition={partition.name}", *([f"--account={asked.account}"] if asked.account else [])]
    hosts = (client.output_of(["scontrol", "show", "hostnames", partition.nodes]) or "").split()[:MAX_HOSTS]
    asked.say(f"waiting for a small job on partition {partition.name}, at most {asked.wait_s:.0f} s")
    try:
        with this_machine.scratch_folder(runs) as folder:
            probe = node_probe.probe(Path(folder), hosts, options, asked.wait_s)
    except OSError as error:
        yield Check("a job on a node", "fail", str(error), "Fix the folder, or choose another --runs-dir.")
        return
    if probe.outcome == "answered":
        yield from _answered(probe, len(hosts))
    else:
        yield _without_an_answer(probe, runs)


def _answered(probe: Probe, hosts: int) -> Iterator[Check]:
    answer = probe.answer
    node = answer["node"] or answer["host"]
    yield Check("a job on a node", "ok", f"job {probe.job_id} ran on {node}, Python {answer['python']}")
    # A node that is this machine proves nothing about the others.
    here = ", but that node is this machine" if answer["host"] == platform.node() else ""
    yield Check("runs folder on a node", "ok", f"seen and written there ({answer['file_system']}){here}")
    yield _names(answer["unresolved"], hosts)
    if hosts > 1:
        yield _own_name(answer["host"], answer["own_address"])
    for variable, value in answer["variables"].items():
        yield _interface(variable, value, answer["interfaces"])
    yield _requeueable(probe.job)


def _without_an_answer(probe: Probe, runs: Path) -> Check:
    name, job = "a job on a node", f"job {probe.job_id}"
    match probe.outcome:
        case "refused":
            return Check(name, "fail", f"sbatch: {probe.message}", "Name --partition or --account, or pass --no-job.")
        case "away":
            return Check(name, "fail", f"slurmctld does not answer ({probe.message})", "Run this command again later.")
        case "waiting":
            return Check(name, "warn", f"{job} did not run ({probe.message})", "Wait longer: --wait SECONDS.")
        case "not_shared":
            return Check("runs folder on a node", "fail", f"{job} does not see {runs.absolute()}", _SHARE)
        case "unseen":
            return Check("runs folder on a node", "fail", f"what {job} wrote is not seen here", _SHARE)
        case "no_python":
            return Check(name, "fail", f"{job} has no {sys.executable}", _INSTALL)
        case "no_cldctl":
            return Check(name, "fail", f"{job} cannot load cldctl", _INSTALL)
        case _:
            return Check(name, "fail", f"{job}: {probe.message}", "Ask the administrators, or pass --no-job.")


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


def _requeueable(job: dict[str, str]) -> Check:
    if job.get("Requeue", "1") == "1":
        return Check("--requeue", "ok", "accepted")
    advice = "A job that is preempted or loses a node does not come back; set cluster.successor=true."
    return Check("--requeue", "fail", "this cluster drops it", advice)
