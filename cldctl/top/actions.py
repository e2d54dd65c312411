"""What keys do to runs: commands of cldctl, each a process of its own beside the screen, or why they do nothing."""

import contextlib
import os
import subprocess
import sys
import tempfile
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cld_core.errors import UsageError
from cld_core.run import RunFolder
from cldctl.runs import cluster_choice
from cldctl.runs.selection import command
from cldctl.runs.state import OVER
from cldctl.runs.status import RunStatus, said

# Seconds between two looks at what a command has printed.
_EVERY_S = 0.2
# Lines of it in a message.
_LINES = 3
# A filter chooses what is shown, not what is done to a group.
_WHATEVER = ", filtered or not"
_NONE = {"resume": "all of its runs are alive or finished", "cancel": "none of its runs is alive"}
_CANCELLING = "A run saves a checkpoint first. Its evaluations end, too. It can be resumed."


@dataclass
class Command:
    """A command of cldctl.

    Attributes:
        title: what it does to which run, as people read it.
        words: the command, without "cldctl".
        about: what happens if the question, whether to do it, is answered by yes; None if nobody is asked.
        run: that is to be continued, if its cluster has a queue.
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
        """Whether somebody looks at its output, and it ends with the screen."""
        return self.words[0] == "sample"

    @property
    def message(self) -> str:
        """The last it has said, without hints."""
        lines = self.output.partition("\nnext:")[0].strip().splitlines()
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return "\n".join(errors or lines[-_LINES:]) or self.title

    def start(self, printed: Callable[[], object]) -> None:
        """Run to the end, and call ``printed`` whenever there is more output. It never raises."""
        try:
            if self.run is not None and cluster_choice.chosen(None, self.run).blocks:
                typed = command(f"resume {Path(self.words[1]).name}", self.run)
                raise UsageError(f"{self.run.name} trains inside the command that starts it. Type `{typed}`.")
            self._run(printed)
            if self.code == 0 and self.words[0] == "report":
                self.output += _open(Path(self.words[1]) / "report.html")
        except Exception as error:
            self.output, self.code = f"{self.output}error: {said(error)}\n", 1
        printed()

    def _run(self, printed: Callable[[], object]) -> None:
        # To a file, so that it can go on when nobody reads; in a session of its own, so that no ctrl+c reaches it.
        with tempfile.TemporaryFile() as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cldctl", *self.words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={name: value for name, value in os.environ.items() if name != "FORCE_COLOR"} | {"NO_COLOR": "1"},
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
        """End it if it ends with the screen; a line about it if it has not ended."""
        if self.code is not None:
            return None
        if not self.is_watched:
            return f"no longer waiting for: {self.title}. `cldctl status` shows how it ends"
        if self.process is not None:
            self.process.terminate()
        return f"ended: {self.title}"


def command_for(what: str, rows: Sequence[RunStatus], group: str | None = None) -> Command:
    """What a key does: resume or cancel a run, or what can be of a group; sample or report a run.

    Raises:
        UsageError: it can do nothing.
    """
    refusals = [_refusal(what, row, group is not None) for row in rows]
    able = [row for row, refusal in zip(rows, refusals, strict=True) if not refusal]
    if not able:
        raise UsageError(refusals[0] if group is None else f"{group}: {_NONE[what]}")
    row = able[-1]
    run = RunFolder(row.path)
    number = f"{len(able)} run{'' if len(able) == 1 else 's'}"
    name = row.name if group is None else f"{number} of {group}"
    if what == "resume":
        place = "the beginning" if row.checkpoint_step is None else f"its checkpoint at step {row.checkpoint_step:,}"
        about = f"A new job continues it from {place}."
        words = ["resume", row.path]
        if group is not None:
            about = f"All of its runs that are neither alive nor finished continue, in one job{_WHATEVER}."
            words = ["resume", group, "--runs-dir", str(run.path.parent)]
        return Command(f"Resume {name}", words, about, run)
    if what == "cancel":
        about = _CANCELLING if group is None else f"{_CANCELLING} All runs of the group that are alive end{_WHATEVER}."
        if group is None and row.state in OVER:
            name = f"the evaluations of {name}"
            about = f"Its training is {row.state}; only its evaluations end."
        return Command(f"Cancel {name}", ["cancel", *(row.path for row in able)], about)
    return Command(f"{what} {name}", [what, row.path])


def _refusal(what: str, row: RunStatus, in_group: bool) -> str:
    """Why nothing can be done to a run, as one of a group or alone; empty if it can."""
    if what in ("resume", "sample") and not row.is_readable:
        return f"{row.name} cannot be read: {row.reason}"
    is_over = row.state in OVER
    if (what == "resume" and not is_over) or (what == "cancel" and is_over and not row.is_evaluating):
        return f"{row.name} is {row.state}: there is nothing to {what}."
    if what == "resume" and row.state == "FINISHED" and (in_group or row.step >= (row.steps or 0)):
        more = command(f"resume {row.name} train.steps=...", RunFolder(row.path))
        return f"{row.name} is FINISHED at step {row.step:,}. To train it for longer: {more}"
    if what == "sample" and row.checkpoint_step is None:
        return f"{row.name} has no checkpoint yet: there is nothing to draw samples with."
    return ""


def _open(page: Path) -> str:
    """Show a page to whoever looks at this terminal, if a browser can; else a line that says that none can."""
    has_display = sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if has_display and webbrowser.open(page.as_uri()):
        return ""
    return "no display here: copy it, or open it from elsewhere\n"
