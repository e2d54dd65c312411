"""Runs side by side: the newest results of each, and which differ by more than their errors."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cld_core.errors import NotFoundError
from cld_core.evaluation import registry
from cld_core.evaluation.definitions import Quantity
from cld_core.evaluation.evaluation import Evaluation, evaluations_of
from cld_core.evaluation.report_numbers import Number, network_evaluations, numbers, remark_on
from cld_core.evaluation.request import EvalRequest
from cld_core.recipe.tree import leaves
from cld_core.run import RunFolder
from cld_core.texts import is_count, one_line

RULE = "marked: |a - b| > 2 sqrt(sa^2 + sb^2) against the first run, with standard errors sa and sb"
_NONE = (
    "no difference is marked: of the results that can be compared, none differs by more than 2 sqrt(sa^2 + sb^2) from "
    "that of the first run, with standard errors sa and sb"
)
# The settings that say of how many samples or test points a result is; results of one checkpoint may differ in it.
COUNTS = ("samples", "points")
# The sections of recipes of which it is said how runs differ, in the words of the field, and so many keys at most.
_SECTIONS = {"data": "data", "sde": "diffusion", "network": "network", "objective": "objective"}
_MOST_KEYS = 6
# Data sets that are what lies in their folder.
_UNNAMED = ("folder",)
# Letters of a checksum that tell it from others.
_DIGEST = 12


@dataclass(frozen=True)
class Result:
    """One number of a run, the request that it answers, and remarks for its readers."""

    number: Number
    nfe: float | None
    how: str
    remark: str | None = None
    question: dict[str, Any] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Of how many samples or test points it is."""
        return {name: self.question[name] for name in COUNTS if name in self.question}


@dataclass(frozen=True)
class Column:
    """The results of one run at one checkpoint, by `Quantity.key`, and the keys of its recipe that matter for them."""

    run: str
    step: int
    steps: int | None
    results: dict[str, Result]
    keys: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        entries = {
            key: {"value": result.number.value, "stderr": result.number.stderr, "nfe": result.nfe, "how": result.how}
            | result.counts
            for key, result in self.results.items()
        }
        return {"run": self.run, "checkpoint_step": self.step, "steps": self.steps, **entries}


def column(run: RunFolder, checkpoint: str = "last") -> Column:
    """The newest finished results of a run: of the checkpoint of a step, or of that of its newest report.

    Raises:
        NotFoundError: there are none.
    """
    finished = [(work, report) for work in evaluations_of(run) if (report := work.report) is not None]
    finished.sort(key=lambda pair: pair[1].get("created", 0.0))
    if not finished:
        raise NotFoundError(f"{run.name} has no finished evaluation. Make one: `cldctl eval {run.name} --elbo`.")
    step = finished[-1][1]["checkpoint_step"] if checkpoint == "last" else _step(run, checkpoint, finished)
    keys = {key: value for key, value in leaves(run.recipe().to_dict()).items() if key.partition(".")[0] in _SECTIONS}
    data = keys["data.name"] if keys["data.name"] not in _UNNAMED else f"{keys['data.name']} {keys['data.path']}"
    diffusion = {key: value for key, value in keys.items() if key.startswith("sde.")}
    results: dict[str, Result] = {}
    for work, report in finished:
        if report["checkpoint_step"] == step:
            results |= results_of(work, report, data, diffusion)
    return Column(run.name, step, run.progress().get("steps"), results, keys)


def results_of(
    work: Evaluation, report: dict[str, Any], data: str, diffusion: Mapping[str, Any] | None = None
) -> dict[str, Result]:
    """The results in the report of an evaluation, with the requests that they answer.

    Args:
        data: what tells the data set from others.
        diffusion: the keys of ``sde``: what a network is trained on is another quantity for another diffusion.
    """
    request, values, results = work.request, numbers(report), {}
    for metric, quantity in registry.quantities():
        if quantity.key in values:
            of_training = (diffusion or {}) if "objective" in metric.same else {}
            question = {"data": data, **_settings(request, metric.same), **of_training}
            nfe, remark = network_evaluations(report, quantity.key), remark_on(metric, report[metric.name])
            how = ", ".join(filter(None, [metric.how(request), request.ema.words]))
            results[quantity.key] = Result(values[quantity.key], nfe, how, remark, question)
    return results


def _settings(request: EvalRequest, places: Sequence[str]) -> dict[str, Any]:
    """The values at places of a request; sections are split into keys, so that only keys that differ are named."""
    values = {place: request.at(place) for place in places}
    parts = {place: value for place, value in values.items() if isinstance(value, dict)}
    inner = {f"{place}.{name}": value for place, part in parts.items() for name, value in part.items()}
    return {place: value for place, value in values.items() if place not in parts} | inner


def quantities_of(columns: Sequence[Column]) -> list[Quantity]:
    """The results that any column has, in the order of the table of metrics."""
    return [
        quantity for _, quantity in registry.quantities() if any(quantity.key in column.results for column in columns)
    ]


def verdict(quantity: Quantity, first: Result, other: Result) -> str:
    """Whether the other is "better", "worse" or the "same" by `RULE`; empty if that cannot be said."""
    a, b = first.number, other.number
    if a.stderr is None or b.stderr is None or unlike(first, other):
        return ""
    if abs(b.value - a.value) <= 2.0 * math.hypot(a.stderr, b.stderr):
        return "same"
    return "better" if (b.value > a.value) == quantity.larger_is_better else "worse"


