"""How many tasks one submission may have: the size of arrays, and how many jobs this user may have in the queue."""

import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from cld_core.ownership import user_name

from . import client

# The most tasks of an array if Slurm does not say: one below the default of MaxArraySize.
_UNKNOWN = 1000
_ASSOCIATION = re.compile(r"^ClusterName=\S* Account=(?P<account>\S*) UserName=(?P<user>[^\s(]*)", re.MULTILINE)
_QOS = re.compile(r"^QOS=(?P<qos>[^\s(]+)", re.MULTILINE)
# "5(2)": two of five are in use; "N(2)" and nothing are no limit.
_COUNT = r"=([0-9]{1,9})\(([0-9]{1,9})\)"
# What sbatch says if there would be too many jobs, by name; without a name, it may mean that.
_NAMED = re.compile(r"\b((?:Assoc|QOS)[A-Za-z]*Limit)\b")
_UNNAMED = {
    "job submit limit": "a limit on jobs of your account or QOS",
    "Invalid job array specification": "MaxArraySize",
}


@dataclass(frozen=True)
class Limit:
    """The most tasks of a submission, at least one, and where that comes from."""

    tasks: int
    why: str


@functools.cache
def most_tasks(account: str | None = None, qos: str | None = None) -> Limit:
    """The limit for jobs of this account and QOS, asked once per process; limits that nobody tells are ignored."""
    config = client.output_of(["scontrol", "show", "config"]) or ""
    known = [*_of_arrays(config)]
    if re.search(r"^AccountingStorageEnforce\s*=.*\b(limits|safe)\b", config, re.MULTILINE):
        user = user_name(os.geteuid())
        shown = ["scontrol", "show", "assoc_mgr", f"users={user}", "flags=assoc,qos"]
        known += of_jobs(client.output_of(shown) or "", user, account, qos or "normal")
    return min(known, key=lambda limit: limit.tasks)


def reached(error: str) -> str | None:
    """The limit in what sbatch said, by name, if fewer tasks would be accepted; else None."""
    if named := _NAMED.findall(error):
        return next((name for name in named if "Submit" in name), None)
    return next((name for text, name in _UNNAMED.items() if text in error), None)


def of_jobs(text: str, user: str, account: str | None, qos: str) -> list[Limit]:
    """From `scontrol show assoc_mgr`: how many jobs there may be, less those that are in the queue.

    A limit of the QOS is in force in place of the same one of the association. One for each user is shown only to
    those who have jobs already.
    """
    mine, above = _associations(text, user, account)
    quality = next((part for match, part in _parts(_QOS, text) if match["qos"] == qos), "")
    # Limits of users and accounts follow those of the QOS itself.
    head = quality.partition("Account Limits")[0]
    name = re.escape(user)
    of_user = re.search(rf"^ +{name}\([0-9]+\)\n(.*)", quality, re.MULTILINE)
    each = _count("MaxSubmitJobsPU", of_user[1] if of_user else "", f"of QOS {qos}")
    together = _count("GrpSubmitJobs", head, f"of QOS {qos}")
    each = each or _count("MaxSubmitJobs", mine, "of your association")
    together = together or [limit for part in (mine, *above) for limit in _count("GrpSubmitJobs", part, "of a group")]
    return [*each, *together]


def _of_arrays(config: str) -> Iterator[Limit]:
    size = re.search(r"^MaxArraySize\s*=\s*([0-9]{1,9})\b", config, re.MULTILINE)
    found = _UNKNOWN if size is None else max(1, int(size[1]))
    yield Limit(found, f"an array has at most {found} (MaxArraySize)")
    if few := re.search(r"^SchedulerParameters\s*=.*\bmax_array_tasks=([0-9]{1,9})\b", config, re.MULTILINE):
        yield Limit(max(1, int(few[1])), f"an array has at most {few[1]} (max_array_tasks)")


def _associations(text: str, user: str, account: str | None) -> tuple[str, list[str]]:
    """What is said about the association of a user, and about the accounts above it."""
    parts = [(match["account"], match["user"], part) for match, part in _parts(_ASSOCIATION, text)]
    own = [(name, part) for name, who, part in parts if who == user and account in (None, name)]
    own.sort(key=lambda entry: "DefAssoc=Yes" not in entry[1])
    if not own:
        return "", []
    name, mine = own[0]
    lineage = re.search(r"\bLineage=(\S*)", mine)
    names = {"root", name, *(lineage[1].split("/") if lineage else ())}
    return mine, [part for name, who, part in parts if not who and name in names]


def _parts(heading: re.Pattern[str], text: str) -> Iterator[tuple[re.Match[str], str]]:
    """Each heading with what follows it, up to the next one or an empty line."""
    found = list(heading.finditer(text))
    ends = [*(match.start() for match in found[1:]), len(text)]
    for match, end in zip(found, ends, strict=False):
        yield match, text[match.start() : end].split("\n\n")[0]


def _count(name: str, text: str, whose: str) -> list[Limit]:
    found = re.search(rf"\b{name}{_COUNT}", text)
    if found is None:
        return []
    most, used = int(found[1]), int(found[2])
    return [Limit(max(1, most - used), f"at most {most} jobs may be in the queue ({name} {whose}), and {used} are")]
