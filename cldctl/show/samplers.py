"""What `cldctl bench samplers` and `cldctl tune` say: what is to come, and what comparisons and tunings found."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cld_core.evaluation.evaluation import Evaluation
from cld_core.run import RunFolder
from cld_core.run.atomic import write_text
from cld_core.tuned.work import Tuning
from cldctl.evals import samplers as compared
from cldctl.evals import table
from cldctl.evals.samplers import Comparison
from cldctl.hints import command
from cldctl.runs.evaluate import Outcome, Planned
from cldctl.runs.tune import Tunings

from .console import err, out, say_next, strong
from .evaluations import samplers
from .follow import follow_works_of, say_files, statuses_of
from .progress import Working
from .submission import say_already, say_outcome, say_where
from .tables import table as drawn


def list_samplers(run: RunFolder, made: Comparison) -> None:
    """What would be computed."""
    names = made.sweep.axes[0].values
    columns = {"sampler": names, "settings": [made.options.settings[name] for name in names]}
    out.print(drawn(columns, wraps="settings"))
    nfe = ", ".join(map(str, made.options.nfe))
    text = f"{', '.join(made.options.metrics)} at {nfe} evaluations; {made.options.seeds} seeds"
    out.print(f"{run.name}, step {made.requests[0].checkpoint_step}: {text}")
    out.print(f"{len(made.requests)} evaluations, of which nothing was started")


def finish_comparison(
    made: Comparison,
    planned: Planned,
    outcome: Outcome,
    as_json: bool,
    csv: Path | None,
    plot: Path | None,
    follow: bool,
) -> int:
    """Say what was started, and show the results, after waiting for them if asked to; returns the exit code."""
    say_outcome(planned, outcome)
    run = planned.run
    stays = follow or planned.cluster.blocks or outcome.is_over
    if not stays and not as_json:
        say_where(planned, outcome)
        return 0
    works = [Evaluation(run.evals / request.id) for request in made.requests]
    watch = stays and not all(work.is_done for work in works)
    if watch and (code := follow_works_of(run, works, made.sweep.id)):
        return code
    statuses = statuses_of(works)
    missing = [entry["id"] for entry in statuses if entry["state"] != "FINISHED"]
    if as_json:
        found = compared.to_json(run, made.sweep, made.options.settings)
        print(json.dumps({**found, "left_out": made.left_out, "noisy": made.noisy}, indent=1))
    else:
        out.print(samplers(run, made.sweep, statuses))
        if made.noisy:
            out.print(f"-  draws noise, and so has no distance from the flow: {', '.join(made.noisy)}")
    if missing:
        see = command(f"status {run.name}", run)
        err.failure(f"{len(missing)} of {len(statuses)} evaluations are not complete; see `{see}`")
        return 1 if stays else 0
    if not as_json:
        say_files(run, made.sweep)
    if csv is not None:
        write_text(csv, compared.to_table(run, made.sweep))
    if plot is not None:
        rows = table.rows(run, made.sweep)
        table.plot(plot, made.sweep, rows, table.keys_of(rows), run.name)
    for file in filter(None, (csv, plot)):
        err.print(str(file), no_wrap=True)
    return 0


def say_cost(planned: Tunings) -> None:
    """Say how many evaluations of the network are to come, if any are."""
    recipe = planned.recipe
    begun = [Tuning(folder) for folder in planned.folders if (folder / "request.json").exists()]
    done = [work.name for work in begun if work.is_done]
    todo = [request for request in planned.requests if request.id not in done]
    if not todo:
        return
    with Working("counting evaluations"):
        from cld_core import sde
        from cld_core.tuned import cost

        diffusion = sde.build(recipe.sde)
        most = sum(cost.most(request, diffusion, recipe.network.images) for request in todo)
    first = todo[0]
    minutes = first.budget_min
    limit = "no limit of time" if minutes is None else f"at most {minutes:g} minutes for the fit of each N"
    solved = f"the flow of {2 * first.points:,} draws, then at most {most:,} evaluations of the network"
    err.print(f"step {first.checkpoint_step}: {solved} for each of {first.points:,}; {limit}")


def finish_tunings(planned: Tunings, outcome: Outcome, as_json: bool, follow: bool) -> int:
    """Say what was started, and print the results that exist, after waiting for them if asked to.

    Returns:
        The exit code.
    """
    run, works = planned.run, list(map(Tuning, planned.folders))
    say_already(outcome)
    if outcome.job is not None:
        text = f"of {run.name}, job {outcome.job.job_id} ({planned.cluster.name})"
        err.print(strong("tuning ", ", ".join(outcome.started)), text)
    stays = follow or planned.cluster.blocks
    if stays and not outcome.is_over and (code := follow_works_of(run, works, f"tuning of {run.name}")):
        return code
    entries = [_entry(work) for work in works]
    missing = [entry["id"] for entry in entries if "kept" not in entry]
    sizes = [entry["nfe"] for entry in entries if "kept" in entry]
    if as_json:
        print(json.dumps({"run": run.name, "tunings": entries}, indent=1))
    elif sizes:
        _table(entries)
    else:
        out.print("\n".join(missing))
    if missing and stays:
        for name in missing:
            err.failure(f"{name} is not complete; see {run.tuned / name / 'logs'}, and run the same command again")
        return 1
    if missing:
        err.print(f"logs: {run.tuned / missing[0] / 'logs'}; run it again with --follow to watch")
    else:
        say_next(command(f"sample {run.name} --method tuned --nfe {sizes[-1]}", run))
    return 0


def _entry(work: Tuning) -> dict[str, Any]:
    solution = work.solution
    entry: dict[str, Any] = {"id": work.name, "nfe": work.request.nfe, "step": work.request.checkpoint_step}
    if solution is None:
        return entry
    found = {"kept": solution.kept, "rms": dict(solution.rms), "digest": solution.digest}
    return {**entry, **found, "file": str(work.folder / "solution.json"), "about": dict(solution.about)}


def _table(entries: Sequence[dict[str, Any]]) -> None:
    done = [entry for entry in entries if "kept" in entry]
    stages = ("untuned", "grid", "coefficients")
    columns = {
        "NFE": [str(entry["nfe"]) for entry in done],
        "step": [str(entry["step"]) for entry in done],
        "kept": [entry["kept"] for entry in done],
        **{stage: [f"{entry['rms'].get(stage, float('nan')):.4g}" for entry in done] for stage in stages},
        "seconds": [f"{entry['about'].get('seconds', 0.0):.0f}" for entry in done],
    }
    out.print(drawn(columns))
    err.print("rms distance from the network's own flow on held-out noise, per coordinate")
