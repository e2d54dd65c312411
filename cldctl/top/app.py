"""`cldctl top` as an application of textual: the list of runs, everything about the selected one,
and keys that act."""

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Group, RenderableType
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.notifications import SeverityLevel
from textual.screen import ModalScreen, Screen
from textual.widgets import DataTable, Footer, Input, RichLog, Static

from cld_core.errors import NotFoundError, UsageError
from cld_core.run import RunFolder
from cld_core.run.events import fate_of
from cld_core.run.state import ALIVE, OVER, RESUMABLE, WAITS
from cld_core.run.work import evaluations_of
from cld_core.sanitize import one_line, printable
from cldctl.runs.index import Index
from cldctl.runs.logs import Log, Tail, failed_log, of_evaluation, of_training
from cldctl.runs.selection import Selection
from cldctl.runs.status import RunStatus, said
from cldctl.runs.why import Why
from cldctl.show.console import duration, number, short
from cldctl.show.runs import Look, Query, group_details, nothing, states
from cldctl.show.tables import STYLES, state_text

from .selected import Command, Detail, Files, LossCurve, Printable, command_for, panel

# Keys that show runs of some states only, what they are called, and the states; none for all.
FILTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "0": ("all", ()),
    "1": ("alive", ALIVE),
    "2": ("running", ("RUNNING",)),
    "3": ("waiting", WAITS),
    "4": ("stopped", ("STOPPED", "CANCELLED")),
    "5": ("failed", ("FAILED", "LOST")),
    "6": ("finished", ("FINISHED",)),
}
_COLUMNS = ("run", "state", "step", "ETA", "loss", "curve", "steps/s", "why")
_CURVE = 10
# Seconds between two looks, as of `status --watch`, and between two parts of long files.
_EVERY_S, _PART_S = 1.0, 0.1
# A scheduler that has kept a look waiting for so many seconds is mentioned.
_PATIENCE_S = 3.0
# Seconds between two looks for new lines, and lines of a file that are shown at first.
_LINES_EVERY_S, _FIRST_LINES = 0.5, 2000
# Lines that are kept, and characters of one.
_MOST, _LINE = 10_000, 2000
_RANK, _ATTEMPT = Binding.Group("Rank"), Binding.Group("Attempt")


class Watching(Screen[None]):
    """A screen with threads, which send it what they find."""

    def in_background(self, do: Callable[[], object]) -> None:
        """Do something that may take a while."""
        # Daemons: a scheduler or a disk that hangs keeps nobody from leaving.
        threading.Thread(target=do, daemon=True).start()

    def later(self, do: Callable[..., object], *arguments: object) -> None:
        """From any thread: do something in that of the screen, if it is still there."""
        with contextlib.suppress(RuntimeError):
            self.call_later(do, *arguments)


