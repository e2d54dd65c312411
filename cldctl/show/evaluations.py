"""What people are told about evaluations that begin."""

from cld_core.run import RunFolder
from cldctl.clusters.base import Cluster
from cldctl.evals.plan import EvaluationPlan
from cldctl.hints import command
from cldctl.runs.evaluate import Outcome

from .console import err, out, strong


def say_outcome(run: RunFolder, made: EvaluationPlan, outcome: Outcome, where: Cluster) -> None:
    """Say which evaluations of a plan are complete, which are being computed, and by which job."""
    many = len(made.requests) > 1
    if many:
        groups = {"already complete": outcome.complete, "being computed": outcome.running, "started": outcome.started}
        counts = ", ".join(f"{len(names)} {words}" for words, names in groups.items() if names)
        err.print(strong(f"{len(made.requests)} evaluations of ", run.name, f": {counts}"))
    for name in () if many else outcome.complete:
        err.print(f"{name} is already complete")
    for name in () if many else outcome.running:
        err.print(f"{name} is already being computed")
    if outcome.job is not None:
        which = made.sweep.id if made.sweep is not None else outcome.started[0]
        several = many and made.sweep is None
        what = ("evaluations",) if several else ("evaluation ", which)
        err.print(strong(*what), f"of {run.name}, job {outcome.job.job_id} ({where.name})")
    for text in outcome.said:
        err.print(text, markup=False)


def say_where(run: RunFolder, made: EvaluationPlan, outcome: Outcome) -> None:
    """Print the names of evaluations that are not waited for, and what to type next."""
    names = [request.id for request in made.requests]
    out.print(made.sweep.id if made.sweep is not None else "\n".join(names), markup=False)
    log = command(f"logs {run.name} --eval {(outcome.started or outcome.running)[0]} -f", run)
    err.print(f"next:\n  {command(f'status {run.name}', run)}\n  {log}", markup=False)
