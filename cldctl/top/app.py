"""`cldctl top` as a textual application: a list of runs, details of the selected one, and keys."""

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
from cldctl.runs.logs import Log, LogReader, failed_log, find_log
from cldctl.runs.selection import Selection
from cldctl.runs.status import RunStatus, message_of
from cldctl.runs.why import Why
from cldctl.show.console import STYLES, duration, short
from cldctl.show.runs import Look, Query, group_details, nothing, run_columns, states

from .selected import Command, Detail, Files, LossCurve, Printable, command_for, panel

# The keys that filter by state: the name of each filter and its states, none for all.
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
# Seconds between two updates, as of `status --watch`, and between two parts of long files.
_EVERY_S = 1.0
_PART_S = 0.1
# Seconds after which the screen says that a scheduler does not answer.
_PATIENCE_S = 3.0
# Of a log: seconds between two updates, lines that are shown first and kept, characters of a line.
_LINES_EVERY_S = 0.5
_FIRST_LINES = 2000
_MOST = 10_000
_LINE = 2000
_RANK = Binding.Group("Rank")
_ATTEMPT = Binding.Group("Attempt")


class Watching(Screen[None]):
    """A screen whose threads send it their results."""

    def in_background(self, do: Callable[[], object]) -> None:
        """Call a function in a thread of its own."""
        # A daemon, so that a scheduler or a disk that hangs does not keep the screen from closing.
        threading.Thread(target=do, daemon=True).start()

    def later(self, do: Callable[..., object], *arguments: object) -> None:
        """From any thread: call a function in the thread of the screen, if it still exists."""
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
    """The output of a command, which ends with `cldctl top`, not with this screen."""

    def __init__(self, command: Command) -> None:
        super().__init__()
        self.command = command

    def on_mount(self) -> None:
        self.query_one(RichLog).wrap = True
        self.show()

    def show(self) -> None:
        """Show the output, and whether the command has ended."""
        how = {None: "goes on until you quit", 0: "done"}.get(self.command.code, "failed")
        self.entitle(f"cldctl {self.command.title}: {how}")
        self.query_one(RichLog).clear().write(Text(printable(self.command.output)))


def first_log(run: RunFolder) -> tuple[Log, bool]:
    """The log of the rank that failed first, if the last attempt failed and no later job waits.

    Returns:
        That log, or else that of rank 0 of the newest job; and whether its rank failed first.
    """
    history = run.ledger.history()
    last = history.last
    if last is not None and fate_of(last.cause) == "crashes" and history.requeued is None:
        is_newest = not history.jobs or history.jobs[-1].job.job_id == last.job_id
        if is_newest:
            return failed_log(run, None)[0], True
    return find_log(run), False


def other_log(run: RunFolder, log: Log | None, what: str, step: int) -> Log:
    """The next or previous log; after the last comes the first.

    Args:
        log: the log on the screen; None if there is none.
        what: "rank" of the same job; "attempt", of which the newest job is the last; or
            "evaluation", of which the training is the first and the newest evaluation the second.
        step: 1 for the next, -1 for the previous.

    Raises:
        NotFoundError: there is only one.
    """
    # A rank is one of an attempt, and that is one of a training.
    names = ("evaluation", "attempt", "rank")
    outer = {name: getattr(log, name, None) for name in names[: names.index(what) + 1]}
    current = outer.pop(what)
    options: list[Any] = []
    if what == "rank":
        # The ranks of the log as it is now: a newer job may have begun.
        options += map(int, find_log(run, **outer, rank=current).ranks())
    elif what == "attempt":
        history = run.ledger.history()
        for attempt in history.attempts:
            # The output of an attempt that another launcher started is not in the folder.
            if history.queued[attempt.attempt][0] is not None:
                options.append(attempt.attempt)
        options.append(None)
    else:
        works = (work for work in reversed(evaluations_of(run)) if work.history().jobs)
        options += (None, *(work.name for work in works))
    if len(options) < 2 and what == "evaluation":
        raise NotFoundError(f"{run.name}: no evaluation was started.")
    if len(options) < 2:
        raise NotFoundError(f"{run.name}: there is only one {what}.")
    place = options.index(current) if current in options else 0
    return find_log(run, **outer, **{what: options[(place + step) % len(options)]})