class TextScreen(Watching):
    """A screen of text that grows, below a title."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "dismiss", "Back")]

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        yield RichLog(max_lines=_MOST, wrap=False, min_width=1)
        yield Footer(compact=True)

    def entitle(self, title: str) -> None:
        self.query_one("#title", Static).update(Text(one_line(title), "bold"))


class OutputScreen(TextScreen):
    """What a command has printed; leaving it does not end the command, leaving `cldctl top`
    does."""

    def __init__(self, command: Command) -> None:
        super().__init__()
        self.command = command

    def on_mount(self) -> None:
        self.query_one(RichLog).wrap = True
        self.show()

    def show(self) -> None:
        """Show what is new, and whether the command has ended."""
        how = {None: "goes on until you quit", 0: "done"}.get(self.command.code, "failed")
        self.entitle(f"cldctl {self.command.title}: {how}")
        self.query_one(RichLog).clear().write(Text(printable(self.command.output)))


def first_log(run: RunFolder) -> tuple[Log, bool]:
    """The rank that failed first if the last attempt failed and no later job waits; else the newest
    job's rank 0.

    Returns:
        Its log, and whether it failed first.
    """
    history = run.ledger.history()
    last, jobs = history.last, history.jobs
    has_failed = last is not None and fate_of(last.cause) == "crashes" and history.requeued is None
    if has_failed and not (last and jobs and jobs[-1].job.job_id != last.job_id):
        return failed_log(run, None)[0], True
    return of_training(run, None, 0), False


def other_log(run: RunFolder, log: Log | None, what: str, step: int) -> Log:
    """The next log, round and round.

    Args:
        log: that is shown; None if there was none.
        what: "rank" of the same job; "attempt", behind the last of which is the newest job; or
            "evaluation", the newest of which follows the training.

    Raises:
        NotFoundError: there is only one.
    """
    shown: dict[str, Any] = {
        name: getattr(log, name, None) for name in ("evaluation", "attempt", "rank")
    }
    options: list[Any]
    if what == "rank":
        # As the log is now: a newer job may have begun.
        options = [int(rank) for rank in _log(run, **shown).ranks()]
    elif what == "attempt":
        # Of one that another launcher started, the output is elsewhere.
        history = run.ledger.history()
        options = [
            *(it.attempt for it in history.attempts if history.queued[it.attempt][0] is not None),
            None,
        ]
    else:
        options = [
            None,
            *(work.name for work in reversed(evaluations_of(run)) if work.ledger.history().jobs),
        ]
    if len(options) < 2:
        known = "no evaluation was started" if what == "evaluation" else f"there is only one {what}"
        raise NotFoundError(f"{run.name}: {known}.")
    now = shown[what]
    other = options[((options.index(now) if now in options else 0) + step) % len(options)]
    return _log(run, **(shown if what == "rank" else {}) | {what: other})


def _log(
    run: RunFolder,
    evaluation: str | None = None,
    attempt: int | None = None,
    rank: int | None = None,
) -> Log:
    """The log of a rank, 0 if None, of the newest job, an attempt or an evaluation."""
    if evaluation is not None:
        return of_evaluation(run, evaluation, None, rank or 0)
    return of_training(run, attempt, rank or 0)


def _printable(line: bytes) -> str:
    # Of a bar that was drawn again and again, the last state is what a terminal would show.
    text = line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]
    return printable(text, keep="\t").expandtabs(8)[:_LINE]


class LogScreen(TextScreen):
    """The log of one rank at a time, which follows what is written.

    Args:
        run: its folder.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "turn('rank', 1)", "Next rank", group=_RANK),
        Binding("p", "turn('rank', -1)", "Previous rank", group=_RANK),
        Binding(
            "right_square_bracket",
            "turn('attempt', 1)",
            "Next attempt",
            key_display="]",
            group=_ATTEMPT,
        ),
        Binding(
            "left_square_bracket",
            "turn('attempt', -1)",
            "Previous attempt",
            key_display="[",
            group=_ATTEMPT,
        ),
        Binding("f", "failed", "Failed first"),
        Binding("e", "turn('evaluation', 1)", "Evaluation"),
    ]

    def __init__(self, run: str) -> None:
        super().__init__()
        self._of = RunFolder(run)
        # Each finds another log than the one that is shown, and says whether its rank failed first.
        self._requests: queue.Queue[Callable[[Log | None], tuple[Log, bool]] | None] = queue.Queue()
        self._open_lines: dict[Path, bytes] = {}

    def on_mount(self) -> None:
        self.entitle(self._of.name)
        self._requests.put(lambda log: first_log(self._of))
        self.in_background(self._read)

    def on_unmount(self) -> None:
        self._requests.put(None)

    def action_turn(self, what: str, step: int) -> None:
        self._requests.put(lambda log: (other_log(self._of, log, what, step), False))

    def action_failed(self) -> None:
        self._requests.put(lambda log: (failed_log(self._of, None)[0], True))

    def _read(self) -> None:
        """In the background: open what is asked for, and pass on what is written to it."""
        log: Log | None = None
        tail = Tail(_FIRST_LINES)
        while True:
            try:
                with contextlib.suppress(queue.Empty):
                    if (request := self._requests.get(timeout=_LINES_EVERY_S)) is None:
                        return
                    if not self._of.exists:
                        raise NotFoundError(f"{self._of.name}: the run is gone")
                    log, failed_first = request(log)
                    tail = Tail(_FIRST_LINES)
                    self._open_lines.clear()
                    self.later(self._open, log, failed_first)
                if log is not None and (lines := self._new_lines(tail, log)):
                    self.later(self._write, lines)
            except Exception as error:
                self.later(self._refuse, said(error))

    def _new_lines(self, tail: Tail, log: Log) -> list[tuple[str, bool]]:
        """Lines without control characters, each with whether it is from the log of errors."""
        found = []
        for part in tail.new_parts(log):
            # The end of a line may be yet to be written; if nothing more is, it is shown as it is.
            *lines, rest = (self._open_lines.pop(part.file, b"") + b"".join(part.lines())).split(
                b"\n"
            )
            if rest and part.begin != part.end:
                self._open_lines[part.file] = rest
            elif rest:
                lines.append(rest)
            found += [(_printable(line), part.is_errors) for line in lines]
        return found

    def _open(self, log: Log, failed_first: bool) -> None:
        where = f"job {log.job.job_id}" if log.attempt is None else f"attempt {log.attempt}"
        where = where if log.evaluation is None else f"evaluation {log.evaluation}"
        self.entitle(
            f"{self._of.name} · {where}, rank {log.rank}{': failed first' if failed_first else ''}"
        )
        self.query_one(RichLog).clear()
        if log.note is not None:
            self.query_one(RichLog).write(Text(one_line(log.note), "yellow"))

    def _write(self, lines: Sequence[tuple[str, bool]]) -> None:
        log = self.query_one(RichLog)
        text = Text("\n").join(
            Text(line, "red" if is_error else "", no_wrap=True) for line, is_error in lines
        )
        # Not if somebody has scrolled up.
        log.write(text, scroll_end=log.is_vertical_scroll_end)

    def _refuse(self, problem: str) -> None:
        self.notify(problem, severity="warning", markup=False)


