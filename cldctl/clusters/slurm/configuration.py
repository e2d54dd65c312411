"""How a Slurm is set up, from what scontrol and sacctmgr say, and what that means for a run. Pure: asks nobody."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cldctl.clusters.records import Check

QOS_COLUMNS = ("Name", "Preempt", "PreemptMode", "GraceTime")


@dataclass(frozen=True)
class Configuration:
    """What `scontrol show config` says that matters to a run; times in seconds."""

    version: str
    cluster: str
    preempt_type: str
    preempt_mode: str
    user_signal: bool
    kill_wait_s: int
    job_requeue: bool
    accounting: str


@dataclass(frozen=True)
class Partition:
    """What `scontrol show partition` says that matters to a run; times in seconds, None for no limit or default."""

    name: str
    default: bool
    up: bool
    nodes: str
    tier: int
    preempt_mode: str
    grace_s: int
    default_time_s: int | None
    max_time_s: int | None


@dataclass(frozen=True)
class Qos:
    """What `sacctmgr show qos` says that matters to a run if QOS preempt each other."""

    name: str
    preempts: tuple[str, ...]
    preempt_mode: str
    grace_s: int


def parse_configuration(text: str) -> Configuration:
    """From the text of `scontrol show config`; what it does not mention counts as off."""
    pairs = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in text.splitlines())}
    return Configuration(
        version=_word(pairs, "SLURM_VERSION"),
        cluster=_word(pairs, "ClusterName"),
        preempt_type=_word(pairs, "PreemptType").removeprefix("preempt/"),
        preempt_mode=_word(pairs, "PreemptMode").upper(),
        user_signal="preempt_send_user_signal" in _word(pairs, "SlurmctldParameters").split(","),
        kill_wait_s=_leading_number(pairs.get("KillWait", "")),
        job_requeue=_leading_number(pairs.get("JobRequeue", "")) == 1,
        accounting=_word(pairs, "AccountingStorageType").removeprefix("accounting_storage/"),
    )


def parse_partitions(text: str) -> list[Partition]:
    """From the text of `scontrol --oneliner show partition`, in its order."""
    lines = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in text.splitlines()]
    return [
        Partition(
            name=pairs["PartitionName"],
            default=pairs.get("Default") == "YES",
            up=pairs.get("State", "UP") == "UP",
            nodes=_word(pairs, "Nodes"),
            tier=_leading_number(pairs.get("PriorityTier", "1")),
            preempt_mode=_word(pairs, "PreemptMode").upper(),
            grace_s=_leading_number(pairs.get("GraceTime", "0")),
            default_time_s=parse_duration(pairs.get("DefaultTime", "NONE")),
            max_time_s=parse_duration(pairs.get("MaxTime", "UNLIMITED")),
        )
        for pairs in lines
        if "PartitionName" in pairs
    ]


def parse_duration(text: str) -> int | None:
    """Seconds of Slurm's ``[days-]hours:minutes:seconds``; None for UNLIMITED and NONE."""
    match = re.fullmatch(r"(?:([0-9]{1,9})-)?([0-9]{1,9}):([0-9]{1,9}):([0-9]{1,9})", text)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def parse_qos(text: str) -> list[Qos]:
    """From `sacctmgr --noheader --parsable2 show qos` with the columns of `QOS_COLUMNS`, in its order."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == len(QOS_COLUMNS) - 1]
    return [
        Qos(name, tuple(filter(None, preempts.split(","))), mode.upper(), parse_duration(grace) or 0)
        for name, preempts, mode, grace in rows
    ]


def _word(pairs: Mapping[str, str], key: str) -> str:
    value = pairs.get(key, "")
    return "" if value in ("(null)", "N/A") else value


def _leading_number(text: str) -> int:
    match = re.match(r"[0-9]{1,18}(?![0-9])", text)
    return int(match[0]) if match else 0


def on_preemption(
    name: str, partition: Partition, others: Sequence[Partition], slurm: Configuration, save_s: float | None
) -> Check:
    """What preemption does to a run in a partition.

    Args:
        save_s: seconds of the slowest save that was measured, None before the first.
    """
    if slurm.preempt_type in ("", "none"):
        return Check(name, "ok", "never: preemption is off on this cluster")
    if slurm.preempt_type == "qos":
        return Check(name, "ok", "by QOS, whatever the partition says: see the lines of the QOS")
    mode = _mode(partition.preempt_mode, slurm.preempt_mode)
    if mode in ("OFF", ""):
        return Check(name, "ok", "never: PreemptMode=OFF")
    if slurm.preempt_type == "partition_prio" and not any(other.tier > partition.tier for other in others):
        return Check(name, "ok", "never: no partition has a higher PriorityTier")
    return _outcome(name, mode, partition.grace_s, slurm, save_s)


def on_preemption_by_qos(
    name: str, qos: Qos, others: Sequence[Qos], slurm: Configuration, save_s: float | None
) -> Check:
    """What preemption does to a run of this QOS if PreemptType=preempt/qos; as `on_preemption`."""
    stronger = [other.name for other in others if qos.name in other.preempts]
    mode = _mode(qos.preempt_mode, slurm.preempt_mode)
    if not stronger or mode in ("OFF", ""):
        return Check(name, "ok", "never: " + ("PreemptMode=OFF" if stronger else "no QOS preempts it"))
    judged = _outcome(name, mode, qos.grace_s, slurm, save_s)
    return replace(judged, found=f"by {', '.join(stronger)}: {judged.found}")


def _outcome(name: str, mode: str, grace_s: int, slurm: Configuration, save_s: float | None) -> Check:
    """What a preemption of this mode does. SIGKILL comes GraceTime and then KillWait after SIGTERM, or later."""
    if mode == "SUSPEND":
        advice = "Set train.hang_timeout_s above the longest suspension, or the watchdog takes it for a hang."
        return Check(name, "warn", "SUSPEND: frozen in memory, continued later", advice)
    notice = grace_s + slurm.kill_wait_s
    found = f"{mode}: {_first_signals(grace_s, slurm)}, SIGKILL after {notice} s or more"
    fits = save_fits(name, notice, save_s)
    if mode != "REQUEUE":
        comes_back = slurm.user_signal and grace_s > 0
        then = "requeued by the run itself, if it saves within GraceTime" if comes_back else "not restarted by Slurm"
        advice = "Set cluster.successor=true: a waiting job then starts the run again."
        return replace(
            fits,
            verdict="fail" if fits.verdict == "fail" else "warn",
            found=f"{found}; {then}; {fits.found}",
            advice=f"{advice} {fits.advice}".strip(),
        )
    return replace(fits, found=f"{found}; requeued by Slurm; {fits.found}")


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


def at_the_limit(name: str, partition: Partition, notice_s: int) -> Check:
    """What the time limit does to a run in a partition, which is told ``notice_s`` seconds before it to stop."""
    limit = partition.default_time_s or partition.max_time_s
    shown = _span(partition.default_time_s) if partition.default_time_s else f"the maximum, {_span(limit)}"
    found = f"SIGUSR2 {notice_s} s before, save, requeue; default limit {shown}"
    if partition.default_time_s and partition.default_time_s != partition.max_time_s:
        found += f", at most {_span(partition.max_time_s)}"
    if partition.max_time_s is not None and partition.max_time_s <= notice_s:
        return Check(name, "fail", found, "No job there lasts long enough to train and save. Use another partition.")
    if limit is not None and limit <= notice_s + 60:
        advice = "Set cluster.time_min: with the default limit a job is told to stop as soon as it begins."
        return Check(name, "warn", found, advice)
    return Check(name, "ok", found)


def accounting(name: str, slurm: Configuration, sacct_answers: bool, said: str) -> Check:
    """Whether sacct can say how jobs ended."""
    fallback = "Works without: causes then come from the job's log and from squeue, as long as it remembers."
    if slurm.accounting in ("", "none"):
        return Check(name, "warn", "off (AccountingStorageType=none)", fallback)
    if not sacct_answers:
        return Check(name, "warn", f"{slurm.accounting}, but sacct does not answer: {said}", fallback)
    return Check(name, "ok", f"{slurm.accounting}, sacct answers")


def _first_signals(grace_s: int, slurm: Configuration) -> str:
    if not slurm.user_signal:
        return "SIGTERM at once"
    if grace_s == 0:
        return "SIGUSR2 and SIGTERM at once"
    return f"SIGUSR2 at once, SIGTERM after {grace_s} s"


def _mode(own: str, clusters: str) -> str:
    """The word that counts in for example ``GANG,REQUEUE``; the cluster's if partition or QOS has none."""
    for text in (own, clusters):
        words = [word for word in text.split(",") if word not in ("", "CLUSTER", "GANG", "WITHIN", "PRIORITY")]
        if words:
            return words[0]
    return ""


def _span(seconds: int | None) -> str:
    if seconds is None:
        return "unlimited"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
