"""What `cldctl tune` says: the cost of what is to come, and what tunings found."""

import json
from collections.abc import Sequence
from typing import Any

from cld_core.recipe import Recipe
from cld_core.run import RunFolder
from cld_core.tuned.request import TuneRequest
from cld_core.tuned.work import Tuning
from cldctl.hints import command

from .console import err, out
from .progress import Working
from .tables import table


def say_cost(recipe: Recipe, todo: Sequence[TuneRequest]) -> None:
    """Say how many evaluations of the network are to come, if any are."""
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


def show_tunings(run: RunFolder, works: Sequence[Tuning], as_json: bool, waited: bool) -> int:
    """Print the results that exist; returns the exit code."""
    entries = [_entry(work) for work in works]
    missing = [entry["id"] for entry in entries if "kept" not in entry]
    sizes = [entry["nfe"] for entry in entries if "kept" in entry]
    if as_json:
        print(json.dumps({"run": run.name, "tunings": entries}, indent=1))
    elif sizes:
        _table(entries)
    else:
        out.print("\n".join(missing), markup=False)
    if missing and waited:
        for name in missing:
            err.failure(f"{name} is not complete; see {run.tuned / name / 'logs'}, and run the same command again")
        return 1
    if missing:
        err.print(f"logs: {run.tuned / missing[0] / 'logs'}; run it again with --follow to watch", markup=False)
    else:
        err.print(f"next:\n  {command(f'sample {run.name} --method tuned --nfe {sizes[-1]}', run)}", markup=False)
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
    out.print(table(columns))
    err.print("rms distance from the network's own flow on held-out noise, per coordinate")
