"""Everything about the run that is selected: its curve, attempts and shards drawn, then what `cldctl status` says."""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from rich.color import Color
from rich.columns import Columns
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.text import Text
from textual.renderables.sparkline import Sparkline

from cld_core.errors import CldError
from cld_core.run import RunFolder
from cld_core.run.evaluations import Evaluation
from cld_core.run.events import CAUSES, Submitted
from cld_core.sanitize import local_time, printable
from cldctl.page.curves import LOSS, Curves
from cldctl.runs import why
from cldctl.runs.state import OVER, STATES, WAITS
from cldctl.runs.status import RunStatus, said
from cldctl.runs.survey import Answers
from cldctl.show.console import duration, number
from cldctl.show.runs import details
from cldctl.show.tables import facts, progress_bar

# The letter at the end of an attempt, so that the line can be read without colours.
LETTERS = {
    **{cause.replace("_", " "): cause[0].upper() for cause in CAUSES},
    **{"running": "▶", "crashed": "X", "nonfinite": "~", "terminated": "E"},
}
_WAITING, _STARTING, _TRAINING, _NOTHING = "░", "▒", "█", "·"
_SHARDS = {
    "done": ("■", "green"),
    "running": ("▶", "bold cyan"),
    "waiting": ("░", "yellow"),
    "failed": ("×", "bold red"),
    "missing": ("·", "dim"),
}
# Shards that are drawn of one evaluation.
_MOST_SHARDS = 500
# Lines of the curve, its colour, and the share of the losses, at either end, that may be beyond its scale.
_CURVE_LINES, _CYAN, _OUTLIERS = 2, Color.parse("cyan"), 0.02


@dataclass(frozen=True)
class Detail:
    """A run at one moment.

    Attributes:
        shards: what became of each shard of the evaluations that are not finished, by their names.
    """

    why: why.Why
    shards: Mapping[str, Sequence[str]] = field(default_factory=dict)


def detail_of(row: RunStatus, answers: Answers) -> Detail:
    """What the files of a run say, and the clusters said last: nobody is asked."""
    run, shards = RunFolder(row.path), {}
    if not run.exists:
        return Detail(why.Why(row=row, headline="the run is gone"))
    explained = why.explained(row, answers)
    for entry in row.evals:
        if entry["state"] != "FINISHED":
            try:
                shards[entry["id"]] = shards_of(Evaluation(run.evals / entry["id"]), entry, answers)
            except (CldError, OSError) as error:
                explained.row.problems.append(f"{entry['id']}: {said(error)}")
    return Detail(explained, shards)


class Files:
    """Reads the files of what is on the screen: the loss of every run, everything about the selected one."""

    def __init__(self) -> None:
        # By the path of a run, with the state and step at which its curve was complete.
        self._curves: dict[str, tuple[Curves, tuple[str, int] | None]] = {}

    def losses(self, row: RunStatus) -> Sequence[float]:
        """What is known of the losses of a run."""
        # Another thread may replace them meanwhile.
        found = self._curves.get(row.path)
        return () if found is None else found[0].losses

    def read(
        self, selected: RunStatus | None, shown: Sequence[RunStatus], answers: Answers
    ) -> tuple[Detail | None, bool]:
        """Everything about the run that is selected, and whether there is more to read of any run."""
        detail = None if selected is None else detail_of(selected, answers)
        rows = {row.path: row for row in (selected, *shown) if row is not None}
        found, has_more = {}, False
        for path, row in rows.items():
            curves, complete = self._curves.get(path) or (Curves(RunFolder(path).tensorboard, LOSS), None)
            if row.state not in OVER or complete != (row.state, row.step):
                with contextlib.suppress(OSError):
                    is_more = curves.look()
                    has_more, complete = has_more or is_more, None if is_more else (row.state, row.step)
            found[path] = curves, complete
        self._curves = found
        return detail, has_more


def panel(detail: Detail, losses: Sequence[float]) -> RenderableType:
    """A run as it is shown."""
    return Printable(Group(facts(_pictures(detail, losses)), Text(), details(detail.why.row)))


def _pictures(detail: Detail, losses: Sequence[float]) -> Iterator[tuple[str, RenderableType]]:
    explained, row = detail.why, detail.why.row
    yield "why", Text(explained.headline, STATES[row.state])
    yield from (("do", Text(text)) for text in [explained.do] if text)
    if row.steps:
        known = "" if row.eta_s is None else f"  {number(row.steps_per_s, 3)} steps/s, ETA {duration(row.eta_s)}"
        yield "step", Columns([progress_bar(row), f"{100 * row.step / row.steps:.1f}%{known}"])
    if losses:
        yield "loss", LossCurve(losses, None, _CURVE_LINES)
        yield "", Text(f"from {number(losses[0])} to {number(losses[-1])}", "dim")
    if explained.stretches:
        yield "attempts", TimeLine(explained)
    for name, states in detail.shards.items():
        yield "eval", Text(name)
        yield "", Text.assemble(*(_SHARDS[state] for state in states[:_MOST_SHARDS]), overflow="fold")
        counts = {state: states.count(state) for state in _SHARDS if state in states}
        yield "", Text("  ").join(Text.assemble(_SHARDS[it], f" {number} {it}") for it, number in counts.items())


