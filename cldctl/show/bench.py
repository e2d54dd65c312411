"""What `cldctl bench samplers` says: what would be computed, and the comparison, as text, JSON and files."""

import json
from pathlib import Path

from cld_core.evaluation.evaluation import Evaluation
from cld_core.run import RunFolder
from cld_core.run.atomic import write_text
from cldctl.evals import samplers as compared
from cldctl.evals import table
from cldctl.evals.samplers import Comparison
from cldctl.hints import command

from .console import err, out
from .evaluations import samplers
from .follow import follow_works_of, say_files, statuses_of
from .tables import table as drawn


def list_samplers(run: RunFolder, made: Comparison) -> None:
    """What would be computed."""
    names = made.sweep.axes[0].values
    columns = {"sampler": names, "settings": [made.asked.settings[name] for name in names]}
    out.print(drawn(columns, wraps="settings"))
    nfe = ", ".join(map(str, made.asked.nfe))
    text = f"{', '.join(made.asked.metrics)} at {nfe} evaluations; {made.asked.seeds} seeds"
    out.print(f"{run.name}, step {made.requests[0].checkpoint_step}: {text}", markup=False)
    out.print(f"{len(made.requests)} evaluations, of which nothing was started", markup=False)


def show_comparison(
    run: RunFolder, made: Comparison, as_json: bool, csv: Path | None, plot: Path | None, *, wait: bool
) -> int:
    """Show the results, if ``wait`` after waiting for them, and write the files; returns the exit code."""
    works = [Evaluation(run.evals / request.id) for request in made.requests]
    watch = wait and not all(work.is_done for work in works)
    if watch and (code := follow_works_of(run, works, made.sweep.id)):
        return code
    statuses = statuses_of(works)
    missing = [entry["id"] for entry in statuses if entry["state"] != "FINISHED"]
    if as_json:
        found = compared.to_json(run, made.sweep, made.asked.settings)
        print(json.dumps({**found, "left_out": made.left_out, "noisy": made.noisy}, indent=1))
    else:
        out.print(samplers(run, made.sweep, statuses))
        if made.noisy:
            out.print(f"-  draws noise, and so has no distance from the flow: {', '.join(made.noisy)}", markup=False)
    if missing:
        see = command(f"status {run.name}", run)
        err.failure(f"{len(missing)} of {len(statuses)} evaluations are not complete; see `{see}`")
        return 1 if wait else 0
    if not as_json:
        say_files(run, made.sweep)
    if csv is not None:
        write_text(csv, compared.to_table(run, made.sweep))
    if plot is not None:
        rows = table.rows(run, made.sweep)
        table.plot(plot, made.sweep, rows, table.keys_of(rows), run.name)
    for file in filter(None, (csv, plot)):
        err.print(str(file), markup=False, no_wrap=True)
    return 0