@dataclass(frozen=True)
class Line:
    """A run, or the heading of a group of several runs.

    Attributes:
        row: the run; None of a group.
        group: the group, also of a run below its heading.
        members: of a group, those of its runs that are listed.
    """

    row: RunStatus | None
    group: str | None = None
    members: tuple[RunStatus, ...] = ()
    is_folded: bool = False

    @property
    def name(self) -> str:
        return self.row.name if self.row is not None else self.group or ""

    @property
    def key(self) -> str:
        return f"{'group' if self.row is None else 'run'} {self.name}"


def arranged(rows: Iterable[RunStatus], turned: Collection[str] = ()) -> list[Line]:
    """The lines of a list of runs.

    Args:
        turned: names of groups that somebody has folded or unfolded. The others are folded once all
            their runs are over.
    """
    by_name = sorted(rows, key=lambda row: row.name)
    groups: dict[str, list[RunStatus]] = {}
    for row in sorted(
        by_name, key=lambda row: (row.state not in OVER, row.created or 0.0), reverse=True
    ):
        # A run without a group is one of its own; no group has the name of its path.
        groups.setdefault(row.group or row.path, []).append(row)
    lines: list[Line] = []
    for name, members in groups.items():
        if len(members) == 1:
            lines.append(Line(members[0]))
            continue
        is_folded = all(row.state in OVER for row in members) != (name in turned)
        lines.append(Line(None, name, tuple(members), is_folded))
        lines += [] if is_folded else [Line(row, name) for row in members]
    return lines


def matching(rows: Iterable[RunStatus], key: str, words: str) -> list[RunStatus]:
    """The runs of the states of a key of `FILTERS`, in which each of the words is found.

    A word is looked for in name, group, tags, note, user, state and reason, in any case.
    """
    chosen = Selection(states=frozenset(FILTERS[key][1])).of(rows)
    return [row for row in chosen if all(word in _text(row) for word in words.lower().split())]


def _text(row: RunStatus) -> str:
    parts = (row.name, row.group, *row.tags, row.note, row.user, row.state, row.reason)
    return " ".join(part for part in parts if part).lower()


