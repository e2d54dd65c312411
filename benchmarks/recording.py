"""A recording of the daily commands in a terminal, as an animated SVG: docs/images/terminal.svg.

    python -m benchmarks.recording
    python -m benchmarks.recording --steps 2000 -o docs/images/terminal.svg

The commands run for real, in a pseudoterminal and in a temporary folder. In the film, waiting is
shortened and paths begin in that folder; nothing else is changed. `film` draws what was recorded.
"""

import argparse
import codecs
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyte

from benchmarks.film import Film, Row

COLUMNS, LINES = 90, 26
PROMPT = "$ "
# Seconds of the film: a typed letter, what a command may take, and the time to read what it said.
LETTER_S, COMMAND_S, READ_S = 0.05, 8.0, 2.5
# Seconds for which the first command stands there before it runs.
FIRST_S = 0.5
# Letters typed between two frames, and the shortest time between two frames of a command.
LETTERS, FRAME_S = 3, 0.2


@dataclass(frozen=True)
class Scene:
    """A command as it is typed, and how long it may take in the film."""

    typed: str
    seconds: float = COMMAND_S


def scenes(steps: int) -> list[Scene]:
    """The daily commands, with a training of so many steps."""
    return [
        Scene(
            f"cldctl submit toy_demo --name spirals --cluster local train.steps={steps} --follow",
            12.0,
        ),
        Scene("cldctl status", 1.0),
        Scene("cldctl why", 1.0),
        Scene("cldctl sample spirals -n 4000 --method exponential --nfe 50", 1.5),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recording", description=__doc__)
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("docs/images/terminal.svg"), metavar="FILE.svg"
    )
    parser.add_argument(
        "--steps", type=int, default=1500, help="length of the training (default: 1500)"
    )
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="recording-") as folder:
        film = record(scenes(parsed.steps), Path(folder))
    parsed.output.write_text(film.svg(), encoding="utf-8")
    print(f"{parsed.output}: {film.seconds:.0f} s, {parsed.output.stat().st_size / 1000:.0f} kB")


def record(played: Sequence[Scene], folder: Path) -> Film:
    """Run the commands one after the other in ``folder``; raises `CalledProcessError` if one
    fails."""
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.Stream(screen)
    film = Film(COLUMNS, LINES)
    for number, scene in enumerate(played):
        # The film begins with a command: its first frame is what those see who look at it for a
        # moment.
        begin = 0 if number else len(scene.typed)
        for shown in range(begin, len(scene.typed) + LETTERS, LETTERS):
            screen.reset_mode(pyte.modes.DECTCEM)
            line = PROMPT + scene.typed[:shown]
            stream.feed(f"\r\x1b[K\x1b[1;32m{line[: len(PROMPT)]}\x1b[0m{line[len(PROMPT) :]}")
            film.add(_rows(screen), LETTERS * LETTER_S if number else FIRST_S)
        stream.feed("\r\n")
        _play(list(_output(scene.typed.split(), folder)), scene.seconds, stream, film)
        film.add(_rows(screen), READ_S)
        stream.feed("\r\n")
    return film


def _play(output: list[tuple[float, str]], most: float, stream: pyte.Stream, film: Film) -> None:
    """Film what a command wrote, as (seconds since its start, text), in at most ``most``
    seconds."""
    speed = max(1.0, output[-1][0] / most)
    since = 0.0
    later = [at for at, _ in output[1:]] + [output[-1][0]]
    for (_, text), after in zip(output, later, strict=True):
        stream.feed(text)
        if (after - since) / speed >= FRAME_S:
            film.add(_rows(stream.listener), (after - since) / speed)
            since = after


def _output(command: Sequence[str], folder: Path) -> Iterator[tuple[float, str]]:
    """What a command writes to its terminal, with the seconds since its start; the last text is
    empty.

    Raises:
        subprocess.CalledProcessError: it fails.
    """
    primary, secondary = pty.openpty()
    fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {
        **os.environ,
        "CLDCTL_RUNS": "runs",
        "TERM": "xterm-256color",
        "COLORTERM": "truecolor",
    }
    # Rich believes these more than it believes the terminal.
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
        environment.pop(name, None)
    environment["PYTHONPATH"] = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        stdin=secondary,
        stdout=secondary,
        stderr=secondary,
        cwd=folder,
        env=environment,
        start_new_session=True,
    )
    os.close(secondary)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    with open(primary, "rb", buffering=0) as terminal:
        while True:
            select.select([terminal], [], [])
            try:
                content = terminal.read(65_536)
            except OSError:  # Linux says so when nobody has the other end open any more.
                break
            if not content:
                break
            yield time.monotonic() - begun, decoder.decode(content).replace(f"{folder}/", "")
    if process.wait() != 0:
        raise subprocess.CalledProcessError(process.returncode, list(command))
    yield time.monotonic() - begun, ""


def _rows(screen: pyte.Screen) -> tuple[Row, ...]:
    """The screen as rows of (text, colour, background, bold) with equal looks."""
    rows = []
    for line in range(screen.lines):
        runs: list[tuple[str, str, str, bool]] = []
        for column in range(screen.columns):
            cell = screen.buffer[line][column]
            colour, ground = (cell.bg, cell.fg) if cell.reverse else (cell.fg, cell.bg)
            if runs and runs[-1][1:] == (colour, ground, cell.bold):
                runs[-1] = (runs[-1][0] + cell.data, *runs[-1][1:])
            else:
                runs.append((cell.data, colour, ground, cell.bold))
        rows.append(tuple(runs))
    return tuple(rows)


if __name__ == "__main__":
    main()