def _printable(line: bytes) -> str:
    # A terminal shows only the last state of a bar that is redrawn on its line.
    text = line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]
    return printable(text, keep="\t").expandtabs(8)[:_LINE]


class LogScreen(TextScreen):
    """The log of one rank at a time, which grows as it is written.

    Args:
        run: the folder of the run.
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
        # Each request finds the next log from the one on the screen, and tells whether its rank
        # failed first; None ends the thread.
        self._requests: queue.Queue[Callable[[Log | None], tuple[Log, bool]] | None] = queue.Queue()
        # The last line of the output, and of the log of errors, while they have no ends.
        self._open_lines: dict[bool, bytes] = {}

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
        """In the background: open requested logs, and pass on new lines."""
        log: Log | None = None
        reader: LogReader | None = None
        while True:
            try:
                with contextlib.suppress(queue.Empty):
                    if (request := self._requests.get(timeout=_LINES_EVERY_S)) is None:
                        return
                    if not self._of.exists:
                        raise NotFoundError(f"{self._of.name}: the run is gone")
                    log, failed_first = request(log)
                    reader = LogReader(log, tail=_FIRST_LINES)
                    self._open_lines.clear()
                    self.later(self._open, log, failed_first)
                if reader is not None and (lines := self._new_lines(reader)):
                    self.later(self._write, lines)
            except Exception as error:
                self.later(self._refuse, message_of(error))

    def _new_lines(self, reader: LogReader) -> list[tuple[str, bool]]:
        """Lines without control characters, each with whether it is from the log of errors."""
        unchanged = set(self._open_lines)
        lines = []
        for line, is_error in reader.new_lines():
            unchanged.discard(is_error)
            line = self._open_lines.pop(is_error, b"") + line
            # A line without an end is kept until nothing more is written to it.
            if line.endswith(b"\n"):
                lines.append((_printable(line[:-1]), is_error))
            else:
                self._open_lines[is_error] = line
        for is_error in unchanged:
            lines.append((_printable(self._open_lines.pop(is_error)), is_error))
        return lines

    def _open(self, log: Log, failed_first: bool) -> None:
        if log.evaluation is not None:
            where = f"evaluation {log.evaluation}"
        elif log.attempt is not None:
            where = f"attempt {log.attempt}"
        else:
            where = f"job {log.job.job_id}"
        title = f"{self._of.name} · {where}, rank {log.rank}"
        self.entitle(f"{title}: failed first" if failed_first else title)
        self.query_one(RichLog).clear()
        if log.note is not None:
            self.query_one(RichLog).write(Text(one_line(log.note), "yellow"))

    def _write(self, lines: Sequence[tuple[str, bool]]) -> None:
        log = self.query_one(RichLog)
        text = Text("\n").join(
            Text(line, "red" if is_error else "", no_wrap=True) for line, is_error in lines
        )
        # It stays where it is if it was scrolled up.
        log.write(text, scroll_end=log.is_vertical_scroll_end)

    def _refuse(self, problem: str) -> None:
        self.notify(problem, severity="warning", markup=False)


@dataclass(frozen=True)
class ListedItem:
    """A run, or the heading of a group of several runs.

    Attributes:
        row: the run; None for the heading of a group.
        group: the group of the heading, or of a run below it.
        members: the listed runs of a group.
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


