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
from cldctl.hints import command
from cldctl.runs import cluster_choice
from cldctl.runs.state import OVER, RESUMABLE
from cldctl.runs.status import RunStatus, said

# Seconds between two looks at what a command has printed.
_EVERY_S = 0.2
# Lines of it in a message.
_LINES = 3
# A filter chooses what is shown, not what is done to a group.
_WHATEVER = ", filtered or not"
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


def resume(row: RunStatus) -> Command:
    """Continue a run from its newest good checkpoint.

    Raises:
        UsageError: there is nothing to resume.
    """
    _require_readable(row)
    if row.state not in OVER:
        raise UsageError(f"{row.name} is {row.state}: there is nothing to resume.")
    run = RunFolder(row.path)
    if row.state == "FINISHED" and row.step >= (row.steps or 0):
        more = command(f"resume {row.name} train.steps=...", run)
        raise UsageError(f"{row.name} is FINISHED at step {row.step:,}. To train it for longer: {more}")
    place = "the beginning" if row.checkpoint_step is None else f"its checkpoint at step {row.checkpoint_step:,}"
    return Command(f"Resume {row.name}", ["resume", row.path], f"A new job continues it from {place}.", run)


def resume_group(name: str, rows: Sequence[RunStatus]) -> Command:
    """Continue what can be continued of a group by one job.

    Raises:
        UsageError: nothing can be.
    """
    able = [row for row in rows if row.state in RESUMABLE and row.is_readable]
    if not able:
        raise UsageError(f"{name}: all of its runs are alive or finished")
    about = f"All of its runs that are neither alive nor finished continue, in one job{_WHATEVER}."
    run = RunFolder(able[-1].path)
    words = ["resume", name, "--runs-dir", str(run.path.parent)]
    return Command(f"Resume {_runs(len(able))} of {name}", words, about, run)


def cancel(row: RunStatus) -> Command:
    """End a run and its evaluations.

    Raises:
        UsageError: there is nothing to end.
    """
    if not _is_alive(row):
        raise UsageError(f"{row.name} is {row.state}: there is nothing to cancel.")
    if row.state in OVER:
        about = f"Its training is {row.state}; only its evaluations end."
        return Command(f"Cancel the evaluations of {row.name}", ["cancel", row.path], about)
    return Command(f"Cancel {row.name}", ["cancel", row.path], _CANCELLING)


def cancel_group(name: str, rows: Sequence[RunStatus]) -> Command:
    """End all runs of a group that are alive.

    Raises:
        UsageError: none is.
    """
    alive = [row.path for row in rows if _is_alive(row)]
    if not alive:
        raise UsageError(f"{name}: none of its runs is alive")
    about = f"{_CANCELLING} All runs of the group that are alive end{_WHATEVER}."
    return Command(f"Cancel {_runs(len(alive))} of {name}", ["cancel", *alive], about)


def sample(row: RunStatus) -> Command:
    """Draw samples of a run.

    Raises:
        UsageError: there is nothing to draw them with.
    """
    _require_readable(row)
    if row.checkpoint_step is None:
        raise UsageError(f"{row.name} has no checkpoint yet: there is nothing to draw samples with.")
    return Command(f"sample {row.name}", ["sample", row.path])


def report(row: RunStatus) -> Command:
    """Write the page of a run into its folder, and open it where there is a display."""
    return Command(f"report {row.name}", ["report", row.path])


# By the name of a command: what it does to a run, and to a group of runs.
ACTIONS: dict[str, tuple[Callable[[RunStatus], Command], Callable[[str, Sequence[RunStatus]], Command] | None]] = {
    "resume": (resume, resume_group),
    "cancel": (cancel, cancel_group),
    "sample": (sample, None),
    "report": (report, None),
}


def _require_readable(row: RunStatus) -> None:
    if not row.is_readable:
        raise UsageError(f"{row.name} cannot be read: {row.reason}")


def _open(page: Path) -> str:
    """Show a page to whoever looks at this terminal, if a browser can; else a line that says that none can."""
    has_display = sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if has_display and webbrowser.open(page.as_uri()):
        return ""
    return "no display here: copy it, or open it from elsewhere\n"


def _is_alive(row: RunStatus) -> bool:
    """Whether anything of a run is, be it an evaluation only."""
    return row.state not in OVER or row.is_evaluating


def _runs(number: int) -> str:
    return "1 run" if number == 1 else f"{number} runs"
