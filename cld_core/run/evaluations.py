"""Evaluations in their folders: what is asked of a checkpoint, how far that is, what came of it;
and tables of several.

evals/ID/request.json, jobs.jsonl     see `cld_core.run.shards`; the folder is named after the
content of the request evals/ID/report.json, samples.png     the results; the report names the
digests of the chunks that it was made from evals/rows/ROWS_ID/                   rows of all
evaluations of the run, by what they are (`Evaluation.rows`) evals/sweep-ID/sweep.json             a
table of evaluations, one for every combination of settings (`Sweep`)

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
from cld_core.codec import RecordError, Result, find_record, from_plain, to_plain, whole
from cld_core.config.eval import EvalSpec
from cld_core.config.sampling import SamplingSpec
from cld_core.config.train import EmaSpec, ObjectiveSpec
from cld_core.digests import digest
from cld_core.errors import NotFoundError
from cld_core.files import by_age, read_object, write_json
from cld_core.sanitize import one_line

from .checkpoints import TOLD_ABOVE, required_digest, weights_digest
from .folder import RunFolder, is_name
from .shards import Rows, ShardedRequest, ShardedWork
from .work import evaluations_of

# Rows that no evaluation names are kept for so many seconds: somebody may ask for them again.
UNNAMED_S = 24 * 3600.0

# Where things lie on this machine ("weights", "stats", "plugin 0", ...), as in
# `ShardedRequest.files`.
Files = dict[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """A feature extractor, by content.

    Attributes:
        extractor: its name in torch-fidelity.
        layer: the layer whose output the features are.
        weights: SHA-256 of the file of weights; None if it needs none.
        plugin: fingerprint of the recipe's plug-ins, of an extractor that does not come with
            torch-fidelity.
    """

    extractor: str
    layer: str
    weights: str | None = None
    plugin: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For digests and descriptions in files, which omit the plug-in if there is none."""
        content = {
            name: getattr(self, name) for name in ("extractor", "layer", "weights", "plugin")
        }
        return {
            name: value for name, value in content.items() if name != "plugin" or value is not None
        }

    def fingerprint_of_stats(self, data: str) -> str:
        """Of the statistics of a training set with the fingerprint ``data``, whoever computes
        them."""
        return digest({**self.to_dict(), "data": data})[:16]


@dataclass(frozen=True, kw_only=True)
class FeatureInputs(Extraction):
    """What features of samples come from, and what they are compared with.

    Attributes:
        quantisation: how samples become grey levels.
        stats: fingerprint of the statistics of the training set; None if no metric needs them.
    """

    quantisation: str
    stats: str | None = None


