"""What a metric is, what a kind of rows is, and what a number of a report is. Loads no torch.

A kind of rows is computed: one row per sample or test point. A metric reads rows: it makes a section of the report
of all rows together. Several metrics may read the same rows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .joined import Joined
    from .request import EvalRequest


@dataclass(frozen=True, kw_only=True)
class RowKind:
    """A kind of rows.

    Attributes:
        over: the field of a request that says how many rows there are.
        depends: the other fields of a request, or places in them ("flow.rtol"), that a row depends on, besides the
            model, the seed and its index.
        implementation: "module:Class" of the `rows.base.RowComputer` that computes them.
        version: raised when rows gain an array that metrics need; shards without it are computed again.
        of: the data that rows of this kind exist for.
        most: a place in a request ("flow.samples") with the largest number of rows, on which no single row depends.
        along_flow: rows compare samples with the probability flow, which the sampler has to approximate.
    """

    over: Literal["samples", "points"]
    depends: tuple[str, ...]
    implementation: str
    version: int = 1
    of: Literal["images", "vectors"] | None = None
    most: str | None = None
    along_flow: bool = False


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number of a report.

    Attributes:
        key: its name in tables and in ``--json``.
        field: where it is in the metric's section of the report.
        label: what people read.
        stderr: the field of its standard error, in the same unit.
        is_reference: it says what samples could reach, and nothing about them. Tables and plots over settings omit it.
    """

    key: str
    field: str = "value"
    label: str
    stderr: str | None = None
    larger_is_better: bool = False
    digits: int = 3
    is_reference: bool = False


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Something that an evaluation can be asked for.

    Attributes:
        name: its section of the report, and its flag.
        help: one line for the command line.
        rows: the kind of rows that it reads.
        quantities: the numbers that are shown.
        section: makes the section of the report from all rows; imports torch and numpy when it is called.
        how: in words, the settings in which runs that are compared may differ.
        remark: in words, what readers of the numbers in a section should know; None if there is nothing unusual.
        reads: the arrays that it needs of rows that are not always complete.
        reference: what it needs of the statistics of the training set; "classes": features and labels of the images.
        needs_labels: whether it is only for class-conditional models.
        depends: the fields of a request that its numbers depend on, besides those that its rows depend on.
        same: places in a request ("kid.subsets") that must be equal for two results to be comparable.
        least: (key, spare): the value of this key in its section of the recipe may be at most samples - spare.
        version: raised when the meaning of its numbers changes, so that old and new never share a folder.
    """

    name: str
    help: str
    rows: str
    quantities: tuple[Quantity, ...]
    section: "Callable[[Joined], dict[str, Any]]"
    how: "Callable[[EvalRequest], str]"
    remark: Callable[[Mapping[str, Any]], str | None] = lambda section: None
    reads: tuple[str, ...] = ()
    reference: Literal["moments", "features", "classes"] | None = None
    needs_labels: bool = False
    depends: tuple[str, ...] = ()
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