class RunTable(DataTable[RenderableType]):
    """The list on the screen.

    Args:
        losses: what is known of the losses of a run.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,l", "screen.logs", "Logs"),
        Binding("j", "cursor_down", "Down", show=False),
        Binding("k", "cursor_up", "Up", show=False),
        Binding("home,g", "scroll_top", "First", show=False),
        Binding("end,G", "scroll_bottom", "Last", show=False),
    ]

    def __init__(self, losses: Callable[[RunStatus], Sequence[float]]) -> None:
        super().__init__(cursor_type="row", fixed_columns=1)
        self._losses = losses
        self.lines: list[Line] = []

    def on_mount(self) -> None:
        for name in _COLUMNS:
            self.add_column(Text(name), key=name, width=_CURVE if name == "curve" else None)

    @property
    def selected(self) -> Line | None:
        return self.lines[self.cursor_row] if 0 <= self.cursor_row < len(self.lines) else None

    @property
    def visible_rows(self) -> list[RunStatus]:
        shown = self.lines[self.scroll_offset.y :][: self.size.height]
        return [line.row for line in shown if line.row is not None]

    def show(self, lines: Sequence[Line]) -> None:
        """Show other lines; the same run stays selected, or the one that takes its place."""
        before, cells = self.selected, {line.key: self._cells_of(line) for line in lines}
        self.lines = list(lines)
        if list(cells) == [key.value for key in self.rows]:
            for key, row in cells.items():
                for column, old, new in zip(_COLUMNS, self.get_row(key), row, strict=True):
                    if old != new:
                        self.update_cell(key, column, new, update_width=True)
        else:
            place = self.cursor_row
            self.clear()
            for key, row in cells.items():
                self.add_row(*row, key=key)
            keys = list(cells)
            self.move_cursor(
                row=keys.index(before.key) if before is not None and before.key in keys else place
            )

    def _cells_of(self, line: Line) -> list[RenderableType]:
        row = line.row
        if row is None:
            name = Text(f"{'▸' if line.is_folded else '▾'} {line.name}", "bold", no_wrap=True)
            steps = (
                sum(row.step for row in line.members),
                sum(row.steps or 0 for row in line.members),
            )
            about = {
                "state": Text(f"{len(line.members)} runs", "dim"),
                "why": Text(states(line.members)),
            }
            cells = {"run": name, "step": _right("/".join(map(short, steps))), **about}
            return [cells.get(column, Text()) for column in _COLUMNS]
        losses = self._losses(row)
        last = row.attempts[-1]["cause"] if row.attempts and row.state in RESUMABLE else None
        style = (
            "red" if row.state in ("FAILED", "LOST") else "yellow" if row.state in WAITS else "dim"
        )
        return [
            Text("  " * (line.group is not None) + one_line(row.name), no_wrap=True),
            state_text(row.state),
            _right(f"{short(row.step)}/{short(row.steps)}"),
            _right(duration(row.eta_s)),
            _right(number(row.shown_loss)),
            LossCurve(losses, _CURVE) if losses else Text(),
            _right(number(row.steps_per_s, 3)),
            Text(one_line(row.reason or last or row.note or ""), style, no_wrap=True),
        ]


def _right(text: str) -> Text:
    return Text(text, justify="right", no_wrap=True)


class Question(ModalScreen[bool]):
    """A question that is answered by y or n; n is what everything else means."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss(True)", "Yes"),
        Binding("n,escape,q,enter", "dismiss(False)", "No"),
    ]

    def __init__(self, command: Command) -> None:
        super().__init__()
        self._command = command

    def compose(self) -> ComposeResult:
        question, about = self._command.title, self._command.about or ""
        yield Static(Text.assemble((f"{question}?", "bold"), f"\n{about}\n\ny yes   n no"))
        yield Footer(compact=True)