@dataclass(frozen=True, kw_only=True)
class EvalRequest(ShardedRequest, EvalSpec):
    """One evaluation of one checkpoint: the `eval` section of a recipe, with what it means for this
    one.

    More samples that are not finite may be allowed later (``max_nonfinite``): that changes no
    number and is not part of the id, so that the work is completed, and not begun again.

    Attributes:
        metrics: names, in the order of the table.
        model_digest: of the parts of the recipe that the model's tensors depend on.
        points: number of test points; 0 if no metric reads them.
        objective: what the test loss is of.
        fid: what features of samples come from; None if no metric reads them.
        elbo: its ``eps`` is never before `ObjectiveSpec.loss_eps`: the network has seen no smaller
            t.
        elbo_eps_asked: `eval.elbo.eps` if that is another one.
        ema: which average of the weights.
        images: whether examples may be large: images, or arrays by the network, a U-Net or one of a
            plug-in; a file has fewer rows of these.
        test_set: what the checksum of the test examples is, if a metric reads them.
        plugins: what tells the plug-ins that compute a part of it from others; None if none does.
    """

    kind: ClassVar[str] = "evaluation"
    sections: ClassVar[tuple[str, ...]] = ("sampling", "objective")

    metrics: tuple[str, ...]
    checkpoint_step: int
    model_digest: str
    sampling: SamplingSpec
    objective: ObjectiveSpec
    # The section names files, the request what is in them.
    fid: FeatureInputs | None = None  # type: ignore[assignment]
    elbo_eps_asked: float | None = None
    ema: EmaSpec = field(default_factory=EmaSpec)
    images: bool = False
    test_set: str | None = None
    plugins: str | None = None

    @property
    def inputs(self) -> FeatureInputs:
        """What features come from."""
        assert self.fid is not None, "a request for features says what they come from"
        return self.fid

    @property
    def id(self) -> str:
        """Name of the evaluation: metrics, step, and a digest of everything that its numbers depend
        on."""
        digest = self._digest(self.metrics, "checkpoint_step")
        return f"{'-'.join(self.metrics)}-{self.checkpoint_step:08d}-{digest}"

    @property
    def settings(self) -> str:
        """A digest of everything that is asked of a checkpoint, whichever it is: the same at every
        step."""
        return self._digest(self.metrics)

    @property
    def sizes(self) -> dict[str, int]:
        """How many rows there are of each kind, in the order of the table of metrics."""
        kinds = {
            metric.rows: registry.ROWS[metric.rows] for metric in registry.metrics(self.metrics)
        }
        return {
            name: min(self.at(place) for place in (kind.over, kind.most) if place)
            for name, kind in kinds.items()
        }

    def chunk(self, kind: str) -> int:
        return registry.ROWS[kind].chunk if self.images else registry.POINTS_CHUNK

    def row_settings(self, kind: str) -> dict[str, Any]:
        """All that each single row of a kind depends on besides the weights, but not how many there
        are."""
        rows = registry.ROWS[kind]
        settings = {
            name: self.at(name)
            for name in ("model_digest", "seed", "ema", "plugins", *rows.depends)
        }
        reads = sorted(registry.read_of(kind, self.metrics))
        return {
            "rows": kind,
            "version": rows.version,
            "chunk": self.chunk(kind),
            "reads": reads,
            **settings,
        }

    def at(self, place: str) -> Any:
        """What is at a place such as "kid.subsets"; None if a section of it is missing."""
        value: Any = self
        for name in place.split("."):
            value = None if value is None else getattr(value, name)
        return to_plain(value)

    def save(self, run: RunFolder) -> Path:
        """Write the request into the evaluation's folder in a run, see `Request.store`, and return
        the folder."""
        return self.store(run.evals / self.id)

    def _digest(self, metrics: Sequence[str], *more: str) -> str:
        names = {
            "model_digest",
            "seed",
            "ema",
            *(name for name in ("plugins", "test_set") if self.at(name)),
            *more,
        }
        for metric in registry.metrics(metrics):
            rows = registry.ROWS[metric.rows]
            names |= {*rows.depends, *metric.same, rows.over, *([rows.most] if rows.most else [])}
        versions = {metric.name: metric.version for metric in registry.metrics(metrics)}
        return digest({"metrics": versions, **{name: self.at(name) for name in names}})[:8]


class Evaluation(ShardedWork):
    """One evaluation of one checkpoint of ``run``."""

    command = "cldctl eval"
    request_type = EvalRequest
    called, doing = "evaluation", "evaluating"
    request: EvalRequest

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.folder.parent.parent)

    @property
    def report(self) -> dict[str, Any] | None:
        """The results; None until there are some of the run's present checkpoint."""
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
        """What identifies its checkpoint, or the average of a length there, whether that was
        reconstructed yet."""
        fix = "What was computed is kept; use another step."
        return required_digest(self.run, self.request.checkpoint_step, fix, length)

    def rows(self, kind: str) -> Rows:
        request = self.request
        made_of = digest(
            {"weights": self.weights(request.ema.length), **request.row_settings(kind)}
        )[:16]
        name = f"{kind}-{request.checkpoint_step:08d}-{made_of}"
        return Rows(self.run.evals / "rows" / name, request.chunk(kind))


def unnamed_rows(run: RunFolder) -> list[Path]:
    """The folders of rows that no evaluation of the run names, and that nobody has written to for a
    day."""
    named = {name for work in evaluations_of(run) for name in _named(work)}
    found = []
    for folder in sorted((run.evals / "rows").glob("*-*")):
        with suppress(OSError):
            if folder.name not in named and time.time() - folder.lstat().st_mtime > UNNAMED_S:
                found.append(folder)
    return found


def _named(work: Evaluation) -> Iterator[str]:
    """The rows of a work's report, and those that it would read now."""
    yield from (
        about["id"] for about in read_report(work.folder).get("rows", {}).values() if "id" in about
    )
    for kind in work.request.sizes:
        with suppress(NotFoundError, OSError):
            yield work.rows(kind).folder.name


class _RowsOf(TypedDict, total=False):
    id: str


