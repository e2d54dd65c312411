"""Evaluations of checkpoints in their folders: request, progress, results; and tables of several.

    evals/ID/request.json, jobs.jsonl     see `cld_core.run.shards`; ID follows from the request
    evals/ID/report.json, samples.png     the results; the report has the digests of its chunks
    evals/rows/ROWS_ID/                   rows of all evaluations of the run (`Evaluation.rows`)
    evals/sweep-ID/sweep.json             a table of evaluations over settings (`Sweep`)

Requests are made by `cld_core.evaluate.request`, and computed by `cld_core.evaluate.rows`. Loads no
torch or numpy.
"""

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypedDict

from cld_core import metrics as registry
from cld_core.config.eval import EvalSpec
from cld_core.config.sampling import SamplingSpec
from cld_core.config.train import EmaSpec, ObjectiveSpec
from cld_core.digests import digest
from cld_core.errors import NotFoundError
from cld_core.files import by_age, write_json
from cld_core.metrics import Number
from cld_core.records import RecordError, Result, find_record, record, to_plain, whole
from cld_core.sanitize import one_line

from .checkpoints import REMARK_ABOVE, is_replaced, required_digest
from .folder import RunFolder, is_name
from .shards import Rows, ShardedRequest, ShardedWork
from .work import evaluations_of

# Seconds for which rows that no evaluation names are kept: they may be requested again.
UNNAMED_S = 24 * 3600.0

# Paths on this machine by purpose ("weights", "stats", "plugin 0", ...), as in
# `ShardedRequest.files`.
Files = dict[str, str | None]


@record
class Extraction:
    """A feature extractor, by content.

    Attributes:
        extractor: its name in torch-fidelity.
        layer: the layer that the features come out of.
        weights: SHA-256 of the file of weights; None if the extractor needs none.
        plugin: fingerprint of the recipe's plug-ins, if the extractor does not come with
            torch-fidelity.
    """

    extractor: str
    layer: str
    weights: str | None = None
    plugin: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For digests and descriptions in files, which omit the plug-in if there is none."""
        names = ["extractor", "layer", "weights"]
        if self.plugin is not None:
            names.append("plugin")
        return {name: getattr(self, name) for name in names}

    def fingerprint_of_stats(self, data: str) -> str:
        """The fingerprint of the statistics of a training set with the fingerprint ``data``."""
        return digest({**self.to_dict(), "data": data})[:16]


@record
class FeatureInputs(Extraction):
    """The source of features of samples, and the statistics that they are compared with.

    Attributes:
        quantisation: how samples become grey levels.
        stats: fingerprint of the statistics of the training set; None if no metric needs them.
    """

    quantisation: str
    stats: str | None = None


@record
class EvalRequest(ShardedRequest, EvalSpec):
    """One evaluation of one checkpoint: the `eval` section of a recipe, resolved for it.

    A later request may allow more samples that are not finite (``max_nonfinite``). That changes no
    number and is not part of the id, so that the work is completed, and not begun again.

    Attributes:
        metrics: names, in the order of the table.
        model_digest: digest of the parts of the recipe that the model's tensors depend on.
        points: number of test points; 0 if no metric reads them.
        objective: the objective of the test loss.
        fid: the source of features of samples; None if no metric reads them.
        elbo: its ``eps`` is at least `ObjectiveSpec.loss_eps`: the network has seen no smaller t.
        elbo_eps_asked: `eval.elbo.eps` if it is less than that.
        ema: the average of the weights that is evaluated.
        images: whether examples may be large: images, or arrays if the network is a U-Net or one of
            a plug-in; a file has fewer rows of these.
        test_set: the checksum of the test examples, if a metric reads them.
        plugins: fingerprint of the plug-ins that compute a part of it; None if none does.
    """

    kind: ClassVar[str] = "evaluation"
    sections: ClassVar[tuple[str, ...]] = ("sampling", "objective")

    metrics: tuple[str, ...]
    checkpoint_step: int
    model_digest: str
    sampling: SamplingSpec
    objective: ObjectiveSpec
    # The recipe's section names files; the request identifies their content.
    fid: FeatureInputs | None = None  # type: ignore[assignment]
    elbo_eps_asked: float | None = None
    ema: EmaSpec = field(default_factory=EmaSpec)
    images: bool = False
    test_set: str | None = None
    plugins: str | None = None

    @property
    def inputs(self) -> FeatureInputs:
        """The source of features, of a request whose metrics need them."""
        assert self.fid is not None, "a request for features has their source"
        return self.fid

    @property
    def id(self) -> str:
        """Name of the evaluation: metrics, step, and a digest of all that its numbers depend on."""
        digest = self._digest(self.metrics, "checkpoint_step")
        return f"{'-'.join(self.metrics)}-{self.checkpoint_step:08d}-{digest}"

    @property
    def settings(self) -> str:
        """A digest of the request without the checkpoint: the same at every step."""
        return self._digest(self.metrics)

    @property
    def sizes(self) -> dict[str, int]:
        """The number of rows of each kind, in the order of the table of metrics."""
        sizes = {}
        for metric in registry.metrics(self.metrics):
            kind = registry.ROWS[metric.rows]
            sizes[metric.rows] = min(self.at(place) for place in (kind.over, kind.most) if place)
        return sizes

    def chunk(self, kind: str) -> int:
        return registry.ROWS[kind].chunk if self.images else registry.POINTS_CHUNK

    def row_settings(self, kind: str) -> dict[str, Any]:
        """The settings that a single row of a kind depends on, besides the weights."""
        rows = registry.ROWS[kind]
        names = ("model_digest", "seed", "ema", "plugins", *rows.depends)
        settings = {
            "rows": kind,
            "version": rows.version,
            "chunk": self.chunk(kind),
            "reads": sorted(registry.read_of(kind, self.metrics)),
        }
        return settings | {name: self.at(name) for name in names}

    def at(self, place: str) -> Any:
        """The value at a dotted place such as "kid.subsets"; None if a section is missing."""
        value: Any = self
        for name in place.split("."):
            value = None if value is None else getattr(value, name)
        return to_plain(value)

    def save(self, run: RunFolder) -> Path:
        """Write the request into the evaluation's folder (`Request.store`), which is returned."""
        return self.store(run.evals / self.id)

    def _digest(self, metrics: Sequence[str], *more: str) -> str:
        names = {"model_digest", "seed", "ema", *more}
        names.update(name for name in ("plugins", "test_set") if self.at(name))
        versions = {}
        for metric in registry.metrics(metrics):
            versions[metric.name] = metric.version
            rows = registry.ROWS[metric.rows]
            names |= {*rows.depends, *metric.same, rows.over}
            if rows.most:
                names.add(rows.most)
        return digest({"metrics": versions, **{name: self.at(name) for name in names}})[:8]


