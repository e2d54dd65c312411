"""The last lines of a batch script: `python -m cldctl.cluster.aftermath RUN EXIT_CODE`.

Ranks that end in order have said why and asked for what should follow. This is for those that could not: a rank that
crashed, was killed for its memory, or hung. Loads no torch.
"""

import sys

from cld_core.run import RunFolder, attempts_of

from . import inside, slurm


def main() -> int:
    folder, code = RunFolder(sys.argv[1]), int(sys.argv[2])
    if code == 0:
        return 0
    events = folder.ledger.events()
    if not any(event["event"] == "started" and event.get("job_id") == inside.job_id() for event in events):
        return code  # It never began: a wrong recipe or environment, which trying again does not mend.
    inside.explain_previous(folder)
    attempts = list(attempts_of(folder.ledger.events()))
    last = attempts[-1]
    if last.job_id != inside.job_id() or last.cause not in (None, "crashed", "out_of_memory", "killed", "nonfinite"):
        return code
    if last.cause is None:
        detail = f"a rank ended with code {code}; see cldctl logs"
        folder.ledger.append("ended", attempt=last.attempt, cause="crashed", step=_reached(folder), detail=detail)
        attempts = list(attempts_of(folder.ledger.events()))
    allowed = folder.recipe().train.max_retries
    crashes = inside.crashes_in_a_row(attempts)
    if crashes > allowed:
        text = f"{crashes} crashes in a row without a new checkpoint (train.max_retries={allowed})"
        folder.ledger.append("given_up", reason=text)
        print(f"{folder.name}: {text}; not started again", file=sys.stderr)
        return code
    wait = inside.BACK_OFF_S * 2 ** (crashes - 1)
    print(f"{folder.name}: crash {crashes} of {allowed} allowed; again in {wait:.0f} s", file=sys.stderr, flush=True)
    if inside.go_on(folder, attempts[-1].cause or "crashed"):
        slurm.delay(inside.job_id(), wait)
    return code


def _reached(folder: RunFolder) -> int:
    return int(folder.progress().get("step", 0))


if __name__ == "__main__":
    sys.exit(main())