@functools.cache
def _layout(metrics: tuple[registry.Metric, ...]) -> Any:
    """The fields of a report that others rely on. What is of another type is left out when it is
    read."""
    record: Any = TypedDict  # mypy knows none whose fields come from a table.
    fields: dict[str, Any] = {"checkpoint_step": int, "created": float}
    fields["ema"] = record("Average", {"length": float, "error": float}, total=False)
    fields["tuned"] = record("Tuned", {"remark": str | None}, total=False)
    fields["rows"] = dict[str, _RowsOf]
    for metric in metrics:
        names = {
            name
            for quantity in metric.quantities
            for name in (quantity.field, quantity.stderr)
            if name
        }
        # These are no results, but shown beside them.
        numbers = dict.fromkeys([*names, "nfe_mean", "true_entropy", "t95"], Result | None)
        fields[metric.name] = record(metric.name, numbers, total=False)
    return record("Report", fields, total=False)


def read_report(folder: Path) -> dict[str, Any]:
    """What the report in an evaluation's folder holds; empty if there is none."""
    with suppress(RecordError):
        report: dict[str, Any] = from_plain(
            _layout(tuple(registry.metrics())), read_object(folder / "report.json")
        )
        return report
    return {}


def current_report(folder: Path) -> dict[str, Any] | None:
    """The report in an evaluation's folder, unless the run has another checkpoint of that step by
    now.

    A checkpoint that was cleared away leaves its numbers valid.
    """
    report = read_report(folder)
    if "checkpoint_step" not in report:
        return None
    checksum = None
    with suppress(OSError):
        checksum = weights_digest(RunFolder(folder.parent.parent), report["checkpoint_step"])
    return report if checksum in (None, report.get("checkpoint")) else None


@dataclass(frozen=True)
class Number:
    """A result; None is what the report does not say.

    Attributes:
        n: the number of samples or test points.
        nfe: the mean number of network evaluations behind it.
        lost: the fraction of samples that are not finite, and not part of it.
        t95: half the width of a 95 % interval, in standard errors.
    """

    value: float
    stderr: float | None = None
    n: int | None = None
    nfe: float | None = None
    lost: float = 0.0
    t95: float = 2.0


def numbers(report: Mapping[str, Any] | None) -> dict[str, Number]:
    """The results in a report by the `key` of their `Quantity`, in the order of the table of
    metrics."""
    results = {}
    for metric, quantity in registry.quantities():
        section = (report or {}).get(metric.name) or {}
        if section.get(quantity.field) is not None:
            value = float(section[quantity.field])
            names = quantity.stderr, "nfe_mean"
            error, nfe = (
                None if (it := section.get(name)) is None else float(it) for name in names
            )
            n = whole(section.get("n", section.get("samples")))
            lost = (whole(section.get("nonfinite")) or 0) / (whole(section.get("samples")) or 1)
            t95 = section.get("t95") or Number.t95
            results[quantity.key] = Number(value, error, n, nfe, lost, t95)
    return results


def remarks(report: Mapping[str, Any] | None) -> list[str]:
    """In words, what readers of the numbers in a report should know, each once."""
    report = report or {}
    average, texts = (
        report.get("ema", {}),
        [one_line(report.get("tuned", {}).get("remark") or "", 400)],
    )
    if (error := average.get("error", 0.0)) > TOLD_ABOVE and "length" in average:
        profile = f"with a relative error of its profile of {error:.2g}"
        texts.append(f"the average of length {average['length']:g} is made of others, {profile}")
    texts += [
        remark_on(metric, report[metric.name]) or ""
        for metric in registry.metrics()
        if metric.name in report
    ]
    return list(dict.fromkeys(filter(None, texts)))


def remark_on(metric: registry.Metric, section: Mapping[str, Any]) -> str | None:
    """What readers of a section should know; None if there is nothing unusual, or the section is
    damaged."""
    try:
        return metric.remark(section)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
        return None


@dataclass(frozen=True)
class Axis:
    """A key of the recipe and its values, as they are typed."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One combination: the value on each axis, and the evaluation that answers it.

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
    """Cells over axes; the last axis becomes the columns of a table. Cells may share an
    evaluation."""

    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]

    def __post_init__(self) -> None:
        keys = {axis.key for axis in self.axes}
        is_whole = all(keys <= cell.values.keys() for cell in self.cells) and all(
            map(is_name, self.evaluations)
        )
        if not (is_whole and keys and all(axis.values for axis in self.axes)):
            raise RecordError("it is not a sweep")

    @property
    def id(self) -> str:
        """Name of its folder, made of its content."""
        axes = [[axis.key, axis.values] for axis in self.axes]
        content = [
            axes,
            [list(cell.evaluations) if cell.repeats else cell.evaluation for cell in self.cells],
        ]
        return f"sweep-{digest(content)[:8]}"

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
    return [
        (file.parent, sweep) for file in files if (sweep := Sweep.load(file.parent)) is not None
    ]
