"""How a Slurm is set up, read from scontrol, and what follows from it for a run. Pure: asks nobody."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

QOS_COLUMNS = ("Name", "Preempt", "PreemptMode", "GraceTime")


@dataclass(frozen=True)
class Site:
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
    """What `sacctmgr show qos` says that matters to a run where QOS preempt each other."""

    name: str
    preempts: tuple[str, ...]
    preempt_mode: str
    grace_s: int


@dataclass(frozen=True)
class Judgement:
    """``verdict`` is ok, warn or fail."""

    verdict: str
    found: str
    advice: str = ""


def parse_site(text: str) -> Site:
    """From the text of `scontrol show config`; what is absent counts as off."""
    pairs = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in text.splitlines())}
    return Site(
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
    found = []
    for line in text.splitlines():
        pairs = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if "PartitionName" not in pairs:
            continue
        found.append(
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
        )
    return found


def parse_duration(text: str) -> int | None:
    """Seconds of Slurm's ``[days-]hours:minutes:seconds``; None for UNLIMITED and NONE."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
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


def on_preemption(partition: Partition, others: Sequence[Partition], site: Site, save_s: float | None) -> Judgement:
    """What preemption does to a run there. ``save_s``: the slowest save that was measured, None before the first."""
    if site.preempt_type in ("", "none"):
        return Judgement("ok", "never: preemption is off on this cluster")
    if site.preempt_type == "qos":
        return Judgement("ok", "by QOS, whatever the partition says: see the lines of the QOS")
    mode = _mode(partition.preempt_mode, site.preempt_mode)
    if mode in ("OFF", ""):
        return Judgement("ok", "never: PreemptMode=OFF")
    if site.preempt_type == "partition_prio" and not any(other.tier > partition.tier for other in others):
        return Judgement("ok", "never: no partition has a higher PriorityTier")
    return _outcome(mode, partition.grace_s, site, save_s)


def on_preemption_by_qos(qos: Qos, others: Sequence[Qos], site: Site, save_s: float | None) -> Judgement:
    """What preemption does to a run of this QOS where PreemptType=preempt/qos; as `on_preemption`."""
    stronger = [other.name for other in others if qos.name in other.preempts]
    mode = _mode(qos.preempt_mode, site.preempt_mode)
    if not stronger or mode in ("OFF", ""):
        return Judgement("ok", "never: " + ("PreemptMode=OFF" if stronger else "no QOS preempts it"))
    judged = _outcome(mode, qos.grace_s, site, save_s)
    return replace(judged, found=f"by {', '.join(stronger)}: {judged.found}")


def _outcome(mode: str, grace_s: int, site: Site, save_s: float | None) -> Judgement:
    """What a preemption of this mode does. SIGKILL comes GraceTime and then KillWait after SIGTERM, or later."""
    if mode == "SUSPEND":
        advice = "Set train.hang_timeout_s above the longest suspension, or the watchdog takes it for a hang."
        return Judgement("warn", "SUSPEND: frozen in memory, continued later", advice)
    notice = grace_s + site.kill_wait_s
    found = f"{mode}: {_first_signals(grace_s, site)}, SIGKILL after {notice} s or more"
    fits = save_fits(notice, save_s)
    if mode != "REQUEUE":
        comes_back = site.user_signal and grace_s > 0
        then = "requeued by the run itself, if it saves within GraceTime" if comes_back else "not brought back by Slurm"
        advice = "Set cluster.successor=true: a waiting job then brings the run back."
        worst = "fail" if fits.verdict == "fail" else "warn"
        return Judgement(worst, f"{found}; {then}; {fits.found}", " ".join(filter(None, (advice, fits.advice))))
    return Judgement(fits.verdict, f"{found}; requeued by Slurm; {fits.found}", fits.advice)


def save_fits(notice: float, save_s: float | None) -> Judgement:
    """Whether the slowest measured save, with a margin of its own length, fits into ``notice`` seconds."""
    if save_s is None:
        return Judgement("ok", "no save was measured yet", "Ask again once a run has saved a checkpoint.")
    found = f"the slowest save took {save_s:.1f} s"
    if save_s > notice:
        advice = "A preempted run loses up to train.checkpoint_every steps: lower it, or ask for a longer GraceTime."
        return Judgement("fail", f"{found} and does not fit", advice)
    if 2 * save_s > notice:
        advice = "Lower train.checkpoint_every, so that little is lost if a save is cut off."
        return Judgement("warn", f"{found} and fits barely", advice)
    return Judgement("ok", f"{found} and fits")


def at_the_limit(partition: Partition, signal_s: int) -> Judgement:
    """What the time limit does to a run there; ``signal_s``: how long before it a run is told to stop."""
    limit = partition.default_time_s or partition.max_time_s
    shown = _span(partition.default_time_s) if partition.default_time_s else f"the maximum, {_span(limit)}"
    found = f"SIGUSR2 {signal_s} s before, save, requeue; default limit {shown}"
    if partition.default_time_s and partition.default_time_s != partition.max_time_s:
        found += f", at most {_span(partition.max_time_s)}"
    if partition.max_time_s is not None and partition.max_time_s <= signal_s:
        return Judgement("fail", found, "No job there lasts long enough to train and save. Use another partition.")
    if limit is not None and limit <= signal_s + 60:
        advice = "Set cluster.time_min: with the default limit a job is told to stop as soon as it begins."
        return Judgement("warn", found, advice)
    return Judgement("ok", found)


def requeueing(site: Site) -> Judgement:
    """Whether jobs may be requeued."""
    if site.job_requeue:
        return Judgement("ok", "JobRequeue=1, and cldctl submits with --requeue")
    return Judgement("ok", "JobRequeue=0, but cldctl submits with --requeue", "Other jobs of yours need --requeue.")


def accounting(site: Site, sacct_answers: bool, said: str) -> Judgement:
    """Whether sacct can say how jobs ended."""
    fallback = "Works without: causes then come from the job's log and from squeue, as long as it remembers."
    if site.accounting in ("", "none"):
        return Judgement("warn", "off (AccountingStorageType=none)", fallback)
    if not sacct_answers:
        return Judgement("warn", f"{site.accounting}, but sacct does not answer: {said}", fallback)
    return Judgement("ok", f"{site.accounting}, sacct answers")


def _first_signals(grace_s: int, site: Site) -> str:
    if not site.user_signal:
        return "SIGTERM at once"
    if grace_s == 0:
        return "SIGUSR2 and SIGTERM at once"
    return f"SIGUSR2 at once, SIGTERM after {grace_s} s"


def _mode(own: str, clusters: str) -> str:
    """The word that counts in for example ``GANG,REQUEUE``; the cluster's where partition or QOS has none."""
    for text in (own, clusters):
        words = [word for word in text.split(",") if word not in ("", "CLUSTER", "GANG", "WITHIN", "PRIORITY")]
        if words:
            return words[0]
    return ""


def _word(pairs: Mapping[str, str], key: str) -> str:
    value = pairs.get(key, "")
    return "" if value in ("(null)", "N/A") else value


def _leading_number(text: str) -> int:
    match = re.match(r"\d+", text)
    return int(match[0]) if match else 0


def _span(seconds: int | None) -> str:
    if seconds is None:
        return "unlimited"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
