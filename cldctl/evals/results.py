"""Results of evaluations: tables and pictures of sweeps, and runs and groups side by side, with
means over seeds."""

import csv
import io
import itertools
import math
import statistics
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cld_core import metrics as registry
from cld_core.config.schema import leaves
from cld_core.errors import CldError, NotFoundError, RecipeError
from cld_core.files import replacing, write_text
from cld_core.metrics import Number, Quantity, quantities_in
from cld_core.run import RunFolder
from cld_core.run.evaluations import (
    Evaluation,
    Sweep,
    current_report,
    numbers,
    remark_on,
    sweeps_of,
)
from cld_core.run.groups import Group, values_of
from cld_core.run.work import evaluations_of
from cld_core.sanitize import is_count, one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Ratio of the largest to the smallest value from which an axis of a sweep is logarithmic.
_LOG_FROM = 5.0
# The size of a picture of one quantity, in inches.
_SIZE = (5.5, 4.2)


@dataclass(frozen=True)
class SweptResults:
    """The results of a cell of a sweep.

    Attributes:
        values: its value on each axis.
        evaluation: its evaluation; of several, the first one without results, if there is one.
        step: that of the checkpoint; None without results.
        numbers: by the keys of all quantities of the sweep; None if an evaluation lacks the
            quantity. In a cell with repeats, they are means, and their standard errors come from
            the spread between them.
    """

    values: Mapping[str, str]
    evaluation: str
    step: int | None
    numbers: Mapping[str, Number | None]


def rows(run: RunFolder, sweep: Sweep) -> list[SweptResults]:
    """The results of each cell."""
    reports = {name: current_report(run.evals / name) or {} for name in sweep.evaluations}
    results = {name: numbers(report) for name, report in reports.items()}
    table = []
    for cell in sweep.cells:
        own: dict[str, Number | None] = {}
        for quantity in quantities_in(results.values()):
            repeats = [results[name].get(quantity.key) for name in cell.evaluations]
            own[quantity.key] = repeats[0] if quantity.is_reference else averaged(repeats)
        # A cell is complete when all its evaluations are.
        shown = next((name for name in cell.evaluations if not reports[name]), cell.evaluation)
        step = reports[cell.evaluation].get("checkpoint_step")
        table.append(SweptResults(cell.values, shown, step, own))
    return table


def averaged(numbers: Sequence[Number | None]) -> Number | None:
    """The mean of several results, with the standard error of their spread; None if one is missing.

    A single result is itself. Of several, the network evaluations are those of the first one.
    """
    present = [number for number in numbers if number is not None]
    if len(present) < len(numbers):
        return None
    if len(present) == 1:
        return present[0]
    mean, spread = mean_of([number.value for number in present])
    error = None if spread is None else spread / math.sqrt(len(present))
    lost = statistics.fmean(number.lost for number in present)
    t95 = _STUDENT.get(len(present), Number.t95)
    return Number(mean, error, present[0].n, present[0].nfe, lost, t95)


