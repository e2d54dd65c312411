"""The selected run: pictures of its loss, attempts and shards, `cldctl status`, and commands.

Keys run commands of cldctl, each as a process of its own.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import webbrowser
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.color import Color
from rich.columns import Columns
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.text import Text
from textual.renderables.sparkline import Sparkline

from cld_core.errors import CldError, UsageError
from cld_core.run import RunFolder
from cld_core.run.evaluations import Evaluation
from cld_core.run.events import CAUSES, Submitted
from cld_core.run.state import OVER, WAITS
from cld_core.sanitize import local_time, printable
from cldctl import clusters
from cldctl.page.curves import LOSS, Curves
from cldctl.runs import why
from cldctl.runs.selection import command
from cldctl.runs.status import RunStatus, message_of
from cldctl.runs.survey import Answers
from cldctl.show.console import STYLES, duration, number
from cldctl.show.runs import details
from cldctl.show.tables import facts, progress_bar

# The letter at the end of an attempt, so that the line can be read without colours.
LETTERS = {
    **{cause.replace("_", " "): cause[0].upper() for cause in CAUSES},
    **{"running": "▶", "crashed": "X", "nonfinite": "~", "terminated": "E"},
}
_WAITING = "░"
_STARTING = "▒"
_TRAINING = "█"
_NOTHING = "·"
_SHARDS = {
    "done": ("■", "green"),
    "running": ("▶", "bold cyan"),
    "waiting": ("░", "yellow"),
    "failed": ("×", "bold red"),
    "missing": ("·", "dim"),
}
# Shards that are drawn of one evaluation.
_MOST_SHARDS = 500
# Of the curve: its lines, its colour, and the share of losses at either end beyond its scale.
_CURVE_LINES = 2
_CYAN = Color.parse("cyan")
_OUTLIERS = 0.02
# Seconds between two looks at the output of a command, and lines of it in a notification.
_EVERY_S = 0.2
_LINES = 3
_NONE = {"resume": "all of its runs are alive or finished", "cancel": "none of its runs is alive"}
_CANCELLING = "A run saves a checkpoint first. Its evaluations end, too. It can be resumed."


@dataclass(frozen=True)
class Detail:
    """A run at one moment.

    Attributes:
        shards: the state of each shard of unfinished evaluations, by the name of the evaluation.
    """

    why: why.Why
    shards: Mapping[str, Sequence[str]] = field(default_factory=dict)


def detail_of(row: RunStatus, answers: Answers) -> Detail:
    """The detail of a run from its files and the last answers of clusters."""
    run = RunFolder(row.path)
    shards = {}
    if not run.exists:
        return Detail(why.Why(row=row, headline="the run is gone"))
    explained = why.explained(row, answers)
    for entry in row.evals:
        if entry["state"] != "FINISHED":
            try:
                shards[entry["id"]] = shards_of(Evaluation(run.evals / entry["id"]), entry, answers)
            except (CldError, OSError) as error:
                explained.row.problems.append(f"{entry['id']}: {message_of(error)}")
    return Detail(explained, shards)


class Files:
    """Reads files of the runs on the screen: losses of all, everything about the selected one."""

    def __init__(self) -> None:
        # By the path of a run.
        self._curves: dict[str, Curves] = {}

    def losses(self, row: RunStatus) -> Sequence[float]:
        """The losses of a run that have been read."""
        # Another thread may replace the dictionary between two lookups.
        curves = self._curves.get(row.path)
        return () if curves is None else curves.losses

    def read(
        self, selected: RunStatus | None, shown: Sequence[RunStatus], answers: Answers
    ) -> tuple[Detail | None, bool]:
        """Read more of the files.

        Returns:
            The detail of the selected run, and whether there is more to read of any run.
        """
        detail = None if selected is None else detail_of(selected, answers)
        has_more = False
        curves = {}
        for row in (selected, *shown):
            if row is None or row.path in curves:
                continue
            new = Curves(RunFolder(row.path).tensorboard, LOSS)
            curves[row.path] = self._curves.get(row.path, new)
            with contextlib.suppress(OSError):
                has_more |= curves[row.path].look()
        self._curves = curves
        return detail, has_more


def panel(detail: Detail, losses: Sequence[float]) -> RenderableType:
    """The panel of a run: pictures, then the details of `status`."""
    return Printable(Group(facts(_pictures(detail, losses)), Text(), details(detail.why.row)))


def _pictures(detail: Detail, losses: Sequence[float]) -> Iterator[tuple[str, RenderableType]]:
    explained = detail.why
    row = explained.row
    yield "why", Text(explained.headline, STYLES[row.state])
    if explained.do:
        yield "do", Text(explained.do)
    if row.steps:
        progress = f"{100 * row.step / row.steps:.1f}%"
        if row.eta_s is not None:
            progress += f"  {number(row.steps_per_s, 3)} steps/s, ETA {duration(row.eta_s)}"
        yield "step", Columns([progress_bar(row), progress])
    if losses:
        yield "loss", LossCurve(losses, None, _CURVE_LINES)
        yield "", Text(f"from {number(losses[0])} to {number(losses[-1])}", "dim")
    if explained.stretches:
        yield "attempts", TimeLine(explained)
    for name, states in detail.shards.items():
        yield "eval", Text(name)
        marks = [_SHARDS[state] for state in states[:_MOST_SHARDS]]
        yield "", Text.assemble(*marks, overflow="fold")
        legend = Text()
        for state, mark in _SHARDS.items():
            if state in states:
                legend.append(*mark).append(f" {states.count(state)} {state}  ")
        yield "", legend


class LossCurve(Sparkline[float]):
    """A curve of losses; ``width`` is None for all the room there is."""

    def __init__(self, losses: Sequence[float], width: int | None, height: int = 1) -> None:
        self._losses = losses
        # One early loss does not flatten the others.
        ordered = sorted(losses)
        beyond = int(_OUTLIERS * len(ordered))
        within = [min(max(loss, ordered[beyond]), ordered[-1 - beyond]) for loss in losses]
        super().__init__(
            within,
            width=width,
            height=height,
            min_color=_CYAN,
            max_color=_CYAN,
            summary_function=fmean,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LossCurve) and other._losses is self._losses

    __hash__ = None  # type: ignore[assignment]


class TimeLine:
    """The attempts of a run over time: waiting, start and training, and the cause of each end."""

    def __init__(self, explained: why.Why) -> None:
        self._explained = explained

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        pieces = list(self._pieces())
        begin = pieces[0][0]
        total = max(pieces[-1][1] - begin, 1e-9)
        scale = options.max_width / total
        cells = [(_NOTHING, "dim")] * options.max_width
        for first, last, mark, style in pieces:
            place = int((first - begin) * scale)
            stop = int((last - begin) * scale)
            cells[place:stop] = [(mark[0], style)] * (stop - place)
            # A short attempt shows its letter, too.
            for letter in mark[1:]:
                cells[max(stop - 1, 0)] = (letter, f"reverse {style}")
        yield Text.assemble(*cells, no_wrap=True)
        yield Text(f"{duration(total)} since {local_time(begin, '%b %d %H:%M')}", "dim")
        # The letters of the ends, and how often attempts ended so.
        legend = Text()
        ends = Counter((state, word) for _, state, word in self._explained.ends)
        for (state, word), times in ends.items():
            legend.append(LETTERS.get(word, "?"), f"reverse {STYLES[state]}")
            legend.append(f" {word} ×{times}  " if times > 1 else f" {word}  ")
        marks = ((_WAITING, "yellow"), " queued  ", (_STARTING, "cyan"), " starting")
        yield Text.assemble(legend, *marks)

    def _pieces(self) -> Iterator[tuple[float, float, str, str]]:
        """The pieces of the line: begin, end, mark (with the letter at its end) and colour."""
        end = 0.0
        for stretch, state, word in self._explained.ends:
            queued = stretch.began - stretch.waited_s
            yield max(queued, end), stretch.began, _WAITING, "yellow"
            yield stretch.began, stretch.started, _STARTING, "cyan"
            mark = _TRAINING + LETTERS.get(word, "?")
            yield stretch.started, stretch.until, mark, STYLES[state]
            end = stretch.until
        if self._explained.row.state in WAITS:
            submitted = [event.time for event in self._explained.history.submitted]
            yield max([end, *submitted]), time.time(), _WAITING, "yellow"


def shards_of(work: Evaluation, entry: Mapping[str, Any], answers: Answers) -> list[str]:
    """The state of each shard of an evaluation, from its files and the launcher's answers.

    A shard is failed if its job ended without it, and missing if it has no job, or its job was
    cancelled.
    """
    number = work.request.shards
    history = work.ledger.history()
    missing = set(work.missing())
    begun = work.begun()
    # The newest job that was to compute each shard.
    claims: dict[int, Submitted] = {}
    for event in history.submitted:
        claims |= dict.fromkeys(range(number) if event.shards is None else event.shards, event)

    def state_of(shard: int) -> str:
        if shard not in missing:
            return "done"
        if (event := claims.get(shard)) is None:
            return "missing"
        answer = answers.of(event.job)
        if entry["state"] == "STOPPED" or answer.is_gone:
            return "missing" if event.job.job_id in history.cancelled else "failed"
        # A task computes its shards one after the other.
        has_begun = shard in begun or (event.shards is not None and len(event.shards) == 1)
        is_live = answer.phase in ("running", "suspended", "ending")
        return "running" if is_live and has_begun else "waiting"

    return [state_of(shard) for shard in range(number)]


class Printable:
    """A renderable without escape sequences and control characters."""

    def __init__(self, renderable: RenderableType) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._renderable, options):
            yield Segment(printable(segment.text), segment.style)


@dataclass
class Command:
    """A command of cldctl.

    Attributes:
        title: the command in words, such as "Resume mine".
        words: the command, without "cldctl".
        about: what it does, for the question that precedes it; None if it starts without one.
        run: the run that it resumes.
        output: what it has printed.
        code: its exit code; None until it has ended.
    """

    title: str
    words: Sequence[str]
    about: str | None = None
    run: RunFolder | None = None
    output: str = ""
    code: int | None = None
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def is_watched(self) -> bool:
        """Whether its output is on the screen, and it ends with the screen."""
        return self.words[0] == "sample"

    @property
    def message(self) -> str:
        """Its errors, or the last lines that it has printed, without hints."""
        lines = self.output.partition("\nnext:")[0].strip().splitlines()
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return "\n".join(errors or lines[-_LINES:]) or self.title

    def start(self, printed: Callable[[], object]) -> None:
        """Run to the end, and call ``printed`` whenever there is more output; never raises."""
        try:
            if self.run is not None and clusters.chosen(None, self.run).blocks:
                typed = command(f"resume {Path(self.words[1]).name}", self.run)
                raise UsageError(
                    f"{self.run.name} trains inside the command that starts it. Type `{typed}`."
                )
            self._run(printed)
            if self.code == 0 and self.words[0] == "report":
                self.output += _open(Path(self.words[1]) / "report.html")
        except Exception as error:
            self.output += f"error: {message_of(error)}\n"
            self.code = 1
        printed()

    def _run(self, printed: Callable[[], object]) -> None:
        arguments = [sys.executable, "-m", "cldctl", *self.words]
        environment = {**os.environ, "NO_COLOR": "1"}
        environment.pop("FORCE_COLOR", None)
        # The output goes to a file, so that the command outlives the screen; it has a session of
        # its own, so that ctrl+c does not reach it.
        with tempfile.TemporaryFile() as file:
            self.process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
            code = None
            while code is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = self.process.wait(_EVERY_S)
                output = os.pread(file.fileno(), 2**20, 0).decode(errors="replace")
                if output != self.output:
                    self.output = output
                    printed()
            if code != 0 and "error: " not in self.output:
                self.output += f"ended with exit code {code}\n"
            self.code = code

    def leave(self) -> str | None:
        """End it if its output is on the screen; a line about it if it has not ended."""
        if self.code is not None:
            return None
        if not self.is_watched:
            return f"no longer waiting for: {self.title}. `cldctl status` shows how it ends"
        if self.process is not None:
            self.process.terminate()
        return f"ended: {self.title}"


def command_for(what: str, rows: Sequence[RunStatus], group: str | None = None) -> Command:
    """The command of a key: resume or cancel a run or a group, sample or report a run.

    Raises:
        UsageError: the states of the runs do not allow it.
    """
    refusals = [_refusal(what, row, group is not None) for row in rows]
    able = [row for row, refusal in zip(rows, refusals, strict=True) if not refusal]
    if not able:
        raise UsageError(refusals[0] if group is None else f"{group}: {_NONE[what]}")
    row = able[-1]
    run = RunFolder(row.path)
    number = f"{len(able)} run{'' if len(able) == 1 else 's'}"
    name = row.name if group is None else f"{number} of {group}"
    if what == "resume" and group is not None:
        about = (
            "All of its runs that are neither alive nor finished continue, in one job, filtered "
            "or not."
        )
        words = ["resume", group, "--runs-dir", str(run.path.parent)]
        return Command(f"Resume {name}", words, about, run)
    if what == "resume":
        place = "the beginning"
        if row.checkpoint_step is not None:
            place = f"its checkpoint at step {row.checkpoint_step:,}"
        about = f"A new job continues it from {place}."
        return Command(f"Resume {name}", ["resume", row.path], about, run)
    if what == "cancel":
        about = _CANCELLING
        if group is not None:
            about += " All runs of the group that are alive end, filtered or not."
        elif row.state in OVER:
            name = f"the evaluations of {name}"
            about = f"Its training is {row.state}; only its evaluations end."
        return Command(f"Cancel {name}", ["cancel", *(row.path for row in able)], about)
    return Command(f"{what} {name}", [what, row.path])


def _refusal(what: str, row: RunStatus, in_group: bool) -> str:
    """Why a command can do nothing to a run, as one of a group or alone; empty if it can."""
    if what in ("resume", "sample") and not row.is_readable:
        return f"{row.name} cannot be read: {row.reason}"
    is_over = row.state in OVER
    if (what == "resume" and not is_over) or (
        what == "cancel" and is_over and not row.is_evaluating
    ):
        return f"{row.name} is {row.state}: there is nothing to {what}."
    if what == "resume" and row.state == "FINISHED" and (in_group or row.step >= (row.steps or 0)):
        more = command(f"resume {row.name} train.steps=...", RunFolder(row.path))
        return f"{row.name} is FINISHED at step {row.step:,}. To train it for longer: {more}"
    if what == "sample" and row.checkpoint_step is None:
        return f"{row.name} has no checkpoint yet: there is nothing to draw samples with."
    return ""


def _open(page: Path) -> str:
    """Open a page in a browser; return a message if there is no display, else an empty text."""
    has_display = sys.platform == "darwin" or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    if has_display and webbrowser.open(page.as_uri()):
        return ""
    return "no display here: copy it, or open it from elsewhere\n"
