"""The tables of metrics, of kinds of rows, and of the numbers of a report. Loads no torch.

An evaluation computes rows, one per sample or test point, of one or several kinds. A metric makes a
section of the report of all rows of a kind. Several metrics may read the same rows. The order of
`METRICS` is that of every list of metrics. Implementations are named, and imported when they are
needed. Plug-ins add to the tables by `cld_core.register`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cld_core.errors import UsageError, did_you_mean
from cld_core.plugins import resolve, table

if TYPE_CHECKING:
    from cld_core.evaluate.rows import Table
    from cld_core.run.evaluations import EvalRequest

# The kinds of examples: images; vectors, which are arrays of any other shape, flattened; and "law"
# if their density is known, or any number of true samples can be drawn.
Kind = Literal["images", "vectors", "law"]
# The section of a report that a metric makes, as plain values.
Section = Mapping[str, Any]
# Rows of images in a file, unless their kind has another number. A killed task loses a chunk.
CHUNK = 128
# Rows of points in the plane in a file. They are computed at once: in smaller chunks, a likelihood
# bound takes up to 1.7 times as long.
POINTS_CHUNK = 1024


@dataclass(frozen=True, kw_only=True)
class RowKind:
    """A kind of rows.

    Attributes:
        over: the field of a request that is the number of rows.
        depends: the other fields of a request, or places in them ("flow.rtol"), that a row depends
            on, besides the model, the seed and its index.
        implementation: "module:Class" of the `evaluate.rows.RowComputer` that computes them; with
            torch.
        version: raised when the meaning of rows changes, so that old and new never share a folder.
        chunk: rows of images in a file; of points there are `POINTS_CHUNK`.
        of: the kind of data that rows of this kind exist for; None: of all data.
        most: a place in a request ("flow.samples") that holds the largest number of rows; no single
            row depends on it.
        along_flow: rows compare samples with the probability flow, which the sampler has to
            approximate.
    """

    over: Literal["samples", "points"]
    depends: tuple[str, ...]
    implementation: str
    version: int = 1
    chunk: int = CHUNK
    of: Literal["images", "vectors"] | None = None
    most: str | None = None
    along_flow: bool = False


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number of a report.

    Attributes:
        key: its name in tables and in ``--json``.
        field: where it is in the metric's section of the report.
        label: its name in tables and plots.
        stderr: the field of its standard error, in the same unit.
        is_reference: it is the best value that samples can have, and does not depend on them.
            Tables and plots over settings omit it.
    """

    key: str
    field: str = "value"
    label: str
    stderr: str | None = None
    larger_is_better: bool = False
    digits: int = 3
    is_reference: bool = False


@dataclass(frozen=True)
class Number:
    """A result; a field that the report does not have is None.

    Attributes:
        n: the number of samples or test points.
        nfe: the mean number of network evaluations for one of them.
        lost: the fraction of samples that were left out because they are not finite.
        t95: half the width of a 95 % interval, in standard errors.
    """

    value: float
    stderr: float | None = None
    n: int | None = None
    nfe: float | None = None
    lost: float = 0.0
    t95: float = 2.0


def _sampler(request: "EvalRequest") -> str:
    """A description of how samples were drawn."""
    spec = request.sampling
    return spec.method if spec.precision == "fp32" else f"{spec.method} in {spec.precision}"


def remark_on_nonfinite(count: int, of: int) -> str | None:
    """A remark on the number of samples that are not finite; None if there are none."""
    if not count:
        return None
    return f"{count:,} of {of:,} samples {'is' if count == 1 else 'are'} not finite"