def arranged(rows: Iterable[RunStatus], turned: Collection[str] = ()) -> list[ListedItem]:
    """The lines of a list of runs.

    Args:
        turned: names of groups that the user has folded or unfolded. The others are folded once all
            their runs are over.
    """
    groups: dict[str, list[RunStatus]] = {}
    for row in sorted(rows, key=lambda row: (row.state in OVER, -(row.created or 0.0), row.name)):
        # A run without a group is alone under its path, which is not the name of any group.
        groups.setdefault(row.group or row.path, []).append(row)
    lines: list[ListedItem] = []
    for name, members in groups.items():
        if len(members) == 1:
            lines.append(ListedItem(members[0]))
            continue
        is_folded = all(row.state in OVER for row in members) != (name in turned)
        lines.append(ListedItem(None, name, tuple(members), is_folded))
        if not is_folded:
            lines += (ListedItem(row, name) for row in members)
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
        losses: returns the losses of a run that have been read.
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
        self.lines: list[ListedItem] = []

    def on_mount(self) -> None:
        for name in _COLUMNS:
            self.add_column(Text(name), key=name, width=_CURVE if name == "curve" else None)

    @property
    def selected(self) -> ListedItem | None:
        return self.lines[self.cursor_row] if 0 <= self.cursor_row < len(self.lines) else None

    @property
    def visible_rows(self) -> list[RunStatus]:
        shown = self.lines[self.scroll_offset.y :][: self.size.height]
        return [line.row for line in shown if line.row is not None]

    def show(self, lines: Sequence[ListedItem]) -> None:
        """Show lines; the same run stays selected, or the one that takes its place."""
        before = self.selected
        cells = {line.key: self._cells_of(line) for line in lines}
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

    def _cells_of(self, line: ListedItem) -> list[RenderableType]:
        cells: dict[str, RenderableType] = {}
        row = line.row
        if row is None:
            done = short(sum(row.step for row in line.members))
            total = short(sum(row.steps or 0 for row in line.members))
            mark = "▸" if line.is_folded else "▾"
            cells["run"] = Text(f"{mark} {line.name}", "bold", no_wrap=True)
            cells["state"] = Text(f"{len(line.members)} runs", "dim")
            cells["step"] = Text(f"{done}/{total}", justify="right", no_wrap=True)
            cells["why"] = Text(states(line.members))
            return [cells.get(column, Text()) for column in _COLUMNS]
        for heading, (cell, *_) in run_columns([row]).items():
            cells[heading] = cell
            if isinstance(cell, str):
                cells[heading] = Text(cell, justify="right", no_wrap=True)
        indent = "" if line.group is None else "  "
        cells["run"] = Text(indent + one_line(row.name), no_wrap=True)
        if losses := self._losses(row):
            cells["curve"] = LossCurve(losses, _CURVE)
        last = row.attempts[-1]["cause"] if row.attempts and row.state in RESUMABLE else None
        style = "yellow" if row.state in WAITS else "dim"
        if row.state in ("FAILED", "LOST"):
            style = "red"
        reason = one_line(row.reason or last or row.note or "")
        cells["why"] = Text(reason, style, no_wrap=True)
        return [cells.get(column, Text()) for column in _COLUMNS]


