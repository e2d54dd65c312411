"""How a Slurm is set up: what scontrol and sacctmgr say, parsed. Pure: asks nobody."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

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
    partitions = []
    for line in text.splitlines():
        pairs = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if "PartitionName" not in pairs:
            continue
        partitions.append(
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
    return partitions


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
