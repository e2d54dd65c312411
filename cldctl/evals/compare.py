"""Runs side by side: the newest results of each, and which differ by more than their errors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cld_core.errors import NotFoundError
from cld_core.evaluation.results import BY_KEY, METRICS, Metric, Number, evaluations_of_network, numbers
from cld_core.run import RunFolder
from cld_core.run.atomic import read_json
from cldctl.cluster.state import current_report, eval_folders

RULE = "marked: |a - b| > 2 sqrt(sa^2 + sb^2) against the first run, with standard errors sa and sb"
# What makes two results of a metric answers to different questions, as dotted places in request or report.
_FEATURES = ("samples", "fid.extractor", "fid.layer", "fid.weights", "fid.quantisation", "fid.stats")
_SAME_QUESTION = {
    "fid": _FEATURES,
    "kid": (*_FEATURES, "kid.subsets", "kid.subset_size"),
    "isc": (*_FEATURES[:-1], "isc.splits"),
    "prc": (*_FEATURES, "prc.neighbours"),
    "elbo": ("points", "seed", "elbo.eps"),
    "loss": ("points", "seed", "loss.objective"),
}
# Of how many samples, or test data, a result is; results of one checkpoint may differ in it.
COUNTS = {"samples": "samples", "points": "test data"}
# Letters of a checksum that tell it from others.
_DIGEST = 12


@dataclass(frozen=True)
class Result:
    """One number of a run, and what was asked to get it."""

    number: Number
    nfe: float | None
    how: str
    question: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """The results of one run at one checkpoint, by `Metric.key`."""

    run: str
    step: int
    steps: int | None
    results: dict[str, Result]

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        found = {
            key: {"value": result.number.value, "stderr": result.number.stderr, "nfe": result.nfe, "how": result.how}
            | {name: result.question[name] for name in COUNTS if name in result.question}
            for key, result in self.results.items()
        }
        return {"run": self.run, "checkpoint_step": self.step, "steps": self.steps, **found}


def column(run: RunFolder, checkpoint: str = "last") -> Column:
    """The newest finished results of a run: of the checkpoint of a step, or of that of its newest report.

    Raises:
        NotFoundError: there are none.
    """
    found = [(path, report) for path in eval_folders(run) if (report := current_report(path)) is not None]
    found.sort(key=lambda pair: pair[1].get("created", 0.0))
    if not found:
        raise NotFoundError(f"{run.name} has no finished evaluation. Make one: `cldctl eval {run.name} --elbo`.")
    step = found[-1][1]["checkpoint_step"] if checkpoint == "last" else _step(run, checkpoint, found)
    results: dict[str, Result] = {}
    for path, report in found:
        if report["checkpoint_step"] == step:
            request = read_json(path / "request.json") or {}
            for key, number in numbers(report).items():
                nfe = evaluations_of_network(report, key)
                results[key] = Result(number, nfe, _how(key, request), _question(run, key, request))
    return Column(run.name, step, run.progress().get("steps"), results)


def keys_of(columns: Sequence[Column]) -> list[str]:
    """The results that any column has, in their fixed order."""
    return [metric.key for metric in METRICS if any(metric.key in column.results for column in columns)]


def verdict(metric: Metric, first: Result, other: Result) -> str:
    """better, worse or same than the first by `RULE`; empty where it cannot be told."""
    a, b = first.number, other.number
    if a.stderr is None or b.stderr is None or unlike(first, other):
        return ""
    if abs(b.value - a.value) <= 2.0 * math.hypot(a.stderr, b.stderr):
        return "same"
    return "better" if (b.value > a.value) == metric.larger_is_better else "worse"


def unlike(first: Result, other: Result) -> list[str]:
    """Settings that make two results answers to different questions."""
    both = {**first.question, **other.question}
    return [name for name in both if first.question.get(name) != other.question.get(name)]


def warnings(columns: Sequence[Column]) -> list[str]:
    """In words: what cannot be compared with the first column, and why."""
    first, found = columns[0], []
    for key in keys_of(columns):
        label = BY_KEY[key].label
        for other in columns[1:]:
            if key not in first.results or key not in other.results:
                continue
            a, b = first.results[key], other.results[key]
            differing = [f"{name} {_text(a, name)} and {_text(b, name)}" for name in unlike(a, b)]
            if differing:
                found.append(f"{label} of {first.run} and {other.run} cannot be compared: {'; '.join(differing)}")
    bare = [
        BY_KEY[key].label
        for key in keys_of(columns)
        if any(key in column.results and column.results[key].number.stderr is None for column in columns)
    ]
    if bare:
        verb = "has" if len(bare) == 1 else "have"
        found.append(f"{', '.join(bare)} {verb} no standard error: no difference is marked")
    return found


def to_json(columns: Sequence[Column]) -> dict[str, Any]:
    """Everything of a comparison, with a verdict on each number of the columns after the first."""
    entries = [column.to_dict() for column in columns]
    for column, entry in zip(columns[1:], entries[1:], strict=True):
        for key in column.results.keys() & columns[0].results.keys():
            entry[key]["against_first"] = verdict(BY_KEY[key], columns[0].results[key], column.results[key]) or None
    return {"rule": RULE, "runs": entries, "warnings": warnings(columns)}


def _how(key: str, request: dict[str, Any]) -> str:
    """In words: the settings that runs may well differ in."""
    asked = BY_KEY[key].request
    settings = request.get(asked) or {}
    if asked == "elbo":
        return f"velocities {settings.get('velocities')}, probes {settings.get('probes')}"
    if asked == "loss":
        return f"draws {settings.get('draws')}"
    return str((request.get("sampling") or {}).get("method", ""))


def _question(run: RunFolder, key: str, request: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"data": run.recipe().data.name}
    for place in _SAME_QUESTION[BY_KEY[key].request]:
        section, _, name = place.rpartition(".")
        found[place] = (request.get(section) or {}).get(name) if section else request.get(name)
    return found


def _step(run: RunFolder, checkpoint: str, found: Sequence[tuple[Any, dict[str, Any]]]) -> int:
    steps = sorted({report["checkpoint_step"] for _, report in found})
    if not checkpoint.isdigit() or int(checkpoint) not in steps:
        there = ", ".join(map(str, steps))
        raise NotFoundError(f"{run.name} has no finished evaluation of step '{checkpoint}'. There are: {there}.")
    return int(checkpoint)


def _text(result: Result, name: str) -> str:
    value = result.question.get(name)
    return "-" if value is None else str(value)[:_DIGEST] if name in ("fid.weights", "fid.stats") else str(value)
