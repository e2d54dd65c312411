"""What keys do to the run or group that is selected."""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.screen import Screen

from cld_core.run import RunFolder
from cld_core.run.groups import Group
from cld_core.texts import one_line
from cldctl.runs.state import OVER
from cldctl.runs.status import RunStatus

from . import actions, refusals
from .actions import Say
from .arrange import GroupLine, Line, RunLine
from .doing import Doing
from .log_screen import LogScreen
from .output_screen import Output, OutputScreen
from .questions import Question

# A filter chooses what is shown, not what is done to a group.
_WHATEVER = ", filtered or not"
_CANCELLING = "A run saves a checkpoint first. Its evaluations end, too. It can be resumed."
NO_RUNS = "There are no runs yet."
# Why nothing can be done to a run; None if it can be.
Refusal = Callable[[RunStatus], str | None]


class Acting(Screen[None]):
    """A screen on which a run or a group is selected. What takes a moment happens in threads, which send messages.

    Args:
        root: the folder of the runs.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,l", "logs", show=False),
        Binding("r", "resume", show=False),
        Binding("c", "cancel", show=False),
        Binding("s", "sample", show=False),
        Binding("o", "report", show=False),
        Binding("q", "quit", show=False),
    ]

    class Said(Message):
        """An action has something to say."""

        def __init__(self, text: str, is_error: bool) -> None:
            super().__init__()
            self.text, self.is_error = text, is_error

    class Printed(Message):
        """A command that runs beside this screen has printed a line; None once it has ended."""

        def __init__(self, what: str, line: str | None) -> None:
            super().__init__()
            self.what, self.line = what, line

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root
        self.ended = threading.Event()
        # What each command has printed, by what it does.
        self._output: dict[str, Output] = {}
        self.doing = Doing(lambda text, is_error: self.send(self.Said(text, is_error)))

    @property
    def selected(self) -> Line | None:
        """The line that is selected."""
        raise NotImplementedError

    def members(self, group: str) -> Sequence[RunStatus]:
        """All runs of a group, those that filters hide, too."""
        raise NotImplementedError

    def say(self, text: str, *, is_error: bool) -> None:
        """Show a message."""
        raise NotImplementedError

    def send(self, message: Message) -> None:
        """Send a message to this screen, from any thread."""
        if not self.ended.is_set():
            self.post_message(message)

    def on_acting_said(self, message: Said) -> None:
        self.say(message.text, is_error=message.is_error)

    def on_acting_printed(self, message: Printed) -> None:
        output = self._output.setdefault(message.what, Output())
        if message.line is None:
            output.is_over = True
        else:
            output.lines.append(message.line)
        screen = self.app.screen
        if isinstance(screen, OutputScreen) and screen.what == message.what:
            screen.go_on()
        elif message.line is not None:
            self.say(f"{message.what}: {message.line}", is_error=False)

    def action_logs(self) -> None:
        if (run := self._run("look at its log")) is not None:
            self.app.push_screen(LogScreen(run))

    def action_resume(self) -> None:
        line = self.selected
        if isinstance(line, GroupLine):
            self._resume_group(line.name)
        elif (row := self._row("resume it", refusals.of_resume)) is not None:
            step = row.checkpoint_step
            place = "the beginning" if step is None else f"its checkpoint at step {step:,}"
            act = partial(actions.resume, RunFolder(row.path))
            self._ask(f"Resume {row.name}?", f"A new job continues it from {place}.", act)

    def _resume_group(self, name: str) -> None:
        number = len(refusals.resumable(self.members(name)))
        if not number:
            self.say(f"{name}: all of its runs are alive or finished", is_error=True)
            return
        act = partial(actions.resume_group, Group(self._root, name))
        about = f"All of its runs that are neither alive nor finished continue, in one job{_WHATEVER}."
        self._ask(f"Resume {_runs(number)} of {name}?", about, act)

    def action_cancel(self) -> None:
        line = self.selected
        if isinstance(line, GroupLine):
            self._cancel_group(line.name)
        elif (row := self._row("cancel it", refusals.of_cancel)) is None:
            return
        elif row.state in OVER:
            about = f"Its training is {row.state}; only its evaluations end."
            self._ask(f"Cancel the evaluations of {row.name}?", about, partial(_cancel, [row]))
        else:
            self._ask(f"Cancel {row.name}?", _CANCELLING, partial(_cancel, [row]))

    def _cancel_group(self, name: str) -> None:
        rows = [row for row in self.members(name) if refusals.is_alive(row)]
        if not rows:
            self.say(f"{name}: none of its runs is alive", is_error=True)
            return
        about = f"{_CANCELLING} All runs of the group that are alive end{_WHATEVER}."
        self._ask(f"Cancel {_runs(len(rows))} of {name}?", about, partial(_cancel, rows))

    def action_sample(self) -> None:
        run = self._run("draw samples of it", refusals.of_sample)
        if run is None:
            return
        what = f"sample {run.name}"
        if what not in self.doing.going_on:
            self._output[what] = Output([f"$ cldctl sample {run.name}"])
            self.doing.start(what, partial(self._sample, run, what))
        self.app.push_screen(OutputScreen(what, self._output[what]))

    def action_report(self) -> None:
        if (run := self._run("write its report")) is not None:
            self.doing.start(f"report {run.name}", partial(actions.report, run))

    def action_quit(self) -> None:
        self.app.exit()

    def _row(self, purpose: str, refusal: Refusal = lambda row: None) -> RunStatus | None:
        """The run that is selected; says so if none is, or why nothing can be done to it."""
        line = self.selected
        if not isinstance(line, RunLine):
            self.say(f"Select a run to {purpose}." if line is not None else NO_RUNS, is_error=True)
            return None
        if (problem := refusal(line.row)) is not None:
            self.say(problem, is_error=True)
            return None
        return line.row

    def _run(self, purpose: str, refusal: Refusal = lambda row: None) -> RunFolder | None:
        row = self._row(purpose, refusal)
        if row is not None and not RunFolder(row.path).exists:
            self.say(f"{row.name}: the run is gone", is_error=True)
            return None
        return None if row is None else RunFolder(row.path)

    def _ask(self, question: str, about: str, act: Callable[[Say], list[str]]) -> None:
        def answered(answer: bool | None) -> None:
            if answer:
                self.doing.start(question.rstrip("?"), act)

        self.app.push_screen(Question(question, about), answered)

    def _sample(self, run: RunFolder, what: str, say: Say) -> list[str]:
        try:
            process = actions.sampling(run)
            self.doing.hold(what, process)
            for line in actions.output_of(process):
                self.send(self.Printed(what, line))
        except OSError as error:
            self.send(self.Printed(what, f"error: {one_line(error) or type(error).__name__}"))
        finally:
            self.send(self.Printed(what, None))
        return []


def _runs(number: int) -> str:
    return "1 run" if number == 1 else f"{number} runs"


def _cancel(rows: Sequence[RunStatus], say: Say) -> list[str]:
    return actions.cancel([RunFolder(row.path) for row in rows], say)
