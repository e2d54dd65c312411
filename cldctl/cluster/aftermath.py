"""The last lines of a batch script: `python -m cldctl.cluster.aftermath RUN EXIT_CODE [EVAL_LOGS]`.

Ranks that end in order have said why and asked for what should follow. This is for those that could not: a rank that
crashed, was killed for its memory, or hung. Loads no torch.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cld_core.errors import NotFoundError, UsageError
from cld_core.run import RunFolder, attempts_of
from cld_core.run.atomic import append_line

from . import inside, slurm

# Ends that trying again does not mend.
_HOPELESS = (UsageError.exit_code, NotFoundError.exit_code)


def main() -> int:
    folder, code, eval_logs = RunFolder(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    if code == 0:
        return 0
    if eval_logs:
        _after_evaluation(folder, Path(eval_logs[0]), code)
    else:
        _after_training(folder, code)
    return code


def _after_training(folder: RunFolder, code: int) -> None:
    job, events = inside.job_id(), folder.ledger.events()
    starts = [event for event in events if event["event"] == "started" and event.get("job_id") == job]
    if not starts:
        return  # It never began: a wrong recipe or environment, which trying again does not mend.
    cause = _died_early(folder, code) if starts[-1].get("restart") != inside.restarts() else _crashed(folder, code)
    if cause is None:
        return
    bug = _bug_in(folder.ledger.events())
    if bug is not None:
        _give_up(folder, bug, "a fault in code or recipe")
        return
    crashes = inside.crashes_in_a_row(folder.ledger.events())
    allowed = folder.recipe().train.max_retries
    if crashes > allowed:
        text = f"{crashes} crashes in a row without a new checkpoint (train.max_retries={allowed})"
        _give_up(folder, text, "the budget is spent")
        return
    wait = _announce(folder.name, crashes, allowed)
    if inside.go_on(folder, cause):
        slurm.delay(job, wait)


def _give_up(folder: RunFolder, reason: str, why: str) -> None:
    """Start the run no more, neither by this job nor by one that waits for it to end badly."""
    folder.ledger.append("given_up", reason=reason)
    print(f"{folder.name}: {reason}; {why}: not started again", file=sys.stderr)
    if folder.recipe().cluster.successor:
        from . import successor

        successor.withdraw(folder)


def _died_early(folder: RunFolder, code: int) -> str | None:
    """Write down that a job which has trained before was started again and ended before it trained."""
    job, restart = inside.job_id(), inside.restarts()
    said = [event for event in folder.ledger.events() if event.get("job_id") == job][-1]
    if said["event"] in ("not_begun", "refused", "skipped") or code in _HOPELESS:
        return None  # It knew why it could not go on, and that stays so.
    inside.explain_previous(folder)
    reason = f"start {restart} ended with code {code} before it trained; see cldctl logs"
    folder.ledger.append("died_early", job_id=job, restart=restart, reason=reason)
    return "crashed"


def _bug_in(events: Sequence[dict[str, Any]]) -> str | None:
    """What rank 0 died of, where that was a fault in code or recipe, which is there at the next start, too."""
    last = [event for event in events if event["event"] in ("started", "ended", "died_early")][-1]
    return str(last["detail"]) if last.get("bug") else None


def _crashed(folder: RunFolder, code: int) -> str | None:
    """Cause of the attempt that has just ended, where that was a crash; written down where nobody has."""
    inside.explain_previous(folder)
    last = attempts_of(folder.ledger.events())[-1]
    if last.job_id != inside.job_id() or last.cause not in (None, *inside.CRASHES):
        return None
    if last.cause is None:
        hung = "no step finished within train.hang_timeout_s"
        how = hung if inside.hung(folder) else f"a rank ended with code {code}"
        detail = f"{how}; see cldctl logs"
        step = int(folder.progress().get("step", 0))
        folder.ledger.append("ended", attempt=last.attempt, cause="crashed", step=step, detail=detail)
    return last.cause or "crashed"


def _after_evaluation(folder: RunFolder, logs: Path, code: int) -> None:
    """Let a task of an evaluation's array that crashed begin again; it goes on at its next batch."""
    if code in _HOPELESS:
        return
    job, record = inside.job_id(), logs / "crashes.jsonl"
    append_line(record, json.dumps({"job_id": job, "restart": inside.restarts(), "code": code}))
    crashes = sum(json.loads(line)["job_id"] == job for line in record.read_text().splitlines())
    allowed = folder.recipe().train.max_retries
    if crashes > allowed:
        print(f"task {job}: {crashes} crashes (train.max_retries={allowed}); not started again", file=sys.stderr)
        return
    wait = _announce(f"task {job}", crashes, allowed)
    inside.requeue_task()
    slurm.delay(job, wait)


def _announce(name: str, crashes: int, allowed: int) -> float:
    wait: float = inside.BACK_OFF_S * 2 ** (crashes - 1)
    print(f"{name}: crash {crashes} of {allowed} allowed; again in {wait:.0f} s", file=sys.stderr, flush=True)
    return wait


if __name__ == "__main__":
    sys.exit(main())