def _nonfinite(section: Section) -> str | None:
    return remark_on_nonfinite(section.get("nonfinite", 0), section.get("samples", 0))


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric that an evaluation can compute.

    Attributes:
        name: its section of the report, and its flag.
        help: one line for the command line.
        rows: the kind of rows that it reads.
        quantities: the numbers that are shown.
        section: makes the section of the report from all rows: a function, or "module:function".
        how: describes the settings in which compared runs may differ; by default, how samples were
            drawn.
        remark: describes anything unusual about the numbers of a section, or returns None; by
            default, the number of samples that are not finite.
        reads: the arrays of a row that it needs, and that not all rows of this kind have.
        reference: the statistics of the training set that it needs; "classes": features and labels
            of the images.
        needs_labels: whether it is only for class-conditional models.
        needs_law: whether it is only for data whose density is known.
        same: places in a request ("kid.subsets") that must be equal for two results to be
            comparable, among them all places that its numbers depend on and its rows do not.
        least: (key, spare): the value of this key in its section of the recipe may be at most
            samples - spare.
        version: raised when the meaning of its numbers changes, so that old and new never share a
            folder.
    """

    name: str
    help: str
    rows: str
    quantities: tuple[Quantity, ...]
    section: "str | Callable[[Table], Section]"
    how: "Callable[[EvalRequest], str]" = _sampler
    remark: Callable[[Section], str | None] = _nonfinite
    reads: tuple[str, ...] = ()
    reference: Literal["moments", "features", "classes"] | None = None
    needs_labels: bool = False
    needs_law: bool = False
    same: tuple[str, ...] = ()
    least: tuple[str, int] | None = None
    version: int = 1

    @property
    def needs_features(self) -> bool:
        """Whether it needs the features of single training images."""
        return self.reference in ("features", "classes")

    @property
    def flag(self) -> str:
        return f"--{self.name}"


def _of_bound(request: "EvalRequest") -> str:
    spec = request.elbo
    return f"velocities {spec.velocities}, probes {spec.probes}, from t = {spec.eps:g}"


def _left_out(section: Section) -> str | None:
    """A remark on classes that are not part of the means, and on samples that are not finite."""
    texts = []
    if left_out := section.get("left_out", 0):
        number = left_out + len(section["classes"])
        texts.append(
            f"{left_out} of {number} classes have too few samples or images, and are left out of "
            "the means"
        )
    return _joined(*texts, _nonfinite(section))


def _on_units(section: Section) -> str | None:
    """A remark on the units of a distance, its interval, and samples that are not finite."""
    units = f"distances are in {section['units']}" if "units" in section else None
    if units and section.get("t95"):
        units += f", with 95 % intervals of ± {section['t95']:.2g} standard errors"
    return _joined(units, _nonfinite(section))


def _joined(*remarks: str | None) -> str | None:
    return "; ".join(filter(None, remarks)) or None


def _on_bound(section: Section) -> str | None:
    texts = []
    if section.get("conditional"):
        texts.append("the bound is of log p(x | label), each test point given its label")
    if "eps_asked" in section:
        texts.append(
            f"the bound starts at t = {section['eps']:g}, because training used no smaller t "
            "(objective.loss_eps)"
        )
    bias = section.get("tolerance_bias") or 0.0
    error = section.get("stderr")
    if error and abs(bias) >= 0.1 * error:
        unit = section["unit"]
        texts.append(
            f"the solver's tolerance changes the result by about {bias:+.1g} {unit}: "
            "lower eval.elbo.rtol and eval.elbo.atol"
        )
    return _joined(*texts)


# Places in a request that must be equal for two results to be comparable.
_FEATURES = ("fid.extractor", "fid.layer", "fid.weights", "fid.plugin", "fid.quantisation")
_SAME_FEATURES = ("samples", *_FEATURES)
_SAME_REFERENCE = (*_SAME_FEATURES, "fid.stats")
_METRICS = (
    Metric(
        name="fid",
        help="Fréchet Inception Distance to the training images.",
        rows="features",
        section="cld_core.evaluate.features:fid",
        reference="moments",
        same=_SAME_REFERENCE,
        quantities=(Quantity(key="fid", label="FID"),),
    ),
    Metric(
        name="kid",
        help="Kernel Inception Distance to the training images.",
        rows="features",
        section="cld_core.evaluate.features:kid",
        reference="features",
        same=(*_SAME_REFERENCE, "kid"),
        least=("subset_size", 0),
        quantities=(Quantity(key="kid", label="KID", digits=5),),
    ),
    Metric(
        name="isc",
        help="Inception Score.",
        rows="features",
        section="cld_core.evaluate.features:isc",
        reads=("scores",),
        same=(*_SAME_FEATURES, "isc"),
        least=("splits", 0),
        quantities=(Quantity(key="isc", label="Inception Score", larger_is_better=True),),
    ),
    Metric(
        name="prc",
        help="Precision and recall.",
        rows="features",
        section="cld_core.evaluate.features:prc",
        reference="features",
        same=(*_SAME_REFERENCE, "prc"),
        least=("neighbours", 1),
        quantities=(
            Quantity(key="precision", field="precision", label="precision", larger_is_better=True),
            Quantity(key="recall", field="recall", label="recall", larger_is_better=True),
        ),
    ),
    Metric(
        name="classes",
        help="FID, precision and recall of each class.",
        rows="features",
        section="cld_core.evaluate.features:classes",
        reference="classes",
        needs_labels=True,
        same=(*_SAME_REFERENCE, "prc"),
        quantities=(
            Quantity(key="class_fid", field="fid", label="FID in a class"),
            Quantity(
                key="class_precision",
                field="precision",
                label="precision in a class",
                larger_is_better=True,
            ),
            Quantity(
                key="class_recall", field="recall", label="recall in a class", larger_is_better=True
            ),
        ),
        remark=_left_out,
    ),
    Metric(
        name="w2",
        help="Sliced Wasserstein-2 distance from true samples (toy data) or test data (arrays).",
        rows="vectors",
        section="cld_core.evaluate.vectors:w2",
        same=("samples", "w2"),
        remark=_on_units,
        quantities=(
            Quantity(key="w2", label="sliced W2", stderr="stderr", digits=4),
            Quantity(
                key="w2_floor",
                field="floor",
                stderr="floor_stderr",
                label="W2 of two true sets",
                digits=4,
                is_reference=True,
            ),
        ),
    ),
    Metric(
        name="energy",
        help="Energy distance from true samples (toy data) or test data (arrays).",
        rows="vectors",
        section="cld_core.evaluate.vectors:energy",
        same=("samples", "w2"),
        remark=_on_units,
        quantities=(Quantity(key="energy", label="energy distance", stderr="stderr", digits=4),),
    ),
    Metric(
        name="density",
        help="Mean true log-density of the samples (toy data).",
        rows="vectors",
        section="cld_core.evaluate.vectors:density",
        needs_law=True,
        same=("samples",),
        quantities=(
            Quantity(
                key="density", label="log-density, nats", stderr="stderr", larger_is_better=True
            ),
        ),
    ),
    Metric(
        name="flow-distance",
        help="RMS distance from the network's own flow, for samplers without noise.",
        rows="flow",
        section="cld_core.evaluate.likelihood:flow_distance",
        same=("seed", "samples", "flow"),
        quantities=(
            Quantity(
                key="flow_distance", label="distance from the flow", stderr="stderr", digits=4
            ),
        ),
    ),
    Metric(
        name="class-law",
        help=(
            "Sliced W2 and log-density of the samples of each class against its true distribution "
            "(labelled toy data)."
        ),
        rows="vectors",
        section="cld_core.evaluate.vectors:class_law",
        same=("samples", "w2"),
        needs_labels=True,
        needs_law=True,
        quantities=(
            Quantity(key="class_w2", field="w2", label="sliced W2 in a class", digits=4),
            Quantity(
                key="class_w2_floor",
                field="floor",
                label="W2 of two true sets of a class",
                digits=4,
                is_reference=True,
            ),
            Quantity(
                key="class_density",
                field="density",
                stderr="density_stderr",
                label="log-density given the label, nats",
                larger_is_better=True,
            ),
            Quantity(
                key="class_accuracy",
                field="accuracy",
                label="samples in their class",
                digits=4,
                larger_is_better=True,
            ),
        ),
    ),
    Metric(
        name="elbo",
        help="Upper bound of the negative log-likelihood.",
        rows="elbo",
        section="cld_core.evaluate.likelihood:elbo",
        same=("points", "seed", "elbo.eps"),
        quantities=(
            Quantity(key="bpd", field="bpd", label="bits/dim", stderr="stderr"),
            Quantity(key="nll", field="nll", label="NLL bound, nats", stderr="stderr"),
        ),
        how=_of_bound,
        remark=_on_bound,
    ),
    Metric(
        name="loss",
        help="Training objective on the test data.",
        rows="loss",
        section="cld_core.evaluate.likelihood:loss",
        same=("points", "seed", "objective"),
        quantities=(Quantity(key="loss", label="test loss", stderr="stderr"),),
        how=lambda request: f"draws {request.loss.draws}",
    ),
)
_ROWS = {
    "features": RowKind(
        over="samples",
        depends=("sampling", *_FEATURES),
        implementation="cld_core.evaluate.features:FeatureRows",
        version=3,
        of="images",
    ),
    "vectors": RowKind(
        over="samples",
        depends=("sampling",),
        implementation="cld_core.evaluate.vectors:VectorRows",
        of="vectors",
    ),
    "flow": RowKind(
        over="samples",
        depends=("sampling", "flow.rtol", "flow.atol"),
        implementation="cld_core.evaluate.likelihood:FlowRows",
        most="flow.samples",
        along_flow=True,
    ),
    "elbo": RowKind(
        over="points",
        depends=("elbo", "test_set"),
        implementation="cld_core.evaluate.likelihood:ElboRows",
    ),
    "loss": RowKind(
        over="points",
        depends=("loss", "objective", "test_set"),
        implementation="cld_core.evaluate.likelihood:LossRows",
        chunk=1024,
    ),
}
# By name: metrics, or "module:attribute" of one.
METRICS: dict[str, Metric | str] = table("metrics", {entry.name: entry for entry in _METRICS})
ROWS: dict[str, RowKind] = table("rows", _ROWS)


def metric(name: str) -> Metric:
    """The metric of a registered name."""
    registered: Metric = resolve(METRICS[name])
    return registered


def metrics(names: Iterable[str] | None = None) -> list[Metric]:
    """The metrics of these names, in the order of the table; all of them by default."""
    wanted = METRICS.keys() if names is None else {*names}
    return [metric(name) for name in METRICS if name in wanted]


def read_of(kind: str, names: Iterable[str]) -> set[str]:
    """The arrays of rows of a kind that some metrics read, and that not all such rows have."""
    return {name for metric in metrics(names) if metric.rows == kind for name in metric.reads}


def quantities() -> list[tuple[Metric, Quantity]]:
    """All numbers that a report may contain, each with the metric of its section."""
    return [(metric, quantity) for metric in metrics() for quantity in metric.quantities]


def quantities_in(results: Iterable[Collection[str]]) -> list[Quantity]:
    """The quantities whose keys any of the results has, in the order of the table."""
    keys = set[str]().union(*results)
    return [quantity for _, quantity in quantities() if quantity.key in keys]


def quantity(key: str) -> Quantity:
    """The number of this key."""
    return next(quantity for _, quantity in quantities() if quantity.key == key)


def fitting(kinds: Collection[Kind]) -> list[Metric]:
    """The metrics for examples that are of all these kinds."""
    of_kinds = [metric for metric in metrics() if ROWS[metric.rows].of in (None, *kinds)]
    return [metric for metric in of_kinds if "law" in kinds or not metric.needs_law]


def draws_samples(names: Iterable[str]) -> bool:
    """Whether any of these metrics needs samples, and not only test data."""
    return any(ROWS[metric.rows].over == "samples" for metric in metrics(names))


def parse_metrics(
    texts: Collection[str], option: str = "--eval", listed: Collection[str] = ()
) -> tuple[str, ...]:
    """The metrics of comma-separated lists, in the order of the table.

    Args:
        option: the option that has the list, for messages.
        listed: the metrics that messages name; empty for all.

    Raises:
        UsageError: there is no such metric; names the nearest.
    """
    words = [word.strip() for text in texts for word in text.split(",") if word.strip()]
    listed = listed or METRICS
    names = ", ".join(listed)
    for word in words:
        if word not in METRICS:
            raise UsageError(
                f"{option}: '{word}' is not a metric; there are: "
                f"{names}.{did_you_mean(word, listed)}"
            )
    if texts and not words:
        raise UsageError(
            f"{option} names no metric; there are: {names}. Name some, or leave the option out."
        )
    return tuple(name for name in METRICS if name in words)
