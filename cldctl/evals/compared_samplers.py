"""The results of samplers side by side: the best ones, the reference values, and published results."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cld_core.evaluation import registry
from cld_core.evaluation.published import PublishedSampler, published_samplers
from cld_core.evaluation.report_numbers import nonfinite_share
from cld_core.evaluation.reports import current_report
from cld_core.evaluation.sweeps import Sweep
from cld_core.run import RunFolder

from .samplers import NFE, SAMPLER
from .table import keys_of, rows, to_csv

Row = Mapping[str, Any]
MEASURED, PUBLISHED = "measured", "published"


def best(run: RunFolder, sweep: Sweep, table: Sequence[Row]) -> set[tuple[str, int]]:
    """The best result of each metric at each number of evaluations, as (key, number of the row).

    Only samplers that took as many evaluations as requested compete; the adaptive flow takes as many as it needs.
    Samplers that lost samples do not compete either, because their results leave these out. The best log-density is the
    one closest to that of true samples: too concentrated samples have a larger one.
    """
    truth = {"density": references(run, sweep).get("true_density")}
    found = set()
    for quantity in (registry.quantity(key) for key in keys_of(table)):
        columns: dict[str, list[tuple[float, int]]] = {}
        target, sign = truth.get(quantity.key), -1.0 if quantity.larger_is_better else 1.0
        for number, row in enumerate(table):
            value, nfe = row[quantity.key], row[f"{quantity.key}_nfe"]
            if row.get(f"{quantity.key}_nonfinite"):
                continue
            if value is not None and math.isfinite(value) and nfe is not None and abs(nfe - float(row[NFE])) < 0.5:
                badness = sign * value if target is None else abs(value - target)
                columns.setdefault(row[NFE], []).append((badness, number))
        found |= {(quantity.key, min(column)[1]) for column in columns.values() if len(column) > 1}
    return found


def references(run: RunFolder, sweep: Sweep) -> dict[str, float]:
    """Reference values for the samples, and the NFE of the flow, as far as the evaluations have them.

    ``w2_floor`` and its standard error, ``true_density`` (the mean log-density of true samples, nats) and ``flow_nfe``.
    The floor is that of an evaluation without lost samples: it is larger for fewer.
    """
    reports = [current_report(run.evals / name) or {} for name in sweep.evaluations]
    whole = [report for report in reports if not nonfinite_share(report, "w2")]

    def first(metric: str, field: str, among: Sequence[Mapping[str, Any]] = reports) -> float | None:
        values = (report.get(metric, {}).get(field) for report in among)
        return next((float(value) for value in values if isinstance(value, int | float)), None)

    found = {
        "w2_floor": first("w2", "floor", whole),
        "w2_floor_stderr": first("w2", "floor_stderr", whole),
        "true_density": first("density", "true"),
        "flow_nfe": first("flow-distance", "flow_nfe_mean"),
    }
    return {name: value for name, value in found.items() if value is not None}


def published_for(run: RunFolder) -> tuple[PublishedSampler, ...]:
    """The published results for the data of a run."""
    return published_samplers(run.recipe().data.name)


def to_json(run: RunFolder, sweep: Sweep, settings: Mapping[str, str]) -> dict[str, Any]:
    """The whole comparison, for ``--json``."""
    table = rows(run, sweep)
    marked = best(run, sweep, table)
    results = [
        {
            "sampler": row[SAMPLER],
            "nfe": int(row[NFE]),
            "evaluations": list(cell.evaluations),
            "results": {key: _entry(row, key, is_best=(key, number) in marked) for key in keys_of(table)},
        }
        for number, (row, cell) in enumerate(zip(table, sweep.cells, strict=True))
    ]
    known = published_for(run)
    return {
        "run": run.name,
        "checkpoint_step": next((row["checkpoint_step"] for row in table if row["checkpoint_step"] is not None), None),
        "sweep": sweep.id,
        "complete": is_complete(run, sweep),
        "settings": {name: settings[name] for name in sweep.axes[0].values if name in settings},
        "rows": results,
        "references": references(run, sweep),
        "published": [{"metric": "fid", **asdict(it)} for it in known],
    }


def to_table(run: RunFolder, sweep: Sweep) -> str:
    """The rows as CSV, with a last column ``source``, and published numbers below."""
    table = [{**row, "source": MEASURED} for row in rows(run, sweep)]
    columns = list(table[0])
    known = published_for(run)
    if known and "fid" not in columns:
        columns[-1:-1] = ["fid", "fid_stderr", "fid_nfe"]
    empty = dict.fromkeys(columns)
    published = [
        {
            SAMPLER: f"{it.model}: {it.sampler}",
            NFE: it.nfe,
            "fid": it.fid,
            "fid_nfe": it.nfe,
            "source": f"{PUBLISHED}, {it.source}",
        }
        for it in known
    ]
    return to_csv([{**empty, **row} for row in (*table, *published)])


def is_complete(run: RunFolder, sweep: Sweep) -> bool:
    """Whether all evaluations have results of the present checkpoint."""
    return all(current_report(run.evals / name) is not None for name in sweep.evaluations)


def _entry(row: Row, key: str, *, is_best: bool) -> dict[str, Any] | None:
    """A result; None if there is none. JSON has no infinity: the value of samples that diverged is None."""
    value = row[key]
    if value is None:
        return None
    numbers = {"value": value if math.isfinite(value) else None, "stderr": row[f"{key}_stderr"]}
    lost = row.get(f"{key}_nonfinite")
    return {**numbers, "nfe": row[f"{key}_nfe"], **({"nonfinite": lost} if lost else {}), "best": is_best}