class Evaluation(ShardedWork):
    """One evaluation of one checkpoint of ``run``."""

    command = "cldctl eval"
    request_type = EvalRequest
    called = "evaluation"
    request: EvalRequest

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.folder.parent.parent)

    @property
    def doing(self) -> str:
        draws = registry.draws_samples(self.request.metrics)
        return "drawing samples" if draws else "evaluating"

    @property
    def unit(self) -> str:
        """Samples, test points or both."""
        over = {registry.ROWS[kind].over for kind in self.request.sizes}
        return " and ".join(sorted(over, reverse=True))

    @property
    def report(self) -> dict[str, Any] | None:
        """The results of the run's present checkpoint; None until there are any."""
        return current_report(self.folder)

    @property
    def is_done(self) -> bool:
        return self.report is not None

    @property
    def outdated(self) -> str | None:
        if self.is_done or not read_report(self.folder):
            return None
        step = self.request.checkpoint_step
        return f"the checkpoint of step {step} was trained again after it was evaluated"

    def weights(self, length: float | None) -> str:
        """`weights_digest` of its checkpoint.

        Raises:
            NotFoundError: the checkpoint is gone.
            OSError: it cannot be read at this moment.
        """
        fix = "What was computed is kept; use another step."
        return required_digest(self.run, self.request.checkpoint_step, fix, length)

    def rows(self, kind: str) -> Rows:
        request = self.request
        weights = self.weights(request.ema.length)
        source = digest({"weights": weights, **request.row_settings(kind)})[:16]
        name = f"{kind}-{request.checkpoint_step:08d}-{source}"
        return Rows(self.run.evals / "rows" / name, request.chunk(kind))


def unnamed_rows(run: RunFolder) -> list[Path]:
    """The folders of rows that no evaluation of the run names, unchanged for `UNNAMED_S`."""
    named = {name for work in evaluations_of(run) for name in _named(work)}
    unnamed = []
    for folder in sorted((run.evals / "rows").glob("*-*")):
        # Another process may remove the folder meanwhile.
        with suppress(OSError):
            if folder.name not in named and time.time() - folder.lstat().st_mtime > UNNAMED_S:
                unnamed.append(folder)
    return unnamed


def _named(work: Evaluation) -> Iterator[str]:
    """The names of the rows in an evaluation's report, and of those that it would read now."""
    for rows in read_report(work.folder).get("rows", {}).values():
        if "id" in rows:
            yield rows["id"]
    for kind in work.request.sizes:
        # Without its checkpoint, an evaluation reads no rows.
        with suppress(NotFoundError, OSError):
            yield work.rows(kind).folder.name


class _RowsOf(TypedDict, total=False):
    id: str


@functools.cache
def _layout(metrics: tuple[registry.Metric, ...]) -> Any:
    """The type of a report: values of other types are left out when it is read."""
    record: Any = TypedDict  # mypy rejects one whose fields come from a table.
    fields: dict[str, Any] = {"checkpoint_step": int, "created": float}
    fields["ema"] = record("Average", {"length": float, "error": float}, total=False)
    fields["tuned"] = record("Tuned", {"remark": str | None}, total=False)
    fields["rows"] = dict[str, _RowsOf]
    for metric in metrics:
        # These are shown beside the results.
        names = {"nfe_mean", "true_entropy", "t95"}
        for quantity in metric.quantities:
            names.add(quantity.field)
            if quantity.stderr:
                names.add(quantity.stderr)
        fields[metric.name] = record(metric.name, dict.fromkeys(names, Result | None), total=False)
    return record("Report", fields, total=False)


