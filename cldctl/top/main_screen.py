"""The first screen: the list of runs, and below it everything about the one that is selected."""

import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.events import Resize
from textual.message import Message
from textual.widgets import Input, Static

from cldctl.runs.status import RunStatus
from cldctl.show.format import duration

from . import panel
from .acting import NO_RUNS, Acting
from .arrange import FILTERS, GroupLine, Line, RunLine, arranged, matching
from .detail import Detail
from .feed import Look, Looker, Reader, Wanted
from .fitting import wrapped
from .keys import key_line
from .questions import HELP, MARKS, Help
from .run_list import RunList
from .top_line import top_line

_KEYS = (
    *(("enter", "logs"), ("r", "resume"), ("c", "cancel"), ("/", "filter")),
    *(("s", "sample"), ("o", "report")),
)
_ALWAYS = (("?", "help"), ("q", "quit"))
# Lines of the details on a usual terminal, and of messages at most.
_PANEL, _SAID = 12, 3
# A scheduler that has kept a look waiting for so many seconds is mentioned.
_PATIENCE_S = 3.0


class MainScreen(Acting):
    """Runs and details.

    Args:
        looker: what the runs are doing.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "fold", show=False),
        Binding("slash", "filter", show=False),
        Binding("question_mark", "help", show=False),
        Binding("escape", "clear", show=False),
        *(Binding(key, f"state('{key}')", show=False) for key in FILTERS),
    ]

    class Looked(Message):
        """The runs were looked at."""

        def __init__(self, look: Look) -> None:
            super().__init__()
            self.look = look

    class HasRead(Message):
        """The files of what is on the screen were read."""

        def __init__(self, detail: Detail | None) -> None:
            super().__init__()
            self.detail = detail

    def __init__(self, looker: Looker) -> None:
        super().__init__(looker.root)
        self._looker, self._reader = looker, Reader()
        self._seen: Look | None = None
        self._detail: Detail | None = None
        # Groups that somebody has folded or unfolded.
        self._turned: set[str] = set()
        self._filter_key, self._words = "0", ""
        self._said: tuple[str, bool] | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="top")
        yield RunList(self._reader.losses.of, id="runs")
        with VerticalScroll(id="panel"):
            yield Static(id="detail")
        yield Static(id="said")
        yield Input(id="words", placeholder="words in name, group, tags, user or state; enter keeps them, esc clears")
        yield Static(id="keys")

    def on_mount(self) -> None:
        self.query_one("#words").display = False
        self.query_one(RunList).focus()
        self.set_interval(1.0, self._draw_said)
        looking = partial(self._looker.go_on, lambda look: self.send(self.Looked(look)), self.ended.wait)
        reading = partial(self._reader.go_on, lambda detail: self.send(self.HasRead(detail)))
        for loop in (looking, reading):
            # Daemons: a scheduler that hangs keeps nobody from leaving.
            threading.Thread(target=loop, daemon=True).start()
        self._draw_all()

    def on_unmount(self) -> None:
        self.ended.set()
        self._reader.end()

    @property
    def selected(self) -> Line | None:
        return self.query_one(RunList).selected

    def members(self, group: str) -> Sequence[RunStatus]:
        return [] if self._seen is None else [row for row in self._seen.found if row.group == group]

    def say(self, text: str, *, is_error: bool) -> None:
        self._said = text, is_error
        self._draw_said()

    def on_main_screen_looked(self, message: Looked) -> None:
        self._seen = message.look
        self._show_runs()

    def on_main_screen_has_read(self, message: HasRead) -> None:
        self._detail = message.detail
        self.query_one(RunList).refresh()
        self._draw_panel()
        self._draw_said()

    def on_run_list_changed(self) -> None:
        line, shown = self.selected, self.query_one(RunList).visible_rows
        answers = Wanted().answers if self._seen is None else self._seen.answers
        self._reader.want(Wanted(line.row if isinstance(line, RunLine) else None, shown, answers))
        self._draw_panel()

    def on_resize(self, event: Resize) -> None:
        height = event.size.height
        self.query_one("#panel").styles.height = _PANEL if 24 <= height < 30 else max(height * 2 // 5 + 1, 4)
        self._draw_all()

    def action_fold(self) -> None:
        line = self.selected
        if isinstance(line, GroupLine) or (line is not None and line.is_member):
            self._turned ^= {line.name if isinstance(line, GroupLine) else line.row.group or ""}
            self._show_runs()
        else:
            self.say(NO_RUNS if line is None else "Select a group of runs, or a run of one, to fold it.", is_error=True)

    def action_filter(self) -> None:
        words = self.query_one("#words", Input)
        words.display = True
        words.focus()

    def action_state(self, key: str) -> None:
        self._filter_key = key
        self._show_runs()

    def action_clear(self) -> None:
        self._said, self._words, self._filter_key = None, "", "0"
        self.query_one("#words", Input).value = ""
        self.on_input_submitted()
        self._show_runs()

    def action_help(self) -> None:
        self.app.push_screen(Help({"keys": HELP, "marks": MARKS}))

    def on_input_changed(self, event: Input.Changed) -> None:
        self._words = event.value
        self._show_runs()

    def on_input_submitted(self) -> None:
        self.query_one("#words").display = False
        self.query_one(RunList).focus()

    def _show_runs(self) -> None:
        rows = [] if self._seen is None else matching(self._seen.rows, self._filter_key, self._words)
        self.query_one(RunList).show(arranged(rows, self._turned), self._nothing())
        self._draw_top()
        self._draw_said()

    def _nothing(self) -> str:
        """What is said instead of runs."""
        if self._seen is None:
            return "looking for runs ..."
        if self._seen.rows:
            return "no run matches the filter; esc clears it"
        if self._seen.older:
            return f"no recent runs; {self._seen.older:,} ended over a week ago: cldctl top --all"
        return "no runs here. Start one: cldctl submit toy_demo"

    def _draw_all(self) -> None:
        self._draw_top()
        self._draw_panel()
        self._draw_said()
        self.query_one("#keys", Static).update(key_line(_KEYS, _ALWAYS, max(self.size.width, 20)))

    def _draw_top(self) -> None:
        shown = [] if self._filter_key == "0" else [FILTERS[self._filter_key][0]]
        shown += [f'"{self._words}"'] if self._words else []
        rows = () if self._seen is None else self._seen.rows
        text = top_line(self._looker.root, rows, " ".join(shown), max(self.size.width, 20))
        self.query_one("#top", Static).update(text)

    def _draw_panel(self) -> None:
        width = max(self.size.width - 3, 20)
        line = self.selected
        lines: list[Text] = []
        if isinstance(line, GroupLine):
            lines = panel.of_group(line, width)
        elif line is not None:
            detail = self._detail
            if detail is None or detail.row.path != line.row.path:
                # Its files are being read: what the list knows, meanwhile.
                detail = Detail(row=line.row)
            lines = panel.of_run(detail, self._reader.losses.of(Path(line.row.path)), width)
        self.query_one("#detail", Static).update(Text("\n", no_wrap=True).join(lines))

    def _draw_said(self) -> None:
        width = max(self.size.width, 20)
        if self._said is not None:
            texts = [(self._said[0], "bold red" if self._said[1] else "bold green")]
        else:
            texts = [(text, "yellow") for text in self._remarks()]
        lines = [Text(line, style) for text, style in texts for line in wrapped(text, width, _SAID)]
        said = self.query_one("#said", Static)
        said.display = bool(lines)
        said.update(Text("\n").join(lines[:_SAID]))

    def _remarks(self) -> list[str]:
        """What is wrong with the looks, or worth knowing about them."""
        since, seen = self._looker.since, self._seen
        waited = 0.0 if since is None else time.monotonic() - since
        late = f"still looking after {duration(waited)}: a scheduler or a disk does not answer"
        problems = [problem for problem in (seen and seen.problem, self._reader.problem) if problem]
        return [*([late] if waited > _PATIENCE_S else []), *problems, *(() if seen is None else seen.remarks)]
