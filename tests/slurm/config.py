"""The text of every configuration file of the test cluster (pure: no process, no file)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NODES = ("n1", "n2", "n3", "n4")
CPUS_PER_NODE = 2
GPUS_PER_NODE = 2
CLUSTER_NAME = "cldtest"

# A requeued job may not start before this many seconds have passed (Slurm's own default: 120).
CRED_EXPIRE_S = 5


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What tests switch in a running cluster. Times are in seconds."""

    user_signal: bool = False
    """Preemption sends a job's own `--signal` immediately (SlurmctldParameters=preempt_send_user_signal)."""
    grace_time: int = 10
    """GraceTime of the partitions `low` and `cancel`; `low0` always has 0."""
    requeue: bool = True
    """JobRequeue: whether a job that says neither --requeue nor --no-requeue is requeued."""
    kill_wait: int = 5
    """KillWait: from SIGTERM to SIGKILL at the time limit, at scancel, and at the end of GraceTime."""
    accounting: bool = True
    """False hides slurmdbd: sacct says that accounting is disabled, as on a cluster without it."""

    def __post_init__(self) -> None:
        assert self.grace_time >= 0, f"grace_time must be >= 0 seconds, got {self.grace_time}"
        assert self.kill_wait >= 1, f"kill_wait must be >= 1 second, got {self.kill_wait}"


@dataclass(frozen=True, kw_only=True)
class Ports:
    """TCP ports of one cluster, all on 127.0.0.1."""

    controller: int
    accounting: int
    database: int
    nodes: tuple[int, ...]


def slurm_conf(root: Path, host: str, ports: Ports, settings: Settings) -> str:
    """slurm.conf of the cluster in `root` on the machine with the short name `host`."""
    socket = root / "munge.socket"
    lines = [
        f"ClusterName={CLUSTER_NAME}",
        f"SlurmctldHost={host}(127.0.0.1)",
        f"SlurmctldPort={ports.controller}",
        "SlurmUser=root",
        "SlurmdUser=root",
        "AuthType=auth/munge",
        "CredType=cred/munge",
        f"AuthInfo=socket={socket},cred_expire={CRED_EXPIRE_S}",
        f"StateSaveLocation={root}/state",
        f"SlurmdSpoolDir={root}/spool/%n",
        f"SlurmctldPidFile={root}/run/slurmctld.pid",
        f"SlurmdPidFile={root}/run/slurmd.%n.pid",
        f"SlurmctldLogFile={root}/log/slurmctld.log",
        f"SlurmdLogFile={root}/log/slurmd.%n.log",
        "MailProg=/bin/true",
        "MpiDefault=none",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "JobAcctGatherType=jobacct_gather/linux",
        # Kill a job that uses more memory than it asked for; without cgroups nothing else does.
        "JobAcctGatherParams=OverMemoryKill",
        "JobAcctGatherFrequency=task=1",
        # The nodes' sizes below are made up; do not compare them with this machine.
        "SlurmdParameters=config_overrides",
        # Not 2: then a late answer, sent before a node was killed, would bring the dead node back to service.
        "ReturnToService=1",
        "SlurmdTimeout=30",
        f"KillWait={settings.kill_wait}",
        f"JobRequeue={int(settings.requeue)}",
        # squeue and scontrol remember every job of a test run.
        "MinJobAge=3600",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core_Memory",
        "DefMemPerCPU=900",
        "SchedulerType=sched/backfill",
        "SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1",
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
        # Slurm does not accept an empty list.
        *(["SlurmctldParameters=preempt_send_user_signal"] if settings.user_signal else []),
        "GresTypes=gpu",
        *_accounting_lines(root, ports, settings),
        *(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS_PER_NODE}"
            f" RealMemory=4000 Gres=gpu:{GPUS_PER_NODE} State=UNKNOWN"
            for node, port in zip(NODES, ports.nodes, strict=True)
        ),
        *_partition_lines(settings),
    ]
    return "\n".join(lines) + "\n"


def _accounting_lines(root: Path, ports: Ports, settings: Settings) -> list[str]:
    if not settings.accounting:
        return ["AccountingStorageType=accounting_storage/none"]
    return [
        "AccountingStorageType=accounting_storage/slurmdbd",
        "AccountingStorageHost=127.0.0.1",
        f"AccountingStoragePort={ports.accounting}",
        # Without it sacct and sacctmgr look for the system's munge socket.
        f"AccountingStoragePass={root}/munge.socket",
    ]


def _partition_lines(settings: Settings) -> list[str]:
    everywhere = f"Nodes={','.join(NODES)} State=UP MaxTime=INFINITE"
    grace = settings.grace_time
    return [
        f"PartitionName=low {everywhere} Default=YES DefaultTime=60 PriorityTier=1"
        f" PreemptMode=REQUEUE GraceTime={grace}",
        f"PartitionName=low0 {everywhere} DefaultTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime=0",
        f"PartitionName=cancel {everywhere} DefaultTime=60 PriorityTier=1 PreemptMode=CANCEL GraceTime={grace}",
        f"PartitionName=short {everywhere} DefaultTime=1 PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}",
        f"PartitionName=high {everywhere} DefaultTime=60 PriorityTier=10 PreemptMode=OFF",
    ]


def slurmdbd_conf(root: Path, host: str, ports: Ports) -> str:
    """slurmdbd.conf; Slurm wants the file with mode 600."""
    return f"""\
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={ports.accounting}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={ports.database}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
LogFile={root}/log/slurmdbd.log
PidFile={root}/run/slurmdbd.pid
"""


def gpu_files(root: Path) -> list[Path]:
    """The devices that stand for a node's GPUs (Slurm ignores a GPU without one); links to /dev/null do."""
    return [root / "gpu" / f"gpu{index}" for index in range(GPUS_PER_NODE)]


def gres_conf(root: Path) -> str:
    """GPUs that are counted and assigned (CUDA_VISIBLE_DEVICES), but do not exist."""
    return "".join(f"NodeName={','.join(NODES)} Name=gpu File={file}\n" for file in gpu_files(root))


def cgroup_conf() -> str:
    """Containers and CI machines often have no writable cgroup tree."""
    return "CgroupPlugin=disabled\n"