def read_report(folder: Path) -> dict[str, Any]:
    """The content of the report in an evaluation's folder; empty if there is none."""
    layout = _layout(tuple(registry.metrics()))
    return find_record(layout, folder / "report.json") or {}


def current_report(folder: Path) -> dict[str, Any] | None:
    """The report in an evaluation's folder, unless the checkpoint of that step was replaced."""
    report = read_report(folder)
    if "checkpoint_step" not in report:
        return None
    run = RunFolder(folder.parent.parent)
    step = report["checkpoint_step"]
    return None if is_replaced(run, step, report.get("checkpoint")) else report


def numbers(report: Mapping[str, Any] | None) -> dict[str, Number]:
    """The results in a report by `Quantity.key`, in the order of the table of metrics."""
    results = {}
    for metric, quantity in registry.quantities():
        section = (report or {}).get(metric.name) or {}
        if (value := section.get(quantity.field)) is not None:
            results[quantity.key] = _number(section, float(value), section.get(quantity.stderr))
    return results


def _number(section: registry.Section, value: float, stderr: float | None) -> Number:
    """A result in a section of a report, with the counts that the section has."""
    samples = whole(section.get("samples"))
    nonfinite = whole(section.get("nonfinite")) or 0
    nfe = section.get("nfe_mean")
    return Number(
        value=value,
        stderr=None if stderr is None else float(stderr),
        n=whole(section.get("n", samples)),
        nfe=None if nfe is None else float(nfe),
        lost=nonfinite / (samples or 1),
        t95=section.get("t95") or Number.t95,
    )


def remarks(report: Mapping[str, Any] | None) -> list[str]:
    """Remarks about the numbers in a report, without duplicates."""
    report = report or {}
    average = report.get("ema", {})
    tuned = report.get("tuned", {}).get("remark") or ""
    messages: list[str | None] = [one_line(tuned, 400)]
    if (error := average.get("error", 0.0)) > REMARK_ABOVE and "length" in average:
        messages.append(
            f"the average of length {average['length']:g} is reconstructed from stored ones; the "
            f"relative error of its profile is {error:.2g}"
        )
    for metric in registry.metrics():
        if metric.name in report:
            messages.append(remark_on(metric, report[metric.name]))
    return list(dict.fromkeys(filter(None, messages)))


def remark_on(metric: registry.Metric, section: registry.Section) -> str | None:
    """The remark on a section; None if nothing is unusual, or the section is damaged."""
    try:
        return metric.remark(section)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
        return None


@dataclass(frozen=True)
class Axis:
    """A key of the recipe and its values, in the form of the command line."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class SweepCell:
    """One combination: the value on each axis, and its evaluation.

    Attributes:
        repeats: the same evaluation with other seeds; results are averaged over all of them.
    """

    values: Mapping[str, str]
    evaluation: str
    repeats: tuple[str, ...] = ()

    @property
    def evaluations(self) -> tuple[str, ...]:
        return (self.evaluation, *self.repeats)


@dataclass(frozen=True)
class Sweep:
    """Cells over axes; the last axis becomes the columns of a table.

    Cells may share an evaluation.
    """

    axes: tuple[Axis, ...]
    cells: tuple[SweepCell, ...]

    def __post_init__(self) -> None:
        keys = {axis.key for axis in self.axes}
        has_values = all(axis.values for axis in self.axes)
        is_full = all(keys <= cell.values.keys() for cell in self.cells)
        if not (keys and has_values and is_full and all(map(is_name, self.evaluations))):
            raise RecordError("it is not a sweep")

    @property
    def id(self) -> str:
        """Name of its folder, made of its content."""
        axes = [[axis.key, axis.values] for axis in self.axes]
        cells = [list(cell.evaluations) if cell.repeats else cell.evaluation for cell in self.cells]
        return f"sweep-{digest([axes, cells])[:8]}"

    @property
    def evaluations(self) -> tuple[str, ...]:
        """The evaluations of all cells, each once."""
        return tuple(dict.fromkeys(name for cell in self.cells for name in cell.evaluations))

    def save(self, run: RunFolder) -> Path:
        """Make the sweep's folder if it is not there yet, and return it."""
        folder = run.evals / self.id
        if not (folder / "sweep.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "sweep.json", {"id": self.id, **to_plain(self, sparse=True)})
        return folder

    @classmethod
    def load(cls, folder: Path) -> "Sweep | None":
        """The sweep of a folder; None if there is none, or it is damaged."""
        return find_record(cls, folder / "sweep.json")


def sweeps_of(run: RunFolder) -> list[tuple[Path, Sweep]]:
    """The sweeps of a run with their folders, oldest first."""
    names = [name for name in run.evaluation_names() if name.startswith("sweep-")]
    files = by_age(run.evals / name / "sweep.json" for name in names)
    sweeps = [(file.parent, Sweep.load(file.parent)) for file in files]
    return [(folder, sweep) for folder, sweep in sweeps if sweep is not None]
