"""What keys do to runs, as the commands of the same names do. Each returns lines to show."""

import os
import subprocess
import sys
import tempfile
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cld_core.errors import CldError, UsageError
from cld_core.ownership import require_may_change
from cld_core.run import RunFolder
from cld_core.run.groups import Group
from cldctl.hints import command
from cldctl.jobs import hooks
from cldctl.page import freshness
from cldctl.runs import cancel as cancelling
from cldctl.runs import home
from cldctl.runs.cancel import Ending

# Shows one line while an action goes on.
Say = Callable[[str], None]


def resume(run: RunFolder, say: Say) -> list[str]:
    """Continue a run from its newest good checkpoint.

    Raises:
        CldError: nothing was started.
    """
    _require_queue(run, f"resume {run.name}")
    return _started(run.name, ["resume", str(run.path)], say)


def resume_group(group: Group, say: Say) -> list[str]:
    """Continue what can be continued of a group by one job.

    Raises:
        CldError: nothing was started.
    """
    runs = group.runs()
    if not runs:
        raise UsageError(f"{group.name}: its runs are gone. Wait for the next look.")
    _require_queue(runs[-1], f"resume {group.name}")
    return _started(group.name, ["resume", group.name, "--runs-dir", str(group.root)], say)


def _started(name: str, words: Sequence[str], say: Say) -> list[str]:
    """What a command says that starts jobs, without its last lines, which are hints.

    Raises:
        CldError: it failed.
    """
    say(f"{name}: submitting")
    code, lines = command_of(words)
    if code:
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        raise CldError((errors or lines or [f"ended with exit code {code}"])[-1])
    said = lines[: lines.index("next:")] if "next:" in lines else lines
    return ["; ".join(line for line in said if line != name)]


def command_of(words: Sequence[str]) -> tuple[int, list[str]]:
    """Run a command of cldctl to its end; its exit code and what it said.

    Starting a job takes over signals and the standard streams of its process, and has to outlive this one: it is a
    process in a session of its own, which writes to a file, so that it can go on when nobody reads.

    Raises:
        OSError: it cannot be started.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "cldctl", *words],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=_plain_environment(),
            start_new_session=True,
        )
        code = process.wait()
        said.seek(0)
        return code, said.read().splitlines()


def _plain_environment() -> dict[str, str]:
    """The environment of a process whose output is shown here: whoever wants colours wants them on a terminal."""
    return {**{name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}, "NO_COLOR": "1"}


def cancel(runs: Sequence[RunFolder], say: Say) -> list[str]:
    """End runs and their evaluations, and wait until they have ended, as `cldctl cancel` does.

    Raises:
        CldError: nothing was cancelled.
    """
    endings = cancelling.cancel(runs)
    waiting = [ending for ending in endings if ending.jobs]
    said = [cancelling.outcome(ending) for ending in endings if not ending.jobs]
    if waiting:
        say(f"{_names(waiting)}: asked to end; a run saves a checkpoint first")

    def over(ending: Ending) -> None:
        said.append(cancelling.outcome(ending))
        say(said[-1])
        if ending.is_over and ending.trains:
            hooks.fire(ending.run, is_over=True)

    cancelling.wait(waiting, over)
    return said


def report(run: RunFolder, say: Say) -> list[str]:
    """Write the page of a run into its folder, and open it where there is a display.

    Raises:
        CldError: the folder is somebody else's.
        OSError: it cannot be written.
    """
    require_may_change(run.path, "Its report was not written")
    say(f"{run.name}: writing its report")
    target = freshness.write(run, lambda: _page(run))
    opened = has_display() and webbrowser.open(target.as_uri())
    return [f"{_from_here(target)}{'' if opened else ' (no display here: copy it, or open it from elsewhere)'}"]


def _page(run: RunFolder) -> str:
    # It reads TensorBoard's files with packages that take a moment to load.
    from cldctl.page.one_run import page

    return page(run)


def has_display() -> bool:
    """Whether a browser could show anything to whoever looks at this terminal."""
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def sampling(run: RunFolder) -> "subprocess.Popen[str]":
    """A process that draws samples of a run, with what it says as one stream: it loads torch, so not in this one.

    Raises:
        OSError: it cannot be started.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "cldctl", "sample", str(run.path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_plain_environment(),
        text=True,
        errors="replace",
    )


def output_of(process: "subprocess.Popen[str]") -> Iterator[str]:
    """The lines that a process says, and in the end how it went."""
    assert process.stdout is not None, "a pipe"
    with process.stdout as stream:
        yield from (line.rstrip("\n") for line in stream)
    code = process.wait()
    yield "done" if code == 0 else f"ended with exit code {code}"


def _require_queue(run: RunFolder, words: str) -> None:
    """Refuse what would train inside the command that starts it, for as long as it takes.

    Raises:
        UsageError
    """
    if home.chosen(None, run).blocks:
        raise UsageError(f"{run.name} trains inside the command that starts it. Type `{command(words, run)}`.")


def _names(endings: Sequence[Ending]) -> str:
    first = endings[0].run.name
    return first if len(endings) == 1 else f"{first} and {len(endings) - 1} more"


def _from_here(file: Path) -> str:
    """A path as it can be opened from here, the shorter one."""
    return min(os.path.relpath(file), str(file), key=len)
