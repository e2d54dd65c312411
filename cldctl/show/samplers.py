"""Samplers side by side, as text: a table for each metric, what samples could reach, and what is published."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from cld_core.evaluation import registry
from cld_core.evaluation.published import PublishedSampler
from cld_core.evaluation.sweeps import Sweep
from cld_core.run import RunFolder
from cldctl.evals.compared_samplers import best, published_for, references
from cldctl.evals.table import rows

from .fitting import fitted
from .sweeps import BEST, sweep_table
from .tables import result_text


def compared(run: RunFolder, sweep: Sweep, statuses: Sequence[Mapping[str, Any]]) -> RenderableType:
    """All of it; cells without a result show the state of their evaluation.

    Args:
        statuses: the evaluations of the sweep as `status` knows them.
    """
    table = rows(run, sweep)
    marked = best(run, sweep, table)
    shown: list[RenderableType] = [sweep_table(sweep, table, {entry["id"]: entry for entry in statuses}, marked)]
    shown += map(Text, _notes(run, sweep, table, is_marked=bool(marked)))
    if known := published_for(run):
        shown += [Text(""), _published(known)]
    return Group(*shown)


def _notes(run: RunFolder, sweep: Sweep, table: Sequence[Mapping[str, Any]], *, is_marked: bool) -> Iterator[str]:
    if is_marked:
        yield f"{BEST} the best of those that took as many evaluations (log-density: nearest to the truth)"
    if any(name.endswith("_nonfinite") for name in table[0]):
        yield "lost: samples that are not finite; results are of the others, and not compared"
    repeats = max(len(cell.evaluations) for cell in sweep.cells)
    if repeats > 1:
        yield f"mean of {repeats} seeds ± its standard error"
    known = references(run, sweep)
    if "w2_floor" in known:
        floor = result_text(registry.quantity("w2_floor"), known["w2_floor"], known.get("w2_floor_stderr"))
        yield f"sliced W2 of two true sets: {floor}"
    if "true_density" in known:
        yield f"log-density of the truth: {known['true_density']:.3f} nats"
    if "flow_nfe" in known:
        yield f"the flow that samples are compared with took {known['flow_nfe']:,.0f} evaluations"


def _published(known: Sequence[PublishedSampler]) -> RenderableType:
    columns = {
        "model": [it.model for it in known],
        "sampler": [it.sampler for it in known],
        "NFE": ["-" if it.nfe is None else f"{it.nfe:,}" for it in known],
        "FID": [f"{it.fid:.2f}" for it in known],
        "source": [it.source for it in known],
    }
    return fitted(columns, ["source"], {"NFE", "FID"}, names="model", title="published, not measured here")
