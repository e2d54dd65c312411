"""What a tuning of a run is doing, or what it found: an entry of ``tunings`` of `status`."""

from typing import Any

from cld_core.tuned.stages import STAGES
from cld_core.tuned.work import Tuning

from .sharded_state import work_state
from .stopped import why_stopped
from .survey import Answers


def tuning_status(work: Tuning, answers: Answers) -> dict[str, Any]:
    """State, rows and gain of one tuning.

    ``gain`` is how many times nearer to the network's flow it is than the best setting without a fit, by the root mean
    square distance on held-out noise: 1 if that setting was kept.
    """
    solution = work.solution
    state = "FINISHED" if solution is not None else work_state(work, answers)
    total = sum(work.request.sizes.values())
    done = total if solution is not None else work.rows_done()[0]
    stopped = None
    if state == "STOPPED":
        stopped = why_stopped(work.ledger.history(), done, total, unit=work.unit, command=work.command)
    # Only what this version knows: a file of somebody else's may name anything.
    rms = {} if solution is None else {stage: solution.rms[stage] for stage in STAGES if stage in solution.rms}
    kept = solution.kept if solution is not None and solution.kept in rms else None
    best, untuned = rms.get(kept or ""), rms.get("untuned")
    return {
        "id": work.name,
        "nfe": work.request.nfe,
        "state": state,
        "cause": stopped.cause if stopped else None,
        "reason": stopped.reason if stopped else None,
        "checkpoint_step": work.request.checkpoint_step,
        "rows_done": done,
        "rows": total,
        "kept": kept,
        "rms": rms,
        "gain": untuned / best if best and untuned is not None else None,
        "digest": solution.digest if solution is not None else None,
    }