def mean_of(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and the standard deviation (n - 1 in the denominator).

    The latter is None for one value, or if a value is not finite.
    """
    if not all(map(math.isfinite, values)):
        return sum(values) / len(values), None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def finite(value: float | None) -> float | None:
    """The number for JSON, which has neither infinities nor NaN: None in place of these."""
    return value if value is not None and math.isfinite(value) else None


def number_json(number: Number) -> dict[str, Any]:
    """A result for ``--json``."""
    return {
        "value": finite(number.value),
        "stderr": finite(number.stderr),
        "nfe": number.nfe,
    }


def results_in(table: Sequence[SweptResults]) -> list[Quantity]:
    """The quantities of samples or test points in rows, in the order of the metrics."""
    present = quantities_in(row.numbers for row in table)
    return [quantity for quantity in present if not quantity.is_reference]


def fields_of(table: Sequence[SweptResults]) -> list[dict[str, Any]]:
    """The rows of a CSV file: axes, evaluation, results with their standard errors and NFE.

    Missing numbers are None. The column ``KEY_nonfinite``, the fraction of samples that are not
    finite and not part of the result, exists only if some are.
    """
    entries: list[dict[str, Any]] = [
        {**row.values, "evaluation": row.evaluation, "checkpoint_step": row.step} for row in table
    ]
    lost: dict[str, list[float]] = {}
    for quantity in quantities_in(row.numbers for row in table):
        key = quantity.key
        numbers = [row.numbers[key] for row in table]
        for entry, number in zip(entries, numbers, strict=True):
            entry[key] = getattr(number, "value", None)
            entry[f"{key}_stderr"] = getattr(number, "stderr", None)
            # True samples take no evaluations.
            if not quantity.is_reference:
                entry[f"{key}_nfe"] = getattr(number, "nfe", None)
        lost[f"{key}_nonfinite"] = [getattr(number, "lost", 0.0) for number in numbers]
    for name, shares in lost.items():
        if any(shares):
            for entry, share in zip(entries, shares, strict=True):
                entry[name] = share
    return entries


def to_csv(table: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV with a heading; a missing number is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def _lines(
    sweep: Sweep, table: Sequence[SweptResults], quantity: Quantity, positions: Mapping[str, float]
) -> dict[str, list[tuple[float, float, float]]]:
    """The lines of a picture along the last axis, by the values on the others.

    Their points are positions, finite results, and standard errors (0 if unknown).
    """
    *others, along = sweep.axes
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for row in table:
        settings = [f"{axis.key.rpartition('.')[2]} {row.values[axis.key]}" for axis in others]
        points = lines.setdefault(", ".join(settings), [])
        number = row.numbers[quantity.key]
        if number is not None and math.isfinite(number.value):
            points.append((positions[row.values[along.key]], number.value, number.stderr or 0.0))
    return lines


def plot(path: Path, sweep: Sweep, table: Sequence[SweptResults], title: str) -> None:
    """Draw the results of a complete sweep, from its `rows`, as PNG."""
    figure = figure_of(sweep, table, results_in(table))
    figure.suptitle(title)
    with replacing(path) as file:
        figure.savefig(file, dpi=120, format="png")


def figure_of(
    sweep: Sweep, table: Sequence[SweptResults], quantities: Sequence[Quantity]
) -> "Figure":
    """Pictures of quantities side by side, against the last axis of a sweep."""
    from matplotlib.figure import Figure

    along = sweep.axes[-1]
    positions = _positions(along.values)
    width, height = _SIZE
    figure = Figure(figsize=(width * max(1, len(quantities)), height), layout="constrained")
    for index, quantity in enumerate(quantities, 1):
        axes: Any = figure.add_subplot(1, len(quantities), index)
        lines = _lines(sweep, table, quantity, positions)
        for line, (label, points) in enumerate(lines.items()):
            if points:
                data = zip(*points, strict=True)
                axes.errorbar(*data, color=f"C{line}", marker="o", capsize=3, label=label)
        if _is_logarithmic(positions.values()):
            axes.set_xscale("log")
        axes.set_xticks([*positions.values()], labels=[*positions])
        axes.minorticks_off()
        if _is_logarithmic([value for points in lines.values() for _, value, _ in points]):
            set_logarithmic(axes)
        axes.set(xlabel=along.key, ylabel=quantity.label)
        axes.grid(alpha=0.3)
        if len(lines) > 1:
            axes.legend()
    return figure


def _positions(values: Sequence[str]) -> dict[str, float]:
    """The position of each value on the axis: the value if all are numbers, else its index."""
    try:
        return {value: float(value) for value in values}
    except ValueError:
        return {value: float(index) for index, value in enumerate(values)}


def _is_logarithmic(values: Collection[float]) -> bool:
    return bool(values) and max(values) >= _LOG_FROM * min(values) > 0


def set_logarithmic(axes: Any) -> None:
    """Make the vertical axis logarithmic, with labels within a power of ten if it has few."""
    from matplotlib.ticker import LogLocator

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    subs: tuple[float, ...] = (1,)
    if high < 10 * low:
        subs = (1, 1.5, 2, 3, 5)
    elif high < 100 * low:
        subs = (1, 2, 5)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter("{x:.4g}")
    axes.yaxis.set_minor_formatter("")


def is_complete(run: RunFolder, sweep: Sweep) -> bool:
    """Whether all evaluations have results of the present checkpoint."""
    return all(current_report(run.evals / name) is not None for name in sweep.evaluations)


def write_finished(run: RunFolder) -> None:
    """Write `table.csv` and `plot.png` of each complete sweep that has newer reports."""
    for folder, sweep in sweeps_of(run):
        if not is_complete(run, sweep):
            continue
        newest = max(
            (run.evals / name / "report.json").stat().st_mtime for name in sweep.evaluations
        )
        target = folder / "table.csv"
        if not target.is_file() or target.stat().st_mtime < newest:
            table = rows(run, sweep)
            plot(folder / "plot.png", sweep, table, run.name)
            write_text(target, to_csv(fields_of(table)))


RULE = "marked: |a - b| > 2 sqrt(sa^2 + sb^2) against the first run, with standard errors sa and sb"
RULE_OF_MEANS = (
    "marked: |a - b| > sqrt((ta sa)^2 + (tb sb)^2) against the first line: of a mean over n seeds, "
    "s is the standard deviation / sqrt(n) and t Student's factor of a 95 % interval (12.7 for two)"
)
_NONE = (
    "no difference is marked: of the results that can be compared, none differs from the first one "
    "by more than the errors"
)
# Student's factor of a 95 % interval of a mean, by its number of values; 2 for more.
_STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
# Where a standard error comes from few parts (W2, energy distances).
_FEW_PARTS = "; of results with t95 in their reports, this number takes the place of 2"
AVERAGES = (
    "mean ± standard deviation over seeds (n - 1 in the denominator); of a single run, its "
    "own standard error"
)
# The axis of a sweep that is averaged over.
SEED = "train.seed"
# The end of the key of a distance between true samples, after that of the distance.
FLOOR = "_floor"
# The settings with the number of samples or test points; results of one checkpoint may differ in
# them.
COUNTS = ("samples", "points")
# The sections of recipes whose differences between runs are shown, and their names in messages.
_SECTIONS = {"data": "data", "sde": "diffusion", "network": "network", "objective": "objective"}
# The most keys of a section that are shown.
_MOST_KEYS = 6
# Letters of a checksum that distinguish it from others.
_DIGEST = 12


@dataclass(frozen=True, kw_only=True)
class Result:
    """One number of an evaluation.

    Attributes:
        how: the settings in words.
        question: the settings, and the data; results can be compared if these agree.
        keys: keys of the recipe that matter for the results of a run, and their values.
        truth: for the NLL, the true entropy, if that is known.
        floor: for a distance, that of true samples, if the report has it.
        ema_length: the relative length of the average of the weights; None for that of `train.ema`.
    """

    evaluation: str
    step: int
    quantity: Quantity
    number: Number
    how: str
    remark: str | None
    question: Mapping[str, Any]
    keys: Mapping[str, Any] = field(repr=False)
    truth: float | None
    floor: Number | None
    ema_length: float | None

    @property
    def counts(self) -> dict[str, int]:
        """The number of samples or test points."""
        return {name: self.question[name] for name in COUNTS if name in self.question}

    @property
    def size(self) -> int:
        """The number of samples, or else of points; 0 if the result depends on neither."""
        return next(iter(self.counts.values()), 0)

    @property
    def settings(self) -> str:
        """`how`, and the mean number of network evaluations."""
        nfe = self.number.nfe
        return self.how if nfe is None else f"{self.how}, {nfe:.0f} NFE"

    @property
    def of(self) -> str:
        """`counts` in words, such as "2,000 points"."""
        return ", ".join(f"{size:,} {name}" for name, size in self.counts.items())


@dataclass(frozen=True)
class Column:
    """The results of one run at one checkpoint, by `Quantity.key`."""

    run: str
    step: int
    steps: int | None
    results: dict[str, Result]

    @property
    def keys(self) -> Mapping[str, Any]:
        """The keys of its recipe that matter for the results."""
        return next(iter(self.results.values())).keys

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        entry: dict[str, Any] = {"run": self.run, "checkpoint_step": self.step, "steps": self.steps}
        for key, result in self.results.items():
            entry[key] = {**number_json(result.number), "how": result.how, **result.counts}
        return entry


def column(run: RunFolder, checkpoint: str = "last", first: Column | None = None) -> Column:
    """The newest results of a run: of the checkpoint of a step, or of that of its newest report.

    Args:
        first: the column that the new one is compared with. If the run has several results of a
            quantity, one that can be compared is taken.

    Raises:
        NotFoundError: the run has no results, or none of this step.
    """
    every_result = results_of(run)
    if not every_result:
        raise NotFoundError(
            f"{run.name} has no finished evaluation. Make one: `cldctl eval {run.name} --elbo`."
        )
    steps = sorted({result.step for result in every_result})
    if checkpoint != "last" and (not is_count(checkpoint) or int(checkpoint) not in steps):
        raise NotFoundError(
            f"{run.name} has no finished evaluation of step '{one_line(checkpoint)}'. "
            f"There are: {', '.join(map(str, steps))}."
        )
    step = every_result[-1].step if checkpoint == "last" else int(checkpoint)
    own = [result for result in every_result if result.step == step]
    results = {result.quantity.key: result for result in own}
    if first is not None:
        for result in own:
            other = first.results.get(result.quantity.key)
            if other is not None and not unlike(other, result):
                results[result.quantity.key] = result
    return Column(run.name, step, run.progress().get("steps"), results)


def results_of(run: RunFolder) -> list[Result]:
    """The numbers of all finished evaluations, those of the newest report last.

    Raises:
        RecipeError: there are some, and the recipe cannot be read.
    """
    finished = []
    for work in evaluations_of(run):
        report = work.report
        if report is not None:
            finished.append((work, report))
    if not finished:
        return []
    finished.sort(key=lambda pair: pair[1].get("created", 0.0))
    keys = {
        key: value
        for key, value in leaves(run.recipe().to_dict()).items()
        if key.partition(".")[0] in _SECTIONS
    }
    return [result for work, report in finished for result in _results(work, report, keys)]


def _results(work: Evaluation, report: Mapping[str, Any], keys: Mapping[str, Any]) -> list[Result]:
    request = work.request
    values = numbers(report)
    results = []
    # The path identifies the data of a folder.
    data = f"folder {keys['data.path']}" if keys["data.name"] == "folder" else keys["data.name"]
    diffusion = {key: value for key, value in keys.items() if key.startswith("sde.")}
    for metric, quantity in registry.quantities():
        if quantity.key not in values:
            continue
        section = report[metric.name]
        settings = leaves({place: request.at(place) for place in metric.same})
        question = {"data": data, **settings}
        # The objective of training is another quantity for another diffusion.
        if "objective" in metric.same:
            question |= diffusion
        how = [metric.how(request), request.ema.words]
        result = Result(
            evaluation=work.name,
            step=report["checkpoint_step"],
            quantity=quantity,
            number=values[quantity.key],
            how=", ".join(filter(None, how)),
            remark=remark_on(metric, section),
            question=question,
            keys=keys,
            truth=section.get("true_entropy") if quantity.key == "nll" else None,
            floor=values.get(f"{quantity.key}{FLOOR}"),
            ema_length=request.ema.length,
        )
        results.append(result)
    return results


def best_of(results: Sequence[Result]) -> list[Result]:
    """The best finite value of each quantity, among those with the most samples or points."""
    best = []
    for quantity in quantities_in([{result.quantity.key for result in results}]):
        sign = -1 if quantity.larger_is_better else 1
        own = [result for result in results if result.quantity.key == quantity.key]
        finite = [result for result in own if math.isfinite(result.number.value)]
        if finite and not quantity.is_reference:
            best.append(min(finite, key=lambda result: (-result.size, sign * result.number.value)))
    return best


def verdict(first: Result, other: Result) -> str:
    """Whether the other is "better", "worse" or the "same" by `RULE`; empty if it is unknown."""
    a = first.number
    b = other.number
    if a.stderr is None or b.stderr is None or unlike(first, other):
        return ""
    if abs(b.value - a.value) <= math.hypot(a.t95 * a.stderr, b.t95 * b.stderr):
        return "same"
    return "better" if (b.value > a.value) == first.quantity.larger_is_better else "worse"


def rule(compared: "Sequence[Column | ComparedRuns]", marked: str = RULE) -> str | None:
    """The rule ``marked`` if a difference is marked, or that none is.

    None if nothing can be compared.
    """
    first = compared[0].results
    pairs = []
    for other in compared[1:]:
        results = other.results
        pairs += [(first[key], results[key]) for key in first.keys() & results.keys()]
    verdicts = {verdict(*pair) for pair in pairs}
    few = any(result.number.t95 != Number.t95 for pair in pairs for result in pair)
    if verdicts & {"better", "worse"}:
        return RULE + _FEW_PARTS if few and marked == RULE else marked
    return _NONE if "same" in verdicts else None


def unlike(first: Result, other: Result) -> list[str]:
    """Settings that differ between two results, so that they cannot be compared."""
    both = {**first.question, **other.question}
    return [name for name in both if first.question.get(name) != other.question.get(name)]


def differences(columns: Sequence[Column]) -> list[str]:
    """How each run differs from the first one, a line each.

    That is in data, diffusion, network, objective, steps, and how its results were computed.
    """
    first = columns[0]
    texts = []
    for other in columns[1:]:
        parts = [_keys(first, other, section, word) for section, word in _SECTIONS.items()]
        if first.step and other.step != first.step:
            parts.append(f"{other.step / first.step:.3g} times the steps")
        parts += _methods(first, other)
        if any(parts):
            texts.append(f"{other.run} differs from {first.run}: {'; '.join(filter(None, parts))}")
    return texts


def _keys(first: Column, other: Column, section: str, word: str) -> str:
    """The keys of a section in which a run differs; only its name, if that differs."""
    changed = [
        key for key in {**first.keys, **other.keys} if first.keys.get(key) != other.keys.get(key)
    ]
    of_section = [key for key in changed if key.startswith(f"{section}.")]
    if f"{section}.name" in of_section:
        name = f"{section}.name"
        return f"{word} {_shown(other.keys.get(name))}, not {_shown(first.keys.get(name))}"
    shown = [
        f"{key} {_shown(other.keys.get(key))}, not {_shown(first.keys.get(key))}"
        for key in of_section
    ]
    if len(shown) > _MOST_KEYS:
        shown[_MOST_KEYS:] = [f"{len(shown) - _MOST_KEYS} more keys of {section}"]
    return "; ".join(shown)


def _methods(first: Column, other: Column) -> Iterator[str]:
    """How results of a run were computed, such as the sampler, where the first run's were not."""
    labels: dict[tuple[str, str], list[str]] = {}
    for key, result in other.results.items():
        of_first = first.results.get(key)
        if of_first is not None and result.how != of_first.how:
            labels.setdefault((result.how, of_first.how), []).append(result.quantity.label)
    for (how, how_of_first), quantities in labels.items():
        yield f"{', '.join(quantities)} by {how}, not by {how_of_first}"


def _shown(value: Any) -> str:
    return "none" if value is None else one_line(value, 40)


def warnings(columns: Sequence[Column]) -> list[str]:
    """Messages about results that cannot be compared with the first column, or are unusual."""
    quantities = quantities_in(column.results for column in columns)
    return [*incomparable(columns), *_remarks(columns), *_bare(columns, quantities)]


def incomparable(columns: Sequence[Column]) -> list[str]:
    """Messages about results that cannot be compared with the first column, and why."""
    first = columns[0]
    texts = []
    for quantity in quantities_in(column.results for column in columns):
        a = first.results.get(quantity.key)
        for other in columns[1:]:
            b = other.results.get(quantity.key)
            if a is None or b is None:
                continue
            settings = [
                f"{_key(name)} {_text(a, name)} and {_text(b, name)}" for name in unlike(a, b)
            ]
            if settings:
                texts.append(
                    f"{quantity.label} of {first.run} and {other.run} cannot be compared: "
                    f"{'; '.join(settings)}"
                )
    return texts


def _key(place: str) -> str:
    """The key of a recipe for a place in a request, whose seed is `eval.seed`."""
    return f"eval.{place}" if place == "seed" else place


def _text(result: Result, name: str) -> str:
    value = result.question.get(name)
    if value is None:
        return "-"
    if name in ("fid.weights", "fid.stats"):
        return str(value)[:_DIGEST]
    return str(value)


def _remarks(columns: Sequence[Column]) -> list[str]:
    """Messages about unusual results, each once."""
    texts: dict[str, None] = {}
    for column in columns:
        for result in column.results.values():
            if result.remark:
                texts[f"{column.run}: {result.remark}"] = None
    return list(texts)


def _bare(columns: Sequence[Column], quantities: Sequence[Quantity]) -> list[str]:
    """Messages about results without a standard error.

    They name the runs if other results of the quantity have one.
    """
    texts = []
    unmarked = []
    for quantity in quantities:
        having = [column for column in columns if quantity.key in column.results]
        bare = [
            column.run for column in having if column.results[quantity.key].number.stderr is None
        ]
        if len(bare) == len(having) or columns[0].run in bare:
            unmarked.append(quantity.label)
        elif bare:
            texts.append(
                f"{quantity.label} of {', '.join(bare)}: no standard error, "
                f"and so the difference is not marked"
            )
    if unmarked:
        texts.append(f"{', '.join(unmarked)}: no standard error, and so no difference is marked")
    return texts


@dataclass(frozen=True)
class ComparedRuns:
    """Runs that differ only in their seed, evaluated at the same step with the same settings.

    Attributes:
        name: the name of their group, or of a run that belongs to no group.
        cell: their values on the other axes, by key.
    """

    name: str
    cell: Mapping[str, str]
    columns: tuple[Column, ...]

    @property
    def step(self) -> int:
        return self.columns[0].step

    @property
    def quantities(self) -> list[Quantity]:
        """Those that any of the runs has a result of."""
        return quantities_in(column.results for column in self.columns)

    @property
    def results(self) -> dict[str, Result]:
        """By `Quantity.key`; of several runs, means with their standard errors."""
        results = {}
        for quantity in self.quantities:
            own = [*self.by_run(quantity.key).values()]
            number = averaged([result.number for result in own])
            results[quantity.key] = replace(own[0], number=number or own[0].number)
        return results

    def by_run(self, key: str) -> dict[str, Result]:
        """The results of a quantity, by the names of the runs that have it."""
        having = [column for column in self.columns if key in column.results]
        return {column.run: column.results[key] for column in having}

    def average(self, key: str) -> Number:
        """The mean of a quantity that a run has, with the standard deviation as its error.

        The result of a single run keeps its own standard error.
        """
        own = [result.number for result in self.by_run(key).values()]
        if len(own) == 1:
            return own[0]
        return Number(*mean_of([number.value for number in own]))

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        entry = {
            "name": self.name,
            "cell": dict(self.cell),
            "runs": [column.run for column in self.columns],
            "checkpoint_step": self.step,
        }
        for key, result in self.results.items():
            own = self.by_run(key)
            average = self.average(key)
            error = finite(average.stderr)
            entry[key] = {
                "mean": finite(average.value),
                "std": error if len(own) > 1 else None,
                "stderr": None if len(own) > 1 else error,
                "n": len(own),
                "values": {run: finite(one.number.value) for run, one in own.items()},
                "how": result.how,
                **result.counts,
            }
        return entry


def lines(name: str, members: Sequence[tuple[Column, Mapping[str, str]]]) -> list[ComparedRuns]:
    """The runs of a group, grouped by their swept values except for the seed.

    Runs are averaged only if their step and the settings of all their results agree; others are
    separate lines.
    """
    from .plan import meaning

    cells: dict[str, list[ComparedRuns]] = {}
    for member, values in members:
        cell = {key: value for key, value in values.items() if key != SEED}
        same = cells.setdefault(meaning(cell), [])
        for place, line in enumerate(same):
            if not any(_difference(member, column) for column in line.columns):
                same[place] = replace(line, columns=(*line.columns, member))
                break
        else:
            # The values of a cell are written as those of its first run.
            same.append(ComparedRuns(name, same[0].cell if same else cell, (member,)))
    return list(itertools.chain(*cells.values()))


def lines_of_group(
    group: Group, checkpoint: str, spare: Callable[[RunFolder, Exception], object]
) -> tuple[list[ComparedRuns], list[str]]:
    """The lines of a group, and the names of its runs without results of a checkpoint.

    Args:
        spare: called with a run that cannot be read, which is left out.
    """
    members: list[tuple[Column, Mapping[str, str]]] = []
    missing: list[str] = []
    for run in group.runs():
        try:
            members.append((column(run, checkpoint), values_of(run)))
        except NotFoundError:
            missing.append(run.name)
        except (CldError, OSError) as error:
            spare(run, error)
    return lines(group.name, members), missing


def group_warnings(compared: Sequence[ComparedRuns]) -> list[str]:
    """Messages about seeds of a cell that are shown separately, and about unusual results."""
    texts = []
    for first, other in itertools.pairwise(compared):
        if (first.name, first.cell) == (other.name, other.cell):
            pairs = itertools.product(first.columns, other.columns)
            one, two, why = next((*pair, why) for pair in pairs if (why := _difference(*pair)))
            texts.append(f"{one.run} and {two.run} are not averaged: {why}")
    texts += incomparable([line.columns[0] for line in compared])
    return texts + _remarks([column for line in compared for column in line.columns])


@dataclass(frozen=True)
class SideBySide:
    """Results of runs and groups side by side.

    Attributes:
        lines: a line for each run, and for each cell of a group.
        missing: names of the runs of groups that have no results.
        has_groups: whether there are groups. Then the lines are averages over seeds.
    """

    lines: Sequence[ComparedRuns]
    missing: Sequence[str] = ()
    has_groups: bool = False

    @property
    def _columns(self) -> list[Column]:
        return [line.columns[0] for line in self.lines]

    @property
    def warnings(self) -> list[str]:
        return group_warnings(self.lines) if self.has_groups else warnings(self._columns)

    @property
    def remarks(self) -> list[str]:
        """The differences between runs, the warnings, and how the table is to be read."""
        if self.has_groups:
            texts = [*self.warnings, AVERAGES, rule(self.lines, RULE_OF_MEANS)]
        else:
            texts = [*differences(self._columns), *self.warnings, rule(self.lines)]
        return [text for text in texts if text is not None]

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``, with verdicts on the results of all lines after the first."""
        entries = [
            line.to_dict() if self.has_groups else line.columns[0].to_dict() for line in self.lines
        ]
        first = self.lines[0].results
        for line, entry in zip(self.lines[1:], entries[1:], strict=True):
            for key, result in line.results.items():
                if key in first:
                    entry[key]["against_first"] = verdict(first[key], result) or None
        if self.has_groups:
            return {
                "rule": AVERAGES,
                "marked": RULE_OF_MEANS,
                "lines": entries,
                "missing": list(self.missing),
                "warnings": self.warnings,
            }
        return {
            "rule": RULE + _FEW_PARTS,
            "runs": entries,
            "differences": differences(self._columns),
            "warnings": self.warnings,
        }


def side_by_side(
    chosen: Sequence[Group | RunFolder],
    checkpoint: str,
    spare: Callable[[RunFolder, Exception], object],
) -> SideBySide:
    """The results of groups, averaged over seeds, and of runs, each compared with the first.

    Args:
        spare: called with a run that cannot be read, which is left out.

    Raises:
        NotFoundError: a run, or all runs of the groups, have no results, or no results can be read.
    """
    has_groups = any(isinstance(entry, Group) for entry in chosen)
    if has_groups:
        chosen = list({entry.name: entry for entry in chosen}.values())
    compared: list[ComparedRuns] = []
    missing: list[str] = []
    for entry in chosen:
        if isinstance(entry, Group):
            of_group, without = lines_of_group(entry, checkpoint, spare)
            compared += of_group
            missing += without
            continue
        first = compared[0].columns[0] if compared else None
        try:
            compared.append(ComparedRuns(entry.name, {}, (column(entry, checkpoint, first),)))
        except (RecipeError, OSError) as error:
            spare(entry, error)
    if not compared:
        raise NotFoundError(
            f"no run of {', '.join(entry.name for entry in chosen)} has a finished evaluation "
            f"(--checkpoint {checkpoint}) that can be read. Make some: "
            f"`cldctl eval {chosen[0].name} --elbo`."
        )
    return SideBySide(compared, missing, has_groups)


def _difference(one: Column, other: Column) -> str | None:
    """Why two runs are not averaged; None if they can be."""
    if one.step != other.step:
        return f"they were evaluated at steps {one.step} and {other.step}"
    names: list[str] = []
    for key in one.results.keys() & other.results.keys():
        first = one.results[key]
        second = other.results[key]
        differing = unlike(first, second)
        if not differing and first.how != second.how:
            differing = ["how"]
        names += differing
    return f"they differ in {', '.join(dict.fromkeys(names))}" if names else None
