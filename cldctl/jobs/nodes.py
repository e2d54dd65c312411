"""Which nodes a run, or sharded work, avoids: those where it failed twice within a day, or a health check once.

Slurm keeps giving a job the node that it crashed on, since that one is idle. What is avoided is bounded, is in the
ledger (`Submitted.exclude`, `Requeued.exclude`), and is forgotten after a day.
"""

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from cld_core.run.events import Failed
from cld_core.run.history import History
from cldctl.clusters.base import Cluster, InJob
from cldctl.clusters.records import JobSpec

# Failures after which a node is avoided, for how long they count, and the most nodes that are avoided at once.
FAILURES, FORGOTTEN_AFTER_S, MOST = 2, 86400.0, 8
_NAMES_A_NODE = ("rank", "unfit", "crash")


@dataclass(frozen=True)
class Avoided:
    """The nodes that a job avoids from now on, each with the reason, and those that it need not avoid any longer."""

    why: Mapping[str, str] = field(default_factory=dict)
    readmitted: tuple[str, ...] = ()

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(self.why)


def bad(failures: Iterable[Failed], now: float) -> dict[str, str]:
    """Nodes with enough failures lately, and in words, why; the one that failed last comes last."""
    recent = [it for it in failures if it.kind in _NAMES_A_NODE and it.time > now - FORGOTTEN_AFTER_S]
    counts: dict[str, int] = {}
    unfit: dict[str, str] = {}
    last: dict[str, float] = {}
    for event in sorted(_first_of_each_start(recent), key=lambda event: event.time):
        if not event.host:
            continue
        last[event.host] = event.time
        if event.kind == "unfit":
            unfit[event.host] = f"unfit ({event.check})"
        else:
            counts[event.host] = counts.get(event.host, 0) + 1
    found = {node: unfit.get(node) or f"{counts[node]} crashes" for node in last
             if node in unfit or counts[node] >= FAILURES}  # fmt: skip
    return {node: found[node] for node in sorted(found, key=lambda node: last[node])}


def _first_of_each_start(failures: Iterable[Failed]) -> list[Failed]:
    """Of the ranks that failed in one start of a job, the first: the others may have failed because of it."""
    first: dict[tuple[str, int], Failed] = {}
    others: list[Failed] = []
    for event in failures:
        if event.kind != "rank":
            others.append(event)
        elif event.start not in first or event.time < first[event.start].time:
            first[event.start] = event
    return [*others, *first.values()]


def for_next_start(history: History, job: InJob, needed: int, also: Iterable[Failed] = ()) -> Avoided:
    """What a job that requeues itself avoids from now on.

    Args:
        needed: nodes that it runs on.
        also: failures that another ledger tells of.
    """
    before = history.avoided.get(job.ref.job_id, ())
    found = bad([*history.failures, *also], time.time())
    if not found and not before:
        return Avoided()
    excluded = job.excluded_nodes()
    # Those of somebody else, who did not say until when.
    others = None if excluded is None else set(excluded) - set(before)
    usable = None if others is None else job.usable_nodes(others)
    if others is None or usable is None:
        return Avoided({node: found.get(node, "avoided before") for node in before})
    why = _newest(_without(found, others), usable, needed)
    return Avoided(why, tuple(node for node in before if node not in why))


def for_submission(failures: Iterable[Failed], cluster: Cluster, spec: JobSpec) -> JobSpec:
    """The job with the nodes that it avoids, of those that one of this kind failed on."""
    found = bad(failures, time.time()) if cluster.restarts else {}
    others = cluster.excluded_nodes(spec.size) if found else None
    usable = cluster.usable_nodes(spec.size, others) if others is not None else None
    if others is None or usable is None:
        return spec
    return replace(spec, exclude=(*spec.exclude, *_newest(_without(found, others), usable, spec.size.nodes)))


def announced(before: Iterable[str], avoided: Avoided) -> list[str]:
    """A line for each node that is avoided from now on."""
    known = set(before)
    return [f"node {node} is avoided from now on: {why}" for node, why in avoided.why.items() if node not in known]


def _without(found: Mapping[str, str], others: Collection[str]) -> dict[str, str]:
    return {node: why for node, why in found.items() if node not in others}


def _newest(found: Mapping[str, str], usable: int, needed: int) -> dict[str, str]:
    """As many as may be avoided: half of the nodes, as long as enough are left."""
    room = max(0, min(MOST, usable // 2, usable - needed))
    return dict(list(found.items())[len(found) - min(room, len(found)) :])
