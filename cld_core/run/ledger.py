"""What happened to a run, one line an event, only ever appended to (`attempts.jsonl`).

Events and their fields besides ``time`` (seconds since 1970):

- ``requested``: steps, overrides, from_step; training shall begin or go on; written before there is a job
- ``submitted``: cluster, job_id, host, and what finds the job again
- ``started``: attempt, job_id, host, pid, step (from which it goes on), restart
- ``ended``: attempt, cause, step (that it reached), detail
- ``rolled_back``: attempt, to_step, reason; the loss or gradient exploded
- ``explained``: attempt, cause; found out afterwards why an attempt ended
- ``requeued``: job_id, cause; the job was put back into the queue by itself
- ``given_up``: reason; a budget is spent
- ``not_submitted``: reason; the scheduler refused a request
- ``not_begun``: job_id, reason; a job found nothing that it could go on from
- ``died_early``: job_id, restart, reason; a job that had trained was started again and ended before it trained
- ``skipped``, ``refused``: job_id, reason; a job found the run finished, or held by another job
- ``damaged``: step, reason; a checkpoint was passed over
- ``cancelled``: job_id; somebody asked for the end, which an ``ended`` event may follow
"""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .atomic import append_line

# Why an attempt ended. What a signal stands for is decided where the cluster is known.
CAUSES = (
    "finished",
    "preempted",  # SIGUSR2: a notice of preemption or of the time limit
    "timeout",  # SIGUSR2 near the known time limit
    "terminated",  # SIGTERM
    "cancelled",  # by `cldctl cancel` or scancel
    "requeued",  # by an administrator
    "node_failure",
    "out_of_memory",
    "crashed",  # an error in the code or on the machine
    "nonfinite",  # the loss or the gradient was not finite
    "save_failed",  # a checkpoint could not be written
    "lease_lost",  # another job took the run folder over
    "imported",  # no attempt of ours: the run begins with a checkpoint from elsewhere
    "killed",  # ended without a word, and nobody found out why
)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One stretch of training; ``cause`` and ``ended`` are None while it lasts or when nobody wrote its end.

    ``warning``: what is not as it should be while it lasts.
    """

    attempt: int
    job_id: str | None
    started: float
    first_step: int
    ended: float | None = None
    cause: str | None = None
    last_step: int | None = None
    detail: str | None = None
    host: str | None = None
    warning: str | None = None


class Ledger:
    """Reads and appends the events of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, event: str, **fields: Any) -> None:
        """Append one event; on the disk when this returns."""
        append_line(self.path, json.dumps({"time": round(time.time(), 3), "event": event, **fields}))

    def events(self) -> list[dict[str, Any]]:
        """All events, oldest first. A line that a killed writer left unfinished is passed over."""
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        return [event for line in lines if (event := _parse(line)) is not None]

    def overrides(self) -> list[str]:
        """Overrides that continuations brought, in order. Those of the first submission are in `recipe.yaml`."""
        requested = [event for event in self.events() if event["event"] == "requested"]
        return [text for event in requested for text in event.get("overrides", ())]


def attempts_of(events: Iterable[dict[str, Any]], progress: dict[str, Any] | None = None) -> Sequence[Attempt]:
    """The attempts that the events tell of, in order.

    An attempt whose end nobody wrote and that another one followed was ``killed``. The last step of an
    attempt without an end is taken from ``progress`` where that was written by the same attempt.
    """
    found: dict[int, dict[str, Any]] = {}
    cancelled: set[str] = set()
    for event in events:
        number = int(event.get("attempt", -1))
        if event["event"] == "cancelled":
            cancelled.add(str(event.get("job_id")))
        elif event["event"] == "started":
            for earlier in found.values():
                if earlier["cause"] is None:
                    earlier.update(cause="killed", ended=event["time"])
            before = found.get(number - 1)
            if before is not None and before["last_step"] is None:
                before["last_step"] = event.get("reached")
            found[number] = {
                "attempt": number,
                "job_id": event.get("job_id"),
                "host": event.get("host"),
                "warning": event.get("warning"),
                "started": event["time"],
                "first_step": event.get("step", 0),
                "ended": None,
                "cause": None,
                "last_step": None,
                "detail": None,
            }
        elif event["event"] == "ended" and number in found:
            cause, entry = event.get("cause"), found[number]
            if cause == "terminated" and str(entry["job_id"]) in cancelled:
                cause = "cancelled"
            entry.update(ended=event["time"], cause=cause, last_step=event.get("step"), detail=event.get("detail"))
        elif event["event"] == "explained" and number in found:
            found[number].update(cause=event["cause"], ended=found[number]["ended"] or event["time"])
    if progress and (current := found.get(progress.get("attempt", -1))) and current["last_step"] is None:
        current["last_step"] = progress.get("step")
    return [Attempt(**entry) for _, entry in sorted(found.items())]


def _parse(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event and "time" in event else None
