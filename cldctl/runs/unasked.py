"""Runs whose ledger asks for nothing: their command was killed before it did, or the ledger is gone."""

from cld_core.run import RunFolder
from cld_core.run.history import History

from .state import SUBMITTING_S


def unasked(run: RunFolder, history: History, now: float) -> tuple[str, str] | None:
    """State and reason of a run whose ledger holds neither a request nor a job nor an attempt; None for any other.

    Args:
        now: seconds since 1970.
    """
    if history.request is not None or history.submitted or history.attempts:
        return None
    steps = run.checkpoint_steps()
    if steps or run.progress():
        again = f"continues from the checkpoint of step {steps[-1]}" if steps else "begins again"
        lost = "without the keys that earlier continuations changed"
        return "LOST", f"its ledger attempts.jsonl is {_how(run)}; `cldctl resume {run.name}` {again}, {lost}"
    if now - run.identity().get("created", 0.0) > SUBMITTING_S:
        return "FAILED", f"the submission was interrupted before it asked for a job; `cldctl resume {run.name}` does"
    return None


def _how(run: RunFolder) -> str:
    """What is wrong with a ledger of which no line could be read."""
    try:
        return "damaged" if run.ledger.path.lstat().st_size else "empty"
    except OSError:
        return "missing"
