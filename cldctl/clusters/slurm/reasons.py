"""Why a job waits, in plain words: the reasons of squeue, and what somebody can do about each."""

import re
from collections.abc import Mapping

from cldctl.clusters.base import Held, Seen, Waiting

from . import client

_LIMITS = "wait for your other jobs, or cancel some"
_SMALLER = "fewer nodes, or a shorter cluster.time_min, begin earlier"
# A job that nobody releases waits for ever; `Held` is known by it.
_HELD = "it is held"
# What `told` puts behind the reason of such a job.
_TO_RELEASE = "; held: "
_RELEASE = "release it: `scontrol release {id}`"
_OR_ASK = "or ask an administrator if that is refused"
# The first pattern that the reason begins with decides; {id} and {dependency} are of the job.
_WORDS: tuple[tuple[str, str, str], ...] = (
    ("None$", "it was just submitted", ""),
    ("Priority", "jobs of higher priority come first", f"{_SMALLER}; `sprio -j {{id}}` shows its priority"),
    ("Resources", "it is next, and waits for nodes to become free", _SMALLER),
    (
        "DependencyNeverSatisfied",
        "the job that it waits for ended in another way than it needs: it never begins",
        "let it begin all the same: `scontrol update jobid={id} dependency=`; or cancel it and submit it again",
    ),
    ("Dependency", "it waits for another job to end ({dependency})", ""),
    ("BeginTime", "it may not begin yet: a pause after a crash, or a requeue that Slurm is still doing", ""),
    ("JobHeldUser", f"{_HELD} by its user", _RELEASE),
    ("JobHeldAdmin", f"{_HELD} by an administrator", "ask them why: only they can release it"),
    ("job requeued in held state", f"{_HELD}, as `scontrol requeuehold` leaves it", f"{_RELEASE}, {_OR_ASK}"),
    (
        "JobHoldMaxRequeue|launch failed requeued held",
        f"{_HELD}, because its last start failed on the node, as in a prolog",
        f"avoid that node: `scontrol update jobid={{id}} excnodelist=NODE`; then {_RELEASE}, {_OR_ASK}",
    ),
    (".*held", _HELD, f"{_RELEASE}, {_OR_ASK}"),
    (
        "ReqNodeNotAvail|Nodes required for job|Required nodes? not available",
        "nodes that it needs are down, drained or reserved, maybe for a maintenance",
        "`sinfo -R` and `scontrol show reservation` say why; a shorter cluster.time_min may fit before it",
    ),
    ("Reservation", "it waits for its reservation", "`scontrol show reservation` shows when that begins"),
    ("PartitionDown|PartitionInactive", "its partition takes no jobs now", "use another cluster.partition"),
    (
        "PartitionTimeLimit",
        "it asks for more time than its partition allows: it never begins",
        "lower cluster.time_min, cancel it and resume",
    ),
    (
        "PartitionNodeLimit|PartitionConfig",
        "it asks for more nodes than its partition allows: it never begins",
        "lower cluster.nodes, or use another cluster.partition",
    ),
    ("QOSMax|QOSUser", "you have as much running as the quality of service allows one user", _LIMITS),
    ("QOSGrp", "all users of its quality of service have reached its limit", "wait, or use another cluster.qos"),
    ("QOS", "its quality of service does not allow it now", "see `sacctmgr show qos`, or use another cluster.qos"),
    (
        "Assoc(?:Grp|Max).*Minutes|AssocGrpBilling",
        "the budget of its account is used up",
        "`sshare -l` shows it; use another cluster.account, or ask for more",
    ),
    (
        "AssocGrp|Max.*PerAccount",
        "all users of its account have reached its limit",
        "wait, or use another cluster.account",
    ),
    ("Assoc", "you have as much running as your account allows", _LIMITS),
    ("JobArrayTaskLimit", "as many tasks of its array run as were allowed at once", ""),
    ("Licenses", "it waits for a licence", ""),
    (
        "BadConstraints|.*not available|NodeConfig|.*configuration",
        "no node has what it asks for",
        "check cluster.constraint, cluster.gres and cluster.mem_gb",
    ),
    ("InvalidAccount", "its account is not valid", "set cluster.account"),
    ("InvalidQOS", "its quality of service is not valid", "set cluster.qos"),
    ("Cleaning", "the nodes of its last start are still being cleaned", ""),
    ("NodeDown", "a node that it needs is down", "`sinfo -R` says why"),
)


def explained(job_id: str, job: Mapping[str, str], seen: Seen) -> Waiting | None:
    """Why a job waits; `Held` if somebody has to release it.

    Args:
        job: what `client.show_job` says about it; empty if nothing.
        seen: what the last survey said.
    """
    word = job.get("Reason") or seen.reason or ("None" if job.get("JobState") == "PENDING" else "")
    if not word:
        return None
    # scontrol writes what squeue says without its blanks, and names of nodes as they are; `told` may have added to it.
    said, colon, nodes = word.partition(_TO_RELEASE)[0].partition(":")
    word = said.replace("_", " ") + colon + nodes
    begin = client.start_of(job.get("StartTime", ""))
    values = {"id": job_id, "dependency": job.get("Dependency", "squeue --format=%E names it")}
    for pattern, reason, advice in _WORDS:
        if re.match(pattern, word):
            said = "" if word == "None" else f" ({word})"
            kind = Held if reason.startswith(_HELD) else Waiting
            return kind(reason.format_map(values) + said, advice.format_map(values), begin)
    return Waiting(f"Slurm says {word}", "`man squeue`, section JOB REASON CODES, explains it", begin)


def told(job_id: str, reason: str) -> str:
    """What squeue says about a job that waits, and of one that is held what to do: it does not go on by itself."""
    if re.search("held|hold", reason, re.IGNORECASE) is None:
        return reason
    waiting = explained(job_id, {}, Seen("pending", reason=reason))
    return f"{reason}{_TO_RELEASE}{waiting.advice}" if isinstance(waiting, Held) else reason
