"""Comparisons of samplers on one checkpoint: their settings, the sweep over NFE, its results."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from cld_core import metrics as registry
from cld_core.config import Recipe
from cld_core.config.keys import entries
from cld_core.config.registry import SECTIONS
from cld_core.config.sampling import FixedStepSpec, SamplingSpec
from cld_core.errors import RecipeError, UsageError, did_you_mean
from cld_core.evaluate.published import published_samplers
from cld_core.evaluate.request import kinds_of, request_of
from cld_core.metrics import Number
from cld_core.plugins import is_shipped
from cld_core.run import RunFolder
from cld_core.run.evaluations import (
    Axis,
    EvalRequest,
    Sweep,
    SweepCell,
    current_report,
    numbers,
)

from .plan import MAX_CELLS, EvaluationPlan, recipe_for_evaluation, with_solution
from .results import SweptResults, fields_of, is_complete, number_json, results_in, rows, to_csv

# The axes of the sweep.
SAMPLER = "sampler"
NFE = "sampling.nfe"
# Reference values for samples, and where reports have them: metric and field.
_REFERENCES = {
    "w2_floor": ("w2", "floor"),
    "w2_floor_stderr": ("w2", "floor_stderr"),
    "true_density": ("density", "true"),
    "flow_nfe": ("flow-distance", "flow_nfe_mean"),
}
# The samplers that are compared, with their keys of `sampling`, by name.
SETTINGS: dict[str, str] = {}
for _method, _variant in SECTIONS["sampling"].variants.items():
    if is_shipped("sampling", _method) and issubclass(_variant.spec, SamplingSpec):
        for _name, _keys in _variant.spec.compared.items():
            SETTINGS[_name] = f"method={_method},{_keys}" if _keys else f"method={_method}"


@dataclass(frozen=True, kw_only=True)
class Comparison(EvaluationPlan):
    """The evaluations of a comparison.

    Attributes:
        settings: keys of `sampling` by the names of samplers, as in `SETTINGS`.
        seeds: number of repetitions with new noise.
        left_out: messages about what cannot be computed, and why.
        noisy: the samplers that lack a requested metric, because they do not follow the flow.
    """

    metrics: tuple[str, ...]
    settings: Mapping[str, str]
    seeds: int
    sweep: Sweep
    left_out: tuple[str, ...]
    noisy: tuple[str, ...] = ()


def suited(recipe: Recipe, listed: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """The metrics that ``--metric`` lists, and the default number of seeds.

    Without ``--metric``, the metrics are those that suit the data. Images have one seed, because
    their metrics take many samples. The log-density under data from a plug-in, which may not define
    it, is computed only on request.

    Raises:
        UsageError: a metric is unknown, does not use samples, or is not for such data.
    """
    kinds = kinds_of(recipe.data)
    images = "vectors" not in kinds
    usual: tuple[str, ...] = ("fid",) if images else ("w2", "density", "flow-distance")
    if not is_shipped("data", recipe.data.name):
        usual = tuple(name for name in usual if name != "density")
    fitting = [metric.name for metric in registry.fitting(kinds)]
    fit = [name for name in fitting if registry.draws_samples([name])]
    requested = registry.parse_metrics(listed, "--metric", fit)
    for name in requested:
        if name in fit:
            continue
        if not registry.draws_samples([name]):
            raise UsageError(
                f"--metric: {name} does not compare samplers: it looks at test data, not at "
                f"samples. Ask for {', '.join(fit)}."
            )
        raise UsageError(
            f"--metric: {name} does not compare samplers of data.name={recipe.data.name}, whose "
            f"examples are {'images' if images else 'vectors'}. Ask for {', '.join(fit)}."
        )
    return tuple(name for name in fit if name in (requested or usual)), 1 if images else 4


def require_numbers(numbers: Sequence[int]) -> None:
    """Refuse numbers of network evaluations that no sampler with fixed steps takes.

    Raises:
        UsageError
    """
    bounds = dict(entries(FixedStepSpec)["nfe"].bounds)
    least = int(bounds["ge"])
    most = int(bounds["le"])
    for number in numbers:
        if not least <= number <= most:
            raise UsageError(
                f"--nfe: samplers take {least} to {most:,} network evaluations, not {number}. "
                f"Change it."
            )


def chosen(texts: Sequence[str]) -> dict[str, str]:
    """The settings of the ``--sampler NAME`` and ``--sampler NAME=KEY=VALUE,...`` options, by name.

    Names alone choose from `SETTINGS`; without any, all of these are compared. Own samplers are
    added in any case.

    Raises:
        UsageError: a name is unknown or given twice, or an option has another form.
    """
    names: list[str] = []
    own: dict[str, str] = {}
    for text in texts:
        name, equals, keys = (part.strip() for part in text.partition("="))
        if not name or (equals and not all("=" in entry for entry in keys.split(","))):
            raise UsageError(
                f"--sampler '{text}': write NAME=KEY=VALUE,..., for example "
                f"--sampler fine=method=exponential,order=2."
            )
        if name in names or name in own:
            raise UsageError(
                f"--sampler '{name}' is given twice. Remove one, or give it another name."
            )
        if equals:
            own[name] = keys
        elif name in SETTINGS:
            names.append(name)
        else:
            raise UsageError(
                f"--sampler '{name}' is not known; there are {', '.join(SETTINGS)}."
                f"{did_you_mean(name, SETTINGS)}"
            )
    return {name: keys for name, keys in SETTINGS.items() if not names or name in names} | own


def make(
    run: RunFolder,
    step: int,
    overrides: Sequence[str] = (),
    shards: int | None = None,
    *,
    metrics: tuple[str, ...],
    settings: Mapping[str, str],
    nfe: Sequence[int],
    seeds: int,
) -> Comparison:
    """The evaluations of all samplers at all numbers of evaluations, of one checkpoint.

    Args:
        overrides: keys for all of them; of `sampling`, those that every method has.
        nfe: numbers of network evaluations.
        settings: the changed keys of each sampler, by its name (`Comparison`).
        seeds: the number of repetitions with new noise.

    Raises:
        UsageError: an override is wrong, something that is needed is missing, or nothing can be
            compared.
    """
    source = str(run.recipe_file)
    number = len(settings) * len(nfe) * seeds
    if number > MAX_CELLS:
        raise UsageError(f"{number} evaluations are more than {MAX_CELLS}. Compare fewer at once.")
    base = _common(run.recipe(with_plugins=True), overrides, source)
    requests: dict[str, EvalRequest] = {}
    cells: list[SweepCell] = []
    problems: dict[tuple[str, str], list[int]] = {}
    noisy: dict[str, None] = {}
    for name, listed in settings.items():
        keys = [
            f"sampling.{entry.strip().removeprefix('sampling.')}" for entry in listed.split(",")
        ]
        for number in nfe:
            try:
                recipe = recipe_for_evaluation(base, [*keys, f"{NFE}={number}"], source, idle=[NFE])
                recipe.sampling.require_usable()
                recipe = with_solution(run, recipe, step)
                computable = _computable(recipe.sampling, metrics)
            except UsageError as error:
                problems.setdefault((name, str(error)), []).append(number)
                continue
            if computable != metrics:
                noisy[name] = None
            ids = []
            for seed in range(recipe.eval.seed, recipe.eval.seed + seeds):
                repeat = replace(recipe, eval=replace(recipe.eval, seed=seed))
                request = request_of(repeat, computable, step, shards or recipe.cluster.world_size)
                requests.setdefault(request.id, request)
                ids.append(request.id)
            cells.append(SweepCell({SAMPLER: name, NFE: str(number)}, ids[0], tuple(ids[1:])))
    left_out = []
    for (name, reason), refused in problems.items():
        at = "" if len(refused) == len(nfe) else f" at {', '.join(map(str, refused))} evaluations"
        left_out.append(f"{name}{at} is left out: {reason}")
    if not cells:
        raise UsageError(f"none of these samplers can be compared. {' '.join(left_out)}")
    names = tuple(dict.fromkeys(cell.values[SAMPLER] for cell in cells))
    axes = (Axis(SAMPLER, names), Axis(NFE, tuple(map(str, nfe))))
    return Comparison(
        metrics=metrics,
        settings=settings,
        seeds=seeds,
        sweep=Sweep(axes, tuple(cells)),
        requests=tuple(requests.values()),
        left_out=tuple(left_out),
        noisy=tuple(noisy),
    )


def _common(recipe: Recipe, overrides: Sequence[str], source: str) -> Recipe:
    """A recipe whose sampler has nothing but what all methods share, with overrides.

    Raises:
        UsageError: an override is a key of some methods only.
    """
    shared = {entry.name for entry in fields(SamplingSpec)} - {"method"}
    for text in overrides:
        section, _, key = text.partition("=")[0].partition(".")
        if section == "sampling" and key not in shared:
            raise UsageError(
                f"'{section}.{key}' is not a key of all methods. "
                f"Define a sampler with it: --sampler NAME=KEY=VALUE,...."
            )
    default = next(iter(SECTIONS["sampling"].variants.values())).spec
    values = {key: getattr(recipe.sampling, key) for key in shared}
    plain = replace(recipe, sampling=default(**values))
    # Samples that diverge are a result here.
    return recipe_for_evaluation(plain, ["eval.max_nonfinite=1", *overrides], source)


def _computable(sampling: SamplingSpec, metrics: Sequence[str]) -> tuple[str, ...]:
    """The metrics that samples of a sampler can have.

    Raises:
        RecipeError: there is none.
    """
    if sampling.follows_flow:
        return tuple(metrics)
    computable = tuple(
        metric.name
        for metric in registry.metrics(metrics)
        if not registry.ROWS[metric.rows].along_flow
    )
    if not computable:
        raise RecipeError("it draws noise, so that its samples do not follow the flow.")
    return computable


def best(run: RunFolder, sweep: Sweep, table: Sequence[SweptResults]) -> set[tuple[str, int]]:
    """The best result of each metric at each number of evaluations, as (key, index of the row).

    Only samplers that took as many evaluations as requested compete; the adaptive flow takes as
    many as it needs. Samplers that lost samples do not compete either, because their results leave
    these out. The best log-density is the one closest to that of true samples: too concentrated
    samples have a larger one.
    """
    targets = {"density": references(run, sweep).get("true_density")}
    best_results = set()
    for quantity in results_in(table):
        columns: dict[str, list[tuple[float, int]]] = {}
        target = targets.get(quantity.key)
        sign = -1.0 if quantity.larger_is_better else 1.0
        for index, row in enumerate(table):
            number = row.numbers[quantity.key]
            if number is None or number.nfe is None or number.lost:
                continue
            value = number.value
            requested = row.values[NFE]
            if math.isfinite(value) and abs(number.nfe - float(requested)) < 0.5:
                badness = sign * value if target is None else abs(value - target)
                columns.setdefault(requested, []).append((badness, index))
        best_results |= {
            (quantity.key, min(column)[1]) for column in columns.values() if len(column) > 1
        }
    return best_results


def references(run: RunFolder, sweep: Sweep) -> dict[str, float]:
    """Reference values for the samples, and the NFE of the flow, if the evaluations have them.

    ``w2_floor`` and its standard error, ``true_density`` (the mean log-density of true samples,
    nats) and ``flow_nfe``. The floor is that of an evaluation without lost samples: it is larger
    for fewer.
    """
    by_name: dict[str, float] = {}
    for report in (current_report(run.evals / name) or {} for name in sweep.evaluations):
        w2 = numbers(report).get("w2")
        for name, (metric, field) in _REFERENCES.items():
            value = report.get(metric, {}).get(field)
            is_whole = metric != "w2" or w2 is None or not w2.lost
            if name not in by_name and is_whole and isinstance(value, int | float):
                by_name[name] = float(value)
    return by_name


def to_json(run: RunFolder, sweep: Sweep, settings: Mapping[str, str]) -> dict[str, Any]:
    """The whole comparison, for ``--json``."""
    table = rows(run, sweep)
    marked = best(run, sweep, table)
    entries = []
    for index, (row, cell) in enumerate(zip(table, sweep.cells, strict=True)):
        results = {}
        for quantity in results_in(table):
            key = quantity.key
            results[key] = _entry(row.numbers[key], is_best=(key, index) in marked)
        entry = {
            "sampler": row.values[SAMPLER],
            "nfe": int(row.values[NFE]),
            "evaluations": list(cell.evaluations),
            "results": results,
        }
        entries.append(entry)
    published = published_samplers(run.recipe().data.name)
    return {
        "run": run.name,
        "checkpoint_step": next((row.step for row in table if row.step is not None), None),
        "sweep": sweep.id,
        "complete": is_complete(run, sweep),
        "settings": {name: settings[name] for name in sweep.axes[0].values if name in settings},
        "rows": entries,
        "references": references(run, sweep),
        "published": [{"metric": "fid", **asdict(result)} for result in published],
    }


def to_table(run: RunFolder, sweep: Sweep) -> str:
    """The rows as CSV, with a last column ``source``, and published numbers below."""
    table = [{**entry, "source": "measured"} for entry in fields_of(rows(run, sweep))]
    columns = list(table[0])
    published = published_samplers(run.recipe().data.name)
    if published and "fid" not in columns:
        columns[-1:-1] = ["fid", "fid_stderr", "fid_nfe"]
    for result in published:
        row = {
            SAMPLER: f"{result.model}: {result.sampler}",
            NFE: result.nfe,
            "fid": result.fid,
            "fid_nfe": result.nfe,
            "source": f"published, {result.source}",
        }
        table.append(row)
    return to_csv([{**dict.fromkeys(columns), **row} for row in table])


def _entry(number: Number | None, *, is_best: bool) -> dict[str, Any] | None:
    """A result; None if there is none."""
    if number is None:
        return None
    entry = number_json(number)
    if number.lost:
        entry["nonfinite"] = number.lost
    return {**entry, "best": is_best}