class Question(ModalScreen[bool]):
    """A question that is answered by y or n."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss(True)", "Yes"),
        Binding("n,escape,q,enter", "dismiss(False)", "No"),
    ]

    def __init__(self, command: Command) -> None:
        super().__init__()
        self._command = command

    def compose(self) -> ComposeResult:
        question = (f"{self._command.title}?", "bold")
        yield Static(Text.assemble(question, f"\n{self._command.about}\n\ny yes   n no"))
        yield Footer(compact=True)


class MainScreen(Watching):
    """Runs and details.

    Two threads update it: one asks for the states of the runs, as `status --watch` does, and may
    wait for a scheduler; the other reads the files of the runs on the screen.
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
        self._root = root
        self._which = which
        self._everything = everything
        self._look = Look()
        self._has_looked = False
        # When the present look began, by the monotonic clock; None between two looks.
        self._since: float | None = None
        self._files = Files()
        self._problem = ""
        self._detail: Detail | None = None
        # The runs whose files are read: the selected one, and those that are visible.
        self._targets: tuple[RunStatus | None, Sequence[RunStatus]] = (None, ())
        self._changed = threading.Event()
        self._ended = threading.Event()
        # Groups that the user has folded or unfolded.
        self._turned: set[str] = set()
        self._filter_key = "0"
        self._words = ""
        # Commands in progress and ended ones, by title.
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
                look = replace(self._look, problem=f"{self._root}: {message_of(error)}")
            self._since = None
            self._look = look
            self._has_looked = True
            self.later(self._show)
            self._ended.wait(_EVERY_S)

    def _read(self) -> None:
        while not self._ended.is_set():
            self._changed.clear()
            detail = None
            has_more = False
            try:
                detail, has_more = self._files.read(*self._targets, self._look.listing.answers)
                self._problem = ""
            except Exception as error:
                self._problem = f"the files of runs cannot be read: {message_of(error)}"
            self._detail = detail
            self.later(self._show)
            self._changed.wait(_PART_S if has_more else _EVERY_S)

    @property
    def selected(self) -> ListedItem | None:
        return self.query_one(RunTable).selected

    def on_data_table_row_highlighted(self) -> None:
        self._show_selected()

    def _show(self) -> None:
        rows = matching(self._look.rows, self._filter_key, self._words)
        self.query_one(RunTable).show(arranged(rows, self._turned))
        filters = [] if self._filter_key == "0" else [FILTERS[self._filter_key][0]]
        if self._words:
            filters.append(f'"{self._words}"')
        counts = Text(f"only {' '.join(filters)}  " if filters else "", "bold yellow")
        counts = Text.assemble(counts, states(self._look.rows))
        for state, style in STYLES.items():
            counts.highlight_words([state], style)
        self.query_one("#counts", Static).update(counts.append(f"  {self._root}"))
        self._show_selected()
        self._show_remarks()

    def _show_selected(self) -> None:
        line, detail = self.selected, self._detail
        row = None if line is None else line.row
        before = self._targets[0]
        self._targets = (row, self.query_one(RunTable).visible_rows)
        if row is not None and (before is None or before.path != row.path):
            self._changed.set()
        content: RenderableType = Text(self._nothing(), "dim")
        if row is not None:
            if detail is None or detail.why.row.path != row.path:
                # What the list shows, until the files of the run are read.
                detail = Detail(Why(row=row, headline=row.reason or ""))
            content = panel(detail, self._files.losses(row))
        elif line is not None:
            turn = "unfolds" if line.is_folded else "folds"
            hint = Text(f"space {turn} it; r and c act on all of its runs", "dim")
            content = Group(Printable(group_details(line.name, line.members)), hint)
        self.query_one("#panel").border_title = Text("" if line is None else one_line(line.name))
        self.query_one("#detail", Static).update(content)

    def _nothing(self) -> str:
        """The text that stands in place of runs."""
        if not self._has_looked:
            return "looking for runs ..."
        if self._look.rows:
            return "no run matches the filter; esc clears it"
        return nothing(self._root, self._which, self._look.older)

    def _show_remarks(self) -> None:
        """Show problems and remarks of the newest look below the runs."""
        lines = [self._look.problem, self._problem, *self._look.listing.remarks]
        since = self._since
        waited = 0.0 if since is None else time.monotonic() - since
        if waited > _PATIENCE_S:
            late = f"still looking after {duration(waited)}: a scheduler or a disk does not answer"
            lines.insert(0, late)
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
        """The selected run; None, with a notification, if none is selected."""
        line = self.selected
        if line is None:
            self.notify("There are no runs yet.", severity="warning")
            return None
        if line.row is None:
            self.notify("Select a run of the group.", severity="warning")
        return line.row

    def action_act(self, name: str) -> None:
        """Run a command on the selected run or group, after its question; or say why not."""
        line = self.selected
        try:
            if line is not None and line.row is None and name in ("resume", "cancel"):
                members = [row for row in self._look.listing.rows if row.group == line.group]
                command = command_for(name, members, line.name)
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
    """A live screen of the runs of a folder.

    Args:
        root: the folder of the runs.
        which: the filters of the runs that are shown.
        everything: also show runs that ended over a week ago.
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
        # With $NO_COLOR, textual alone would draw shades of grey.
        super().__init__(ansi_color=True if "NO_COLOR" in os.environ else None)
        # Each frame of an animation is a delay over ssh.
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
        """Leave all commands after the screen is closed; a line about each that has not ended."""
        lines = (command.leave() for command in self._main.commands.values())
        return [line for line in lines if line is not None]