class LossCurve(Sparkline[float]):
    """A line of losses; ``width`` is None for as wide as there is room."""

    def __init__(self, losses: Sequence[float], width: int | None, height: int = 1) -> None:
        self._losses = losses
        # One early loss does not flatten the others.
        ordered = sorted(losses)
        beyond = int(_OUTLIERS * len(ordered))
        within = [min(max(loss, ordered[beyond]), ordered[-1 - beyond]) for loss in losses]
        super().__init__(within, width=width, height=height, min_color=_CYAN, max_color=_CYAN, summary_function=fmean)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LossCurve) and other._losses is self._losses

    __hash__ = None  # type: ignore[assignment]


class TimeLine:
    """The attempts of a run on a scale of time: when its job waited, started and trained, and how each ended."""

    def __init__(self, explained: why.Why) -> None:
        self._explained = explained
        self._ends = [(it, STATES[state], word, LETTERS.get(word, "?")) for it, state, word in explained.ends]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        pieces = list(self._pieces())
        begin, total = pieces[0][0], max(pieces[-1][1] - pieces[0][0], 1e-9)
        cells = [(_NOTHING, "dim")] * options.max_width
        for first, last, mark, style in pieces:
            place, stop = (int((moment - begin) / total * options.max_width) for moment in (first, last))
            cells[place:stop] = [(mark[0], style)] * (stop - place)
            # The letter of a short attempt is seen, too.
            for letter in mark[1:]:
                cells[max(stop - 1, 0)] = (letter, f"reverse {style}")
        yield Text.assemble(*cells, no_wrap=True)
        yield Text(f"{duration(total)} since {local_time(begin, '%b %d %H:%M')}", "dim")
        # What the marks mean that are there, and how often attempts ended so.
        legend = Text()
        for (style, word, letter), times in Counter(end[1:] for end in self._ends).items():
            legend.append(letter, f"reverse {style}").append(f" {word}{f' ×{times}' if times > 1 else ''}  ")
        yield legend.append(_WAITING, "yellow").append(" queued  ").append(_STARTING, "cyan").append(" starting")

    def _pieces(self) -> Iterator[tuple[float, float, str, str]]:
        """From when to when each piece took, how it is drawn, with the letter at its end, and in which colour."""
        end = 0.0
        for it, style, _, letter in self._ends:
            yield max(it.began - it.waited_s, end), it.began, _WAITING, "yellow"
            yield it.began, it.started, _STARTING, "cyan"
            yield it.started, it.until, _TRAINING + letter, style
            end = it.until
        if self._explained.row.state in WAITS:
            submitted = [event.time for event in self._explained.history.submitted]
            yield max([end, *submitted]), time.time(), _WAITING, "yellow"


def shards_of(work: Evaluation, entry: Mapping[str, Any], answers: Answers) -> list[str]:
    """What became of each shard of an evaluation: by its files, and by what the launcher says of its jobs.

    A shard is failed if the job that was to compute it ended without it, and missing if none was started or somebody
    cancelled it.
    """
    number = work.request.shards
    history = work.ledger.history()
    missing, begun = set(work.missing()), work.begun()
    # The newest job that was to compute each shard.
    claims: dict[int, Submitted] = {}
    for event in history.submitted:
        claims |= dict.fromkeys(range(number) if event.shards is None else event.shards, event)

    def state_of(shard: int) -> str:
        if shard not in missing:
            return "done"
        if (event := claims.get(shard)) is None:
            return "missing"
        seen = answers.of(event.job)
        if entry["state"] == "STOPPED" or seen.is_gone:
            return "missing" if event.job.job_id in history.cancelled else "failed"
        # Of several shards, a task computes one after the other.
        is_alone = event.shards is not None and len(event.shards) == 1
        is_live = seen.phase in ("running", "suspended", "ending")
        return "running" if is_live and (is_alone or shard in begun) else "waiting"

    return [state_of(shard) for shard in range(number)]


class Printable:
    """A renderable without the escape sequences and control characters that texts of others may have."""

    def __init__(self, renderable: RenderableType) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._renderable, options):
            yield Segment(printable(segment.text), segment.style)