class MainScreen(Watching):
    """Runs and details.

    Two loops in the background ask what the runs are doing, as `status --watch` does, and read the
    files of what is on the screen. The first may have to wait for a scheduler, the second waits for
    nobody.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "r", "act('resume')", "Resume", tooltip="the run, or all runs of a group; asks first"
        ),
        Binding(
            "c", "act('cancel')", "Cancel", tooltip="the run, or all runs of a group; asks first"
        ),
        Binding("s", "act('sample')", "Sample", tooltip="draw samples of the run"),
        Binding("o", "act('report')", "Report", tooltip="write the page of the run, and open it"),
        Binding("space", "fold", "Fold", tooltip="or unfold a group of runs"),
        Binding("slash", "filter", "Filter", tooltip="show only runs that contain these words"),
        Binding("escape", "clear", "Clear filters and messages", show=False),
        *(
            Binding(key, f"state('{key}')", f"Show {name} runs", show=False)
            for key, (name, _) in FILTERS.items()
        ),
    ]

    def __init__(self, root: Path, which: Selection, *, everything: bool) -> None:
        super().__init__()
        self._root, self._which, self._everything = root, which, everything
        self._look, self._has_looked = Look(), False
        # When the look that goes on has begun, by the monotonic clock; None between two.
        self._since: float | None = None
        self._files, self._problem = Files(), ""
        self._detail: Detail | None = None
        # What is read: the selected run, and those that are listed.
        self._wanted: tuple[RunStatus | None, Sequence[RunStatus]] = (None, ())
        self._changed, self._ended = threading.Event(), threading.Event()
        # Groups that somebody has folded or unfolded.
        self._turned: set[str] = set()
        self._filter_key, self._words = "0", ""
        # What goes on, or has ended, by title.
        self.commands: dict[str, Command] = {}

    def compose(self) -> ComposeResult:
        yield Static(id="counts")
        yield RunTable(self._files.losses)
        with VerticalScroll(id="panel"):
            yield Static(id="detail")
        yield Static(id="remarks")
        yield Input(
            id="words",
            placeholder="words in name, group, tags, user or state; enter keeps them, esc clears",
        )
        yield Footer(compact=True)

    def on_mount(self) -> None:
        self.query_one("#words").display = False
        self.query_one(RunTable).focus()
        self.set_interval(1.0, self._show_remarks)
        self.in_background(self._ask)
        self.in_background(self._read)
        self._show()

    def on_unmount(self) -> None:
        self._ended.set()
        self._changed.set()

    def _ask(self) -> None:
        query = None
        while not self._ended.is_set():
            self._since = time.monotonic()
            try:
                query = query or Query(Index(self._root), self._which, self._everything)
                look = query.look()
            except Exception as error:
                look = replace(self._look, problem=f"{self._root}: {said(error)}")
            self._since, self._look, self._has_looked = None, look, True
            self.later(self._show)
            self._ended.wait(_EVERY_S)

    def _read(self) -> None:
        while not self._ended.is_set():
            self._changed.clear()
            detail, has_more = None, False
            try:
                (detail, has_more), self._problem = (
                    self._files.read(*self._wanted, self._look.seen.answers),
                    "",
                )
            except Exception as error:
                self._problem = f"the files of runs cannot be read: {said(error)}"
            self._detail = detail
            self.later(self._show)
            self._changed.wait(_PART_S if has_more else _EVERY_S)

    @property
    def selected(self) -> Line | None:
        return self.query_one(RunTable).selected

    def on_data_table_row_highlighted(self) -> None:
        self._show_selected()

    def _show(self) -> None:
        rows = matching(self._look.rows, self._filter_key, self._words)
        self.query_one(RunTable).show(arranged(rows, self._turned))
        only = FILTERS[self._filter_key][0] if self._filter_key != "0" else ""
        only += f' "{self._words}"' if self._words else ""
        counts = Text.assemble(
            (f"only {only.strip()}  " if only else "", "bold yellow"), states(self._look.rows)
        )
        for state, style in STYLES.items():
            counts.highlight_words([state], style)
        self.query_one("#counts", Static).update(counts.append(f"  {self._root}"))
        self._show_selected()
        self._show_remarks()

    def _show_selected(self) -> None:
        line, detail = self.selected, self._detail
        row = None if line is None else line.row
        before, self._wanted = self._wanted[0], (row, self.query_one(RunTable).visible_rows)
        if row is not None and (before is None or before.path != row.path):
            self._changed.set()
        shown: RenderableType = Text(self._nothing(), "dim")
        if row is not None:
            if detail is None or detail.why.row.path != row.path:
                # Until its files are read: what the list knows.
                detail = Detail(Why(row=row, headline=row.reason or ""))
            shown = panel(detail, self._files.losses(row))
        elif line is not None:
            hint = (
                f"space {'unfolds' if line.is_folded else 'folds'} it; r and c act on all of "
                f"its runs"
            )
            shown = Group(Printable(group_details(line.name, line.members)), Text(hint, "dim"))
        self.query_one("#panel").border_title = Text("" if line is None else one_line(line.name))
        self.query_one("#detail", Static).update(shown)

    def _nothing(self) -> str:
        """What is said instead of runs."""
        if not self._has_looked:
            return "looking for runs ..."
        if self._look.rows:
            return "no run matches the filter; esc clears it"
        return nothing(self._root, self._which, self._look.older)

    def _show_remarks(self) -> None:
        """What is wrong with the looks, or worth knowing about them."""
        since, look = self._since, self._look
        waited = 0.0 if since is None else time.monotonic() - since
        late = f"still looking after {duration(waited)}: a scheduler or a disk does not answer"
        lines = [
            late if waited > _PATIENCE_S else None,
            look.problem,
            self._problem,
            *look.seen.remarks,
        ]
        remarks = self.query_one("#remarks", Static)
        remarks.update(Text("\n".join(one_line(line) for line in lines if line)))
        remarks.display = any(lines)

    def action_fold(self) -> None:
        line = self.selected
        if line is None or line.group is None:
            self.notify("Select a group of runs, or a run of one, to fold it.", severity="warning")
        else:
            self._turned ^= {line.group}
            self._show()

    def action_filter(self) -> None:
        self.query_one("#words").display = True
        self.query_one("#words").focus()

    def action_state(self, key: str) -> None:
        self._filter_key = key
        self._show()

    def action_clear(self) -> None:
        self._filter_key = "0"
        self.query_one(Input).value = ""
        self.app.clear_notifications()
        self.app.action_hide_help_panel()
        self.on_input_submitted()
        self._show()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._words = event.value
        self._show()

    def on_input_submitted(self) -> None:
        self.query_one("#words").display = False
        self.query_one(RunTable).focus()

    def action_logs(self) -> None:
        if (row := self._row()) is not None:
            self.app.push_screen(LogScreen(row.path))

    def _row(self) -> RunStatus | None:
        """The run that is selected; says so if none is."""
        line = self.selected
        if line is None or line.row is None:
            self.notify(
                "Select a run of the group." if line else "There are no runs yet.",
                severity="warning",
            )
        return None if line is None else line.row

    def action_act(self, name: str) -> None:
        """Do something to what is selected, after a question if there is one; or say why not."""
        line = self.selected
        try:
            if line is not None and line.row is None and name in ("resume", "cancel"):
                command = command_for(
                    name,
                    [row for row in self._look.seen.rows if row.group == line.group],
                    line.name,
                )
            elif (row := self._row()) is not None:
                command = command_for(name, [row])
            else:
                return
        except UsageError as error:
            self.notify(str(error), severity="warning", markup=False)
            return
        if command.about is None:
            self._start(command)
        else:
            self.app.push_screen(
                Question(command), lambda answer: self._start(command) if answer else None
            )

    def _start(self, command: Command) -> None:
        before = self.commands.get(command.title)
        if before is None or before.code is not None:
            self.commands[command.title] = command
            self.in_background(partial(command.start, partial(self.later, self._printed, command)))
        elif not command.is_watched:
            self.notify(f"{command.title}: still in progress", severity="warning", markup=False)
        if command.is_watched:
            self.app.push_screen(OutputScreen(self.commands[command.title]))

    def _printed(self, command: Command) -> None:
        screen = self.app.screen
        if isinstance(screen, OutputScreen) and screen.command is command:
            screen.show()
        else:
            severity: SeverityLevel = "error" if command.code else "information"
            self.notify(command.message, title=command.title, severity=severity, markup=False)


class Top(App[None]):
    """The runs of a folder, kept up to date until somebody leaves.

    Args:
        root: the folder of the runs.
        which: the runs that are shown.
        everything: show those that ended over a week ago, too.
    """

    ENABLE_COMMAND_PALETTE = False
    NOTIFICATION_TIMEOUT = 15
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark", "help", "Help"),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", "Quit", show=False, priority=True),
    ]
    CSS = """
    #counts { height: 1; text-wrap: nowrap; text-overflow: ellipsis; }
    RunTable, RichLog { height: 1fr; min-height: 4; background: $background; }
    RunTable > .datatable--header, RunTable > .datatable--fixed { background: $background; }
    RunTable:focus { background-tint: $foreground 0%; }
    RunTable, RichLog, #panel { scrollbar-size: 1 1; }
    #panel { height: 45%; border: round $primary; border-title-style: bold; padding: 0 1; }
    #panel:focus { border: round $accent; }
    #remarks { color: $warning; }
    #words { height: 1; border: none; padding: 0; }
    Question { align: center middle; }
    Question > Static { width: 60; max-width: 96%; height: auto; }
    Question > Static { border: heavy $warning; padding: 0 1; }
    """

    def __init__(self, root: Path, which: Selection, *, everything: bool = False) -> None:
        # Without colours if somebody asks for that: textual would draw shades of grey.
        super().__init__(ansi_color=True if "NO_COLOR" in os.environ else None)
        # Over ssh, each frame is a wait.
        self.animation_level = "none"
        self._main = MainScreen(root, which, everything=everything)

    def get_default_screen(self) -> Screen[None]:
        return self._main

    def action_help(self) -> None:
        if self.screen.query("HelpPanel"):
            self.action_hide_help_panel()
        else:
            self.action_show_help_panel()

    def left_over(self) -> list[str]:
        """End what ends with the screen, when that is gone; lines about what nobody waits for any
        more."""
        return [
            line
            for command in self._main.commands.values()
            if (line := command.leave()) is not None
        ]
