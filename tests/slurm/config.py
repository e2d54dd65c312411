"""The text of every configuration file of the test cluster (pure: no process, no file)."""

from dataclasses import dataclass

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
    """Preemption sends a job's own `--signal` immediately (preempt_send_user_signal)."""
    grace_time: int = 10
    """GraceTime of the partitions `low` and `cancel`; `low0` always has 0."""
    requeue: bool = True
    """JobRequeue: whether a job that says neither --requeue nor --no-requeue is requeued."""
    kill_wait: int = 5
    """KillWait: from SIGTERM to SIGKILL at the time limit, scancel, and the end of GraceTime."""
    accounting: bool = True
    """False hides slurmdbd: sacct says that accounting is disabled, as on a cluster without it."""
    enforce: bool = False
    """Accounts and the limits of QOS are enforced (AccountingStorageEnforce=limits,qos)."""
    array_size: int = 1001
    """MaxArraySize: as many tasks an array may have."""


def files(root, host, ports, settings):
    """The files of the cluster in `root` on the machine with the short name `host`, by their names.

    ports: of the controller, the accounting, the database and each node, all on 127.0.0.1.
    """
    controller, accounting, database, *nodes = ports
    return {
        "slurm.conf": slurm_conf(root, host, controller, accounting, nodes, settings),
        "slurmdbd.conf": slurmdbd_conf(root, host, accounting, database),
        # GPUs that are counted and assigned (CUDA_VISIBLE_DEVICES), but do not exist.
        "gres.conf": "".join(
            f"NodeName={','.join(NODES)} Name=gpu File={file}\n" for file in gpu_files(root)
        ),
        # Containers and CI machines often have no writable cgroup tree.
        "cgroup.conf": "CgroupPlugin=disabled\n",
    }


def slurm_conf(root, host, controller, accounting, nodes, settings):
    lines = [
        f"ClusterName={CLUSTER_NAME}",
        f"SlurmctldHost={host}(127.0.0.1)",
        f"SlurmctldPort={controller}",
        "SlurmUser=root",
        "SlurmdUser=root",
        "AuthType=auth/munge",
        "CredType=cred/munge",
        f"AuthInfo=socket={root}/munge.socket,cred_expire={CRED_EXPIRE_S}",
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
        # Not 2: then a late answer, sent before a node was killed, would bring the dead node back
        # to service.
        "ReturnToService=1",
        "SlurmdTimeout=30",
        f"KillWait={settings.kill_wait}",
        f"JobRequeue={int(settings.requeue)}",
        f"MaxArraySize={settings.array_size}",
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
    ]
    if settings.accounting:
        lines += [
            "AccountingStorageType=accounting_storage/slurmdbd",
            "AccountingStorageHost=127.0.0.1",
            f"AccountingStoragePort={accounting}",
            # Without it sacct and sacctmgr look for the system's munge socket.
            f"AccountingStoragePass={root}/munge.socket",
        ]
    else:
        lines.append("AccountingStorageType=accounting_storage/none")
    if settings.enforce:
        lines.append("AccountingStorageEnforce=limits,qos")
    lines += [
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS_PER_NODE}"
        f" RealMemory=4000 Gres=gpu:{GPUS_PER_NODE} State=UNKNOWN"
        for node, port in zip(NODES, nodes, strict=True)
    ]
    grace = settings.grace_time
    for name, keys in {
        "low": f"Default=YES DefaultTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}",
        "low0": "DefaultTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime=0",
        "cancel": f"DefaultTime=60 PriorityTier=1 PreemptMode=CANCEL GraceTime={grace}",
        "short": f"DefaultTime=1 PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}",
        "high": "DefaultTime=60 PriorityTier=10 PreemptMode=OFF",
    }.items():
        lines.append(
            f"PartitionName={name} Nodes={','.join(NODES)} State=UP MaxTime=INFINITE {keys}"
        )
    return "\n".join(lines) + "\n"


def slurmdbd_conf(root, host, accounting, database):
    """Slurm wants the file with mode 600."""
    return f"""\
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={accounting}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
LogFile={root}/log/slurmdbd.log
PidFile={root}/run/slurmdbd.pid
"""


def gpu_files(root):
    """Links to /dev/null for the devices of a node's GPUs, which Slurm ignores without devices."""
    return [root / "gpu" / f"gpu{index}" for index in range(GPUS_PER_NODE)]
