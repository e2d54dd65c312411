"""What is worth knowing about a run that goes on: that it crashes again and again, and which nodes it avoids."""

import time

from cld_core.run.history import History
from cldctl.jobs import crashes, nodes


def with_trouble(reason: str | None, state: str, history: History, job_id: str | None) -> str | None:
    """The reason for a state, and what else is to be said of a run that is not over."""
    if state not in ("PENDING", "RUNNING", "REQUEUED"):
        return reason
    now = time.time()
    parts = [reason] if reason else []
    lately = crashes.lately(history, now)
    if lately.crashes >= crashes.WORTH_TELLING:
        parts.append(str(lately))
    avoided = history.avoided.get(job_id or "", ())
    if avoided:
        why = nodes.bad(history.failures, now)
        parts.append("avoids " + ", ".join(f"{node} ({why[node]})" if node in why else node for node in avoided))
    return "; ".join(parts) or None
