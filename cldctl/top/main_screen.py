"""The first screen: the list of runs, and below it everything about the one that is selected."""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.events import Resize
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Input, Static

from cld_core.run import RunFolder
from cld_core.run.groups import Group
from cldctl.runs.state import OVER
from cldctl.runs.status import RunStatus
from cldctl.ui.format import duration
from cldctl.ui.tables import STATE_STYLE

from . import actions, panel
from .actions import Say
from .arrange import FILTERS, GroupLine, RunLine, arranged, counts, matching
from .detail import Detail, detail_of
from .doing import Doing
from .feed import Look, Looker, Reader, Wanted
from .fitting import cut, cut_in_the_middle, wrapped
from .keys import key_line
from .log_screen import LogScreen
from .output_screen import OutputScreen
from .questions import Help, Question
from .run_list import RunList

_KEYS = (
    *(("enter", "logs"), ("r", "resume"), ("c", "cancel"), ("/", "filter")),
    *(("s", "sample"), ("o", "report")),
)
_ALWAYS = (("?", "help"), ("q", "quit"))
# Lines of the details on a usual terminal, and of a message at most.
_PANEL, _SAID = 12, 3
# A scheduler that has kept a look waiting for so many seconds is mentioned.
_PATIENCE_S = 3.0


class MainScreen(Screen[None]):
    """Runs and details. Whatever may take a moment happens in threads, which send messages.

    Args:
        looker: what the runs are doing.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,l", "logs", show=False),
        Binding("r", "resume", show=False),
        Binding("c", "cancel", show=False),
        Binding("s", "sample", show=False),
        Binding("o", "report", show=False),
        Binding("space", "fold", show=False),
        Binding("slash", "filter", show=False),
        Binding("question_mark", "help", show=False),
        Binding("escape", "clear", show=False),
        Binding("q", "quit", show=False),
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

    class Said(Message):
        """An action has something to say."""

        def __init__(self, text: str, is_error: bool) -> None:
            super().__init__()
            self.text, self.is_error = text, is_error

    class Over(Message):
        """An action has ended."""

    class Printed(Message):
        """A command that runs beside this screen has printed a line."""

        def __init__(self, what: str, line: str) -> None:
            super().__init__()
            self.what, self.line = what, line

    def __init__(self, looker: Looker) -> None:
        super().__init__()
        self._looker, self._reader = looker, Reader()
        self._ended = threading.Event()
        self._look: Look | None = None
        self._detail: Detail | None = None
        self._folds: set[str] = set()
        self._filter_key, self._words = "0", ""
        self._said: tuple[str, bool] | None = None
        self._is_quitting = False
        self._output: dict[str, list[str]] = {}
        self.doing = Doing(
            lambda text, is_error: self._send(self.Said(text, is_error)), lambda: self._send(self.Over())
        )

    def compose(self) -> ComposeResult:
        yield Static(id="top")
        yield RunList(self._reader.losses.of, id="runs")
        with VerticalScroll(id="panel"):
            yield Static(id="detail")
        yield Static(id="said")
        yield Input(id="words", placeholder="words in name, group, tag, user, state; enter keeps, esc clears")
        yield Static(id="keys")

    def on_mount(self) -> None:
        self.query_one("#words").display = False
        self.query_one(RunList).focus()
        self.set_interval(1.0, self._draw_top)
        looking = partial(self._looker.go_on, lambda look: self._send(self.Looked(look)), self._ended.wait)
        reading = partial(self._reader.go_on, lambda detail: self._send(self.HasRead(detail)))
        for loop in (looking, reading):
            # Daemons: a scheduler that hangs keeps nobody from leaving.
            threading.Thread(target=loop, daemon=True).start()
        self._draw_all()

    def on_unmount(self) -> None:
        self._ended.set()
        self._reader.end()

    def _send(self, message: Message) -> None:
        if not self._ended.is_set():
            self.post_message(message)

    def on_main_screen_looked(self, message: Looked) -> None:
        self._look = message.look
        self._show_runs()

    def on_main_screen_has_read(self, message: HasRead) -> None:
        self._detail = message.detail
        self.query_one(RunList).refresh()
        self._draw_panel()

    def on_main_screen_said(self, message: Said) -> None:
        self._say(message.text, is_error=message.is_error)

    def on_main_screen_over(self) -> None:
        if self._is_quitting and not self.doing.unfinished:
            self.app.exit()

    def on_main_screen_printed(self, message: Printed) -> None:
        self._output.setdefault(message.what, []).append(message.line)
        if isinstance(self.app.screen, OutputScreen):
            self.app.screen.add(message.line)
        else:
            self._say(f"{message.what}: {message.line}", is_error=False)

    def on_run_list_changed(self) -> None:
        self._want()
        self._draw_panel()

    def on_resize(self, event: Resize) -> None:
        height = event.size.height
        self.query_one("#panel").styles.height = _PANEL if 24 <= height < 30 else max(height * 2 // 5 + 1, 4)
        self._draw_all()

    # What keys do.

    def action_logs(self) -> None:
        if (run := self._run("look at its log")) is not None:
            self.app.push_screen(LogScreen(run))

    def action_resume(self) -> None:
        line = self.query_one(RunList).selected
        if isinstance(line, GroupLine):
            group = Group(self._looker.root, line.name)
            about = "All of its runs that are neither alive nor finished continue, by one job."
            self._ask(f"Resume the runs of {line.name}?", about, partial(actions.resume_group, group), must_end=True)
        elif (row := self._row("resume it")) is not None:
            step = f"checkpoint at step {row.checkpoint_step:,}" if row.checkpoint_step is not None else "beginning"
            run = RunFolder(row.path)
            about = f"A new job continues it from its {step}."
            self._ask(f"Resume {row.name}?", about, partial(actions.resume, run), must_end=True)

    def action_cancel(self) -> None:
        line = self.query_one(RunList).selected
        rows = [row for row in line.rows if row.state not in OVER] if isinstance(line, GroupLine) else []
        if isinstance(line, RunLine) and (row := self._row("cancel it")) is not None:
            rows = [row]
        if rows and line is not None:
            name = line.name if isinstance(line, GroupLine) else line.row.name
            what = f"{len(rows)} runs of {name}" if isinstance(line, GroupLine) else name
            about = "It saves a checkpoint first. Its evaluations end, too. `resume` continues it."
            self._ask(f"Cancel {what}?", about, partial(_cancel, rows), must_end=False)
        elif isinstance(line, GroupLine):
            self._say(f"{line.name}: none of its runs is alive", is_error=True)

    def action_sample(self) -> None:
        run = self._run("draw samples of it")
        if run is None:
            return
        what = f"sample {run.name}"
        if what not in self.doing.going_on:
            self._output[what] = [f"$ cldctl sample {run.name}"]
            self.doing.start(what, partial(self._sample, run, what), must_end=False)
        self.app.push_screen(OutputScreen(what, self._output[what]))

    def action_report(self) -> None:
        if (run := self._run("write its report")) is not None:
            self.doing.start(f"report {run.name}", partial(actions.report, run), must_end=False)

    def action_fold(self) -> None:
        line = self.query_one(RunList).selected
        name = line.name if isinstance(line, GroupLine) else line.row.group if line is not None else None
        if name is not None:
            self._folds ^= {name}
            self._show_runs()

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
        self._leave_filter()
        self._show_runs()

    def action_help(self) -> None:
        self.app.push_screen(Help())

    def action_quit(self) -> None:
        unfinished = self.doing.unfinished
        if unfinished and not self._is_quitting:
            self._is_quitting = True
            self._say(f"quits when this is done: {', '.join(unfinished)}. q again leaves it half done", is_error=True)
            return
        self.app.exit()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._words = event.value
        self._show_runs()

    def on_input_submitted(self) -> None:
        self._leave_filter()

    def _leave_filter(self) -> None:
        self.query_one("#words").display = False
        self.query_one(RunList).focus()

    def _row(self, purpose: str) -> RunStatus | None:
        """The run that is selected; says so if none is."""
        line = self.query_one(RunList).selected
        if isinstance(line, RunLine):
            return line.row
        self._say(f"Select a run to {purpose}." if line is not None else "There is no run yet.", is_error=True)
        return None

    def _run(self, purpose: str) -> RunFolder | None:
        row = self._row(purpose)
        if row is not None and not RunFolder(row.path).exists:
            self._say(f"{row.name}: the run is gone", is_error=True)
            return None
        return None if row is None else RunFolder(row.path)

    def _ask(self, question: str, about: str, act: Callable[[Say], list[str]], *, must_end: bool) -> None:
        def answered(answer: bool | None) -> None:
            if answer:
                self.doing.start(question.rstrip("?"), act, must_end=must_end)

        self.app.push_screen(Question(question, about), answered)

    def _sample(self, run: RunFolder, what: str, say: Say) -> list[str]:
        process = actions.sampling(run)
        self.doing.hold(what, process)
        for line in actions.output_of(process):
            self._send(self.Printed(what, line))
        return []

    # What is drawn.

    def _say(self, text: str, *, is_error: bool) -> None:
        self._said = text, is_error
        self._draw_said()

    def _show_runs(self) -> None:
        rows = [] if self._look is None else matching(self._look.rows, self._filter_key, self._words)
        self.query_one(RunList).show(arranged(rows, self._folds), self._nothing())
        self._draw_top()
        self._draw_said()

    def _nothing(self) -> str:
        if self._look is None:
            return "looking at the runs ..."
        if self._look.rows:
            return "no run matches the filter; esc clears it"
        if self._look.older:
            return f"no recent runs; {self._look.older:,} ended over a week ago: cldctl top --all"
        return "no runs here. Start one: cldctl submit toy"

    def _want(self) -> None:
        runs = self.query_one(RunList)
        line = runs.selected
        answers = Wanted().answers if self._look is None else self._look.answers
        self._reader.want(Wanted(line.row if isinstance(line, RunLine) else None, runs.visible_rows, answers))

    def _draw_all(self) -> None:
        self._draw_top()
        self._draw_panel()
        self._draw_said()
        self.query_one("#keys", Static).update(key_line(_KEYS, _ALWAYS, max(self.size.width, 20)))

    def _draw_top(self) -> None:
        width = max(self.size.width, 20)
        rows: Sequence[RunStatus] = () if self._look is None else self._look.rows
        shown = [] if self._filter_key == "0" else [FILTERS[self._filter_key][0]]
        shown += [f'"{self._words}"'] if self._words else []
        only = f"only {' '.join(shown)}" if shown else ""
        states = Text("  ").join(
            Text(f"{number} {state}", STATE_STYLE.get(state, "")) for state, number in counts(rows)
        )
        room = width - states.cell_len - cell_len(only) - 4
        place = cut_in_the_middle(str(self._looker.root), min(max(room, 0), 30)) if room >= 8 else ""
        text = Text.assemble((place, "bold"), "  " if place else "", states)
        if only:
            text.truncate(max(width - cell_len(only) - 2, 0), overflow="ellipsis")
            text.append("  ").append(cut(only, width), "bold yellow")
        text.truncate(width, overflow="ellipsis")
        self.query_one("#top", Static).update(text)
        self._draw_said()

    def _draw_panel(self) -> None:
        width = max(self.size.width - 2, 20)
        line = self.query_one(RunList).selected
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
        texts: list[tuple[str, str]] = []
        if self._said is not None:
            texts.append((self._said[0], "bold red" if self._said[1] else "bold green"))
        else:
            texts += [(text, "yellow") for text in self._remarks()]
        lines = [Text(line, style) for text, style in texts for line in wrapped(text, width, _SAID)]
        said = self.query_one("#said", Static)
        said.display = bool(lines)
        said.update(Text("\n").join(lines[:_SAID]))

    def _remarks(self) -> list[str]:
        since = self._looker.since
        waited = 0.0 if since is None else time.monotonic() - since
        late = [f"still looking, for {duration(waited)}: a scheduler or a disk does not answer"]
        look = self._look
        if look is None:
            return late if waited > _PATIENCE_S else []
        problem = [look.problem] if look.problem else []
        return [*(late if waited > _PATIENCE_S else []), *problem, *look.remarks]


def _cancel(rows: Sequence[RunStatus], say: Say) -> list[str]:
    return actions.cancel([RunFolder(row.path) for row in rows], say)
