"""The losses of several runs over each other: one chart for all runs whose losses mean the same."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cld_core.run import RunFolder
from cld_core.run.smoothing import smoothed_all
from cldctl.runs.status import RunStatus

from . import comparable, series
from .chart import Chart, Line, chart
from .curves import LOSS, read
from .series import Point

# The newest runs that are looked through for curves, the curves of a chart, and the points of each.
_LOOKED_AT, _CURVES, _POINTS = 40, 12, 200
# Charts that are shown at once; more are folded.
_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class Overlays:
    """Charts, that of the newest run first.

    Attributes:
        shown: those that are seen at once.
        folded: the others.
        looked_at: how many of the newest runs were looked at; 0 if all of them.
        left_out: how many runs with a loss are not in a chart, because it is full.
    """

    shown: Sequence[Chart]
    folded: Sequence[Chart]
    looked_at: int
    left_out: int


def overlays(rows: Sequence[RunStatus], *, follow: bool) -> Overlays:
    """The smoothed losses of the newest runs, by what is trained on and which loss it is.

    Args:
        rows: newest first.
        follow: also read folders that links lead out of a run to.
    """
    looked_at = rows[:_LOOKED_AT]
    losses = {row.name: points for row in looked_at if (points := _losses(row, follow))}
    alike = comparable.groups([row for row in looked_at if row.name in losses])
    found = {title: {row.name: losses[row.name] for row in rows} for title, rows in alike.items()}
    charts = [drawn for title, losses in found.items() if (drawn := _chart(title, losses, large=len(found) == 1))]
    return Overlays(
        shown=charts[:_SHOWN],
        folded=charts[_SHOWN:],
        looked_at=len(looked_at) if len(looked_at) < len(rows) else 0,
        left_out=sum(max(len(losses) - _CURVES, 0) for losses in found.values()),
    )


def _chart(title: str, losses: Mapping[str, Sequence[Point]], *, large: bool) -> Chart | None:
    lines = [Line(label=name, points=points, series=place) for place, (name, points) in enumerate(losses.items())]
    return chart(title, lines[:_CURVES], large=large, may_be_log=True)


def _losses(row: RunStatus, follow: bool) -> Sequence[Point]:
    clean = series.finite(read(RunFolder(row.path).tensorboard, follow=follow).scalars.get(LOSS, ()))
    begun = [attempt["first_step"] for attempt in row.attempts]
    return series.thinned(series.smoothed(clean) or _as_reported(clean, begun), _POINTS)


def _as_reported(points: Sequence[Point], begun: Sequence[int]) -> list[Point]:
    """A short curve as the run itself smooths its loss, so that it ends at the number in the table.

    Args:
        begun: the step at which each attempt began, and its mean with it.
    """

    def attempt_of(point: Point) -> int:
        # What an attempt reported beyond the beginning of a later one is not among the points.
        return max((place for place, first in enumerate(begun) if first < point[0]), default=-1)

    shown: list[Point] = []
    for _, some in itertools.groupby(points, attempt_of):
        own = list(some)
        shown += [(x, mean) for (x, _), mean in zip(own, smoothed_all(y for _, y in own), strict=True)]
    return shown
