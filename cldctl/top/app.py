"""`cldctl top` as an application of textual: the list of runs, everything about the selected one, and keys that act."""

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from rich.console import Group, RenderableType
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.notifications import SeverityLevel
from textual.screen import ModalScreen, Screen
from textual.widgets import Footer, Input, Static

from cld_core.errors import UsageError
from cld_core.texts import one_line
from cldctl.runs.index import Index
from cldctl.runs.selection import Selection
from cldctl.runs.state import STATES
from cldctl.runs.status import RunStatus, said
from cldctl.show.format import duration
from cldctl.show.runs import Look, Query, group_details, nothing, states

from .actions import ACTIONS, Command
from .detail import Detail, Files, Printable, panel
from .logs import LogScreen, OutputScreen, Watching
from .run_table import FILTERS, Line, RunTable, arranged, matching

# Seconds between two looks, as of `status --watch`.
_EVERY_S = 1.0
# A scheduler that has kept a look waiting for so many seconds is mentioned.
_PATIENCE_S = 3.0


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

    Two loops in the background ask what the runs are doing, as `status --watch` does, and read the files of what is on
    the screen. The first may have to wait for a scheduler, the second waits for nobody.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "act('resume')", "Resume", tooltip="the run, or all runs of a group; asks first"),
        Binding("c", "act('cancel')", "Cancel", tooltip="the run, or all runs of a group; asks first"),
        Binding("s", "act('sample')", "Sample", tooltip="draw samples of the run"),
        Binding("o", "act('report')", "Report", tooltip="write the page of the run, and open it"),
        Binding("space", "fold", "Fold", tooltip="or unfold a group of runs"),
        Binding("slash", "filter", "Filter", tooltip="show only runs that contain these words"),
        Binding("escape", "clear", "Clear filters and messages", show=False),
        *(Binding(key, f"state('{key}')", f"Show {name} runs", show=False) for key, (name, _) in FILTERS.items()),
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
        yield Input(id="words", placeholder="words in name, group, tags, user or state; enter keeps them, esc clears")
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
            self._since = None
            self.later(self._looked, look)
            self._ended.wait(_EVERY_S)

    def _read(self) -> None:
        while not self._ended.is_set():
            self._changed.clear()
            detail, has_more = None, False
            try:
                (detail, has_more), self._problem = self._files.read(*self._wanted, self._look.answers), ""
            except Exception as error:
                self._problem = f"the files of runs cannot be read: {said(error)}"
            self.later(self._was_read, detail)
            self._changed.wait(0.0 if has_more else _EVERY_S)

    @property
    def selected(self) -> Line | None:
        return self.query_one(RunTable).selected

    def _looked(self, look: Look) -> None:
        self._look, self._has_looked = look, True
        self._show()

    def _was_read(self, detail: Detail | None) -> None:
        self._detail = detail
        self._show()

    def on_data_table_row_highlighted(self) -> None:
        self._show_selected()

    def _show(self) -> None:
        rows = matching(self._look.rows, self._filter_key, self._words)
        self.query_one(RunTable).show(arranged(rows, self._turned))
        only = FILTERS[self._filter_key][0] if self._filter_key != "0" else ""
        only += f' "{self._words}"' if self._words else ""
        counts = Text.assemble((f"only {only.strip()}  " if only else "", "bold yellow"), states(self._look.rows))
        for state, style in STATES.items():
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
            # Until its files are read: what the list knows.
            is_read = detail is not None and detail.row.path == row.path
            shown = panel((detail if is_read else None) or Detail(row), self._files.losses(row))
        elif line is not None:
            hint = f"space {'unfolds' if line.is_folded else 'folds'} it; r and c act on all of its runs"
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
        lines = [late if waited > _PATIENCE_S else None, look.problem, self._problem, *look.remarks]
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
            self.notify("Select a run of the group." if line else "There are no runs yet.", severity="warning")
        return None if line is None else line.row

    def action_act(self, name: str) -> None:
        """Do something to what is selected, after a question if there is one; or say why not."""
        line, (of_run, of_group) = self.selected, ACTIONS[name]
        try:
            if line is not None and line.row is None and of_group is not None:
                command = of_group(line.name, [row for row in self._look.found if row.group == line.group])
            elif (row := self._row()) is not None:
                command = of_run(row)
            else:
                return
        except UsageError as error:
            self.notify(str(error), severity="warning", markup=False)
            return
        if command.about is None:
            self._start(command)
        else:
            self.app.push_screen(Question(command), lambda answer: self._start(command) if answer else None)

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
    Question > Static { width: 60; max-width: 96%; height: auto; border: heavy $warning; padding: 0 1; }
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
        """End what ends with the screen, when that is gone; lines about what nobody waits for any more."""
        return [line for command in self._main.commands.values() if (line := command.leave()) is not None]