def rule(columns: Sequence[Column]) -> str | None:
    """The rule by which differences are marked, or that none is marked; None if nothing can be compared."""
    first, others = columns[0], columns[1:]
    verdicts = {
        verdict(quantity, first.results[quantity.key], other.results[quantity.key])
        for quantity in quantities_of(columns)
        for other in others
        if quantity.key in first.results and quantity.key in other.results
    }
    if verdicts & {"better", "worse"}:
        return RULE
    return _NONE if "same" in verdicts else None


def unlike(first: Result, other: Result) -> list[str]:
    """Settings that differ between two results, so that they cannot be compared."""
    both = {**first.question, **other.question}
    return [name for name in both if first.question.get(name) != other.question.get(name)]


def differences(columns: Sequence[Column]) -> list[str]:
    """How each run differs from the first one, a line each: data, diffusion, network, objective, and steps."""
    first, texts = columns[0], []
    for other in columns[1:]:
        parts = [_keys(first, other, section, word) for section, word in _SECTIONS.items()]
        if first.step and other.step != first.step:
            parts.append(f"{other.step / first.step:.3g} times the steps")
        if any(parts):
            texts.append(f"{other.run} differs from {first.run}: {'; '.join(filter(None, parts))}")
    return texts


def _keys(first: Column, other: Column, section: str, word: str) -> str:
    """In which keys of a section a run differs; in the name of what it chooses, if that is another."""
    changed = [key for key in first.keys | other.keys if first.keys.get(key) != other.keys.get(key)]
    of_section = [key for key in changed if key.startswith(f"{section}.")]
    if f"{section}.name" in of_section:
        name = f"{section}.name"
        return f"{word} {_shown(other.keys.get(name))}, not {_shown(first.keys.get(name))}"
    shown = [f"{key} {_shown(other.keys.get(key))}, not {_shown(first.keys.get(key))}" for key in of_section]
    more = [f"{len(shown) - _MOST_KEYS} more keys of {section}"] if len(shown) > _MOST_KEYS else []
    return "; ".join([*shown[:_MOST_KEYS], *more])


def _shown(value: Any) -> str:
    return "none" if value is None else one_line(value, 40)


def warnings(columns: Sequence[Column]) -> list[str]:
    """Messages: what cannot be compared with the first column, and why; and what is unusual about results."""
    first, quantities = columns[0], quantities_of(columns)
    texts = []
    for quantity in quantities:
        for other in columns[1:]:
            if quantity.key not in first.results or quantity.key not in other.results:
                continue
            a, b = first.results[quantity.key], other.results[quantity.key]
            differing = [f"{name} {_text(a, name)} and {_text(b, name)}" for name in unlike(a, b)]
            if differing:
                which = f"{quantity.label} of {first.run} and {other.run}"
                texts.append(f"{which} cannot be compared: {'; '.join(differing)}")
    remarks = (f"{it.run}: {result.remark}" for it in columns for result in it.results.values() if result.remark)
    texts += dict.fromkeys(remarks)
    return texts + _bare(columns, quantities)


def _bare(columns: Sequence[Column], quantities: Sequence[Quantity]) -> list[str]:
    """Messages: which results have no standard error, and of which runs if other results of their kind have one."""
    texts, unmarked = [], []
    for quantity in quantities:
        having = [it for it in columns if quantity.key in it.results]
        bare = [it.run for it in having if it.results[quantity.key].number.stderr is None]
        if len(bare) == len(having) or columns[0].run in bare:
            unmarked.append(quantity.label)
        elif bare:
            which = f"{quantity.label} of {', '.join(bare)}"
            one = f"{which} has no standard error: its difference is not marked"
            many = f"{which} have no standard error: their differences are not marked"
            texts.append(one if len(bare) == 1 else many)
    if unmarked:
        verb = "has" if len(unmarked) == 1 else "have"
        texts.append(f"{', '.join(unmarked)} {verb} no standard error: no difference is marked")
    return texts


def to_json(columns: Sequence[Column]) -> dict[str, Any]:
    """A comparison for ``--json``, with a verdict on each number of the columns after the first."""
    entries = [column.to_dict() for column in columns]
    for column, entry in zip(columns[1:], entries[1:], strict=True):
        for key in column.results.keys() & columns[0].results.keys():
            first, other = columns[0].results[key], column.results[key]
            entry[key]["against_first"] = verdict(registry.quantity(key), first, other) or None
    return {"rule": RULE, "runs": entries, "differences": differences(columns), "warnings": warnings(columns)}


def _step(run: RunFolder, checkpoint: str, finished: Sequence[tuple[Evaluation, dict[str, Any]]]) -> int:
    steps = sorted({report["checkpoint_step"] for _, report in finished})
    if not is_count(checkpoint) or int(checkpoint) not in steps:
        known = ", ".join(map(str, steps))
        raise NotFoundError(
            f"{run.name} has no finished evaluation of step '{one_line(checkpoint)}'. There are: {known}."
        )
    return int(checkpoint)


def _text(result: Result, name: str) -> str:
    value = result.question.get(name)
    return "-" if value is None else str(value)[:_DIGEST] if name in ("fid.weights", "fid.stats") else str(value)
