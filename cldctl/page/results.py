"""The evaluations of a run: its best numbers, the table of all, and how they change with the step."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cld_core.evaluation import registry
from cld_core.evaluation.definitions import Quantity
from cld_core.evaluation.evaluation import evaluations_of
from cld_core.evaluation.published import published
from cld_core.evaluation.report_numbers import network_evaluations
from cld_core.run import RunFolder
from cldctl.runs.status import RunStatus
from cldctl.show.format import count, fixed
from cldctl.show.tables import TUNING_HEADINGS, present_in, result_of, tuning_cells

from .chart import Chart, Line, chart
from .table import Table

Row = Mapping[str, Any]
# A remark on more evaluations than this tells how many they are, not which.
_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A number at the top of a page, as texts.

    Attributes:
        made: of which checkpoint, of how many samples or points.
        error: its standard error, or its unit.
        reference: what it is compared with, such as the true entropy; empty if there is nothing.
    """

    label: str
    value: str
    made: str
    error: str = ""
    reference: str = ""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How many samples and points an evaluation is of, 0 if it read none, and the NFE behind each number.

    Attributes:
        average: which average of the weights, in words; empty for the usual one.
    """

    samples: int
    points: int
    nfe: Mapping[str, float]
    average: str = ""

    def number(self, metric: str) -> int:
        """How many samples or points a metric is of."""
        return self.samples if registry.ROWS[registry.metric(metric).rows].over == "samples" else self.points


def asked_of(run: RunFolder) -> dict[str, Asked]:
    """What each evaluation of a run is of, by its id."""
    keys = [quantity.key for _, quantity in registry.quantities()]
    found = {}
    for work in evaluations_of(run):
        report = work.report
        nfe = {key: value for key in keys if (value := network_evaluations(report, key)) is not None}
        request = work.request
        samples = request.samples if registry.draws_samples(request.metrics) else 0
        found[work.name] = Asked(samples=samples, points=request.points, nfe=nfe, average=request.ema.words)
    return found


def best_of(row: RunStatus, asked: Mapping[str, Asked], recipe: str | None) -> list[Tile]:
    """The best value of each quantity, of those evaluations that are of the most samples or points.

    Args:
        recipe: the shipped recipe whose published numbers they are compared with.
    """
    metrics = {quantity.key: metric.name for metric, quantity in registry.quantities()}
    found = []
    for quantity in (it for it in present_in(row.evals) if not it.is_reference):
        sizes = {
            entry["id"]: asked[entry["id"]].number(metrics[quantity.key]) if entry["id"] in asked else 0
            for entry in row.evals
            if _value(entry, quantity) is not None
        }
        candidates = [entry for entry in row.evals if sizes.get(entry["id"], -1) == max(sizes.values(), default=0)]
        if candidates:
            best = (max if quantity.larger_is_better else min)(candidates, key=lambda entry: _value(entry, quantity))
            found.append(_best(best, quantity, sizes[best["id"]], asked.get(best["id"]), recipe))
    return found


def table(evals: Sequence[Row], asked: Mapping[str, Asked]) -> Table | None:
    """All evaluations, by step; None if there is none."""
    if not evals:
        return None
    quantities = present_in(evals)
    entropy = ["true entropy"] if any(entry["true_entropy"] is not None for entry in evals) else []
    labels = [quantity.label for quantity in quantities]
    rows = []
    for entry in _ordered(evals):
        numbers = [result_of(entry, quantity) for quantity in quantities]
        truth = [fixed(entry["true_entropy"])] if entropy else []
        about = asked.get(entry["id"])
        state = entry["state"].lower()
        if entry["state"] != "FINISHED":
            state += f", {entry['shards_done']} of {entry['shards']} shards"
        rows.append([entry["id"], state, count(entry["checkpoint_step"]), _of(about), *numbers, *truth, _nfe(about)])
    headings = ["evaluation", "state", "step", "of", *labels, *entropy, "NFE"]
    right = frozenset({"step", "of", "NFE", *labels, *entropy})
    return Table(caption="Evaluations, by step", headings=headings, rows=rows, right=right)


def tunings(entries: Sequence[Row]) -> Table | None:
    """All tunings, by number of evaluations and step; None if there is none."""
    if not entries:
        return None
    ordered = sorted(entries, key=lambda entry: (entry["nfe"], entry["checkpoint_step"], entry["id"]))
    rows = [[entry["id"], *tuning_cells({**entry, "state": entry["state"].lower()})] for entry in ordered]
    right = frozenset(TUNING_HEADINGS) - {"state", "kept"}
    caption = "Tuned samplers: root mean square distance from the network's own flow per coordinate, on held-out noise"
    return Table(caption=caption, headings=["tuning", *TUNING_HEADINGS], rows=rows, right=right)


def against_step(evals: Sequence[Row], asked: Mapping[str, Asked]) -> list[Chart]:
    """For each quantity with results at several steps: a chart, with a line for each choice of settings."""
    charts = []
    for quantity in present_in(evals):
        groups: dict[str, dict[int, Row]] = {}
        for entry in evals:
            if _value(entry, quantity) is not None:
                groups.setdefault(entry["settings"], {})[entry["checkpoint_step"]] = entry
        lines = [
            _line(label, group, quantity, place)
            for place, (label, group) in enumerate(_labelled(groups, asked).items())
            if len(group) > 1
        ]
        truth = {entry["true_entropy"] for entry in evals if entry["true_entropy"] is not None}
        if lines and quantity.key == "nll" and len(truth) == 1:
            ends = [step for group in groups.values() if len(group) > 1 for step in group]
            level = truth.pop()
            points = [(float(min(ends)), level), (float(max(ends)), level)]
            lines.append(Line(label="true entropy", points=points, series=7))
        drawn = chart(f"{quantity.label}, by step", lines)
        charts += [drawn] if drawn is not None else []
    return charts


def remarks(evals: Sequence[Row]) -> list[str]:
    """What is unusual about the results, each text once, with the evaluations that it is about."""
    about: dict[str, list[str]] = {}
    for entry in _ordered(evals):
        for text in entry["remarks"]:
            about.setdefault(text, []).append(entry["id"])
    return [
        f"{', '.join(ids) if len(ids) <= _NAMED else f'{len(ids)} evaluations'}: {text}" for text, ids in about.items()
    ]


def _best(entry: Row, quantity: Quantity, size: int, about: Asked | None, recipe: str | None) -> Tile:
    result = entry["results"][quantity.key]
    made = [f"step {count(entry['checkpoint_step'])}"]
    if about is not None and about.average:
        made.append(about.average)
    if size:
        made.append(f"{count(size)} {'samples' if about is not None and _is_over_samples(quantity) else 'points'}")
    if about is not None and quantity.key in about.nfe:
        made.append(f"{about.nfe[quantity.key]:,.0f} NFE")
    return Tile(
        label=quantity.label,
        value=f"{result['value']:.{quantity.digits}f}",
        error="" if result["stderr"] is None else f"± {result['stderr']:.{quantity.digits}f}",
        reference=_reference(entry, quantity, recipe),
        made=", ".join(made),
    )


def _reference(entry: Row, quantity: Quantity, recipe: str | None) -> str:
    truth = entry["true_entropy"]
    if quantity.key == "nll" and truth is not None:
        gap = entry["results"]["nll"]["value"] - truth
        return f"true entropy {truth:.{quantity.digits}f}, gap {gap:.{quantity.digits}f}"
    known = published(recipe, quantity.key) if recipe is not None else None
    if known is None:
        return ""
    return f"published {'≤ ' if known.bound else ''}{known.value:g} ({known.how})"


def _is_over_samples(quantity: Quantity) -> bool:
    metric = next(metric for metric, other in registry.quantities() if other.key == quantity.key)
    return registry.ROWS[metric.rows].over == "samples"


def _value(entry: Row, quantity: Quantity) -> Any:
    """A finite result; None if there is none."""
    result = entry["results"].get(quantity.key)
    return result["value"] if result is not None and math.isfinite(result["value"]) else None


def _line(label: str, group: Mapping[int, Row], quantity: Quantity, place: int) -> Line:
    steps = sorted(group)
    results = [group[step]["results"][quantity.key] for step in steps]
    return Line(
        label=label,
        points=[(float(step), result["value"]) for step, result in zip(steps, results, strict=True)],
        errors={
            index: result["stderr"]
            for index, result in enumerate(results)
            if result["stderr"] is not None and math.isfinite(result["stderr"])
        },
        series=place,
    )


def _labelled(groups: Mapping[str, Mapping[int, Row]], asked: Mapping[str, Asked]) -> dict[str, Mapping[int, Row]]:
    """Groups of the same settings by what sets them apart: their metrics and sizes, and if need be their digest."""
    named = {settings: _name(group[max(group)], asked) for settings, group in groups.items()}
    names = list(named.values())
    return {
        name if names.count(name) == 1 else f"{name}, settings {settings}": groups[settings]
        for settings, name in named.items()
    }


def _name(entry: Row, asked: Mapping[str, Asked]) -> str:
    return f"{', '.join(entry['metrics'])} of {_of(asked.get(entry['id']))}"


def _ordered(evals: Sequence[Row]) -> list[Row]:
    return sorted(evals, key=lambda entry: (entry["checkpoint_step"], entry["id"]))


def _of(about: Asked | None) -> str:
    if about is None:
        return "-"
    sizes = {"samples": about.samples, "points": about.points}
    parts = [f"{count(number)} {what}" for what, number in sizes.items() if number]
    return ", ".join([*parts, *([about.average] if about.average else [])]) or "-"


def _nfe(about: Asked | None) -> str:
    """The different numbers of network evaluations behind the numbers, each once."""
    values = dict.fromkeys(f"{value:,.0f}" for value in about.nfe.values()) if about is not None else {}
    return ", ".join(values) or "-"
