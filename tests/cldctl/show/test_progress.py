"""What commands say while they work: a bar on a terminal, lines in a file; and what `--follow` says of a training."""

import io

import pytest

from cldctl.show import console, progress
from cldctl.show.console import PlainConsole
from cldctl.show.progress import Shown, View, Working


@pytest.fixture
def stream(monkeypatch, request):
    """What stderr gets: a file, or a terminal of so many columns (`indirect`)."""
    stream, width = io.StringIO(), getattr(request, "param", None)
    err = PlainConsole(file=stream, width=width or 80, force_terminal=width is not None, color_system=None)
    for module in (console, progress):
        monkeypatch.setattr(module, "err", err)
    return stream


@pytest.fixture
def now(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def work(announced=True):
    with Working("loading mine", announced=announced) as working:
        working.phase("drawing 9 samples")
        working.phase("drawing 9 samples")
        for done in range(10):
            working.at(done, 9, "samples")
        working.phase("writing \x1b]0;title\x07[red]x.png")


@pytest.mark.parametrize("stream", [80], indirect=True)
def test_a_terminal_gets_a_bar_that_disappears(stream):
    work()
    text = stream.getvalue()
    assert "[red]x.png" in text
    assert "\x1b]0" not in text
    assert text.endswith("\x1b[1A\x1b[2K"), "the line of the bar is cleared"
    assert "\x1b[?25h" in text, "the cursor is back"


def test_a_file_gets_a_line_for_each_phase(stream, monkeypatch):
    work()
    assert stream.getvalue().splitlines()[:2] == ["loading mine", "drawing 9 samples"]
    assert len(stream.getvalue().splitlines()) == 3
    monkeypatch.setattr(console.err, "quiet", True)
    work()
    with View() as view:
        view.show(run())
    assert len(stream.getvalue().splitlines()) == 3, "nothing is said where progress is hidden"


def run(**known) -> Shown:
    usual = {"name": "mine", "done": 5_400, "total": 12_000, "state": "RUNNING", "phase": "training"}
    return Shown(**{**usual, "facts": ("loss 0.12", "221 steps/s"), "elapsed_s": 80.0, "left_s": 190.0, **known})


@pytest.mark.parametrize(("steps", "rate"), [(1_000_000, 10), (1_000, 100)])
def test_a_file_gets_a_line_every_ten_seconds_or_every_twentieth(stream, now, steps, rate):
    seconds = min(480, steps // rate)
    with View() as view:
        view.show(run(state="PENDING", phase="waiting for the queue", facts=(), done=0, total=steps, left_s=None))
        for _ in range(8 * seconds):
            now[0] += 0.125
            view.show(run(done=int(now[0] * rate), total=steps, left_s=(steps / rate) - now[0]))
    first, *lines = stream.getvalue().splitlines()
    assert first == f"mine PENDING waiting for the queue: 0/{steps:,} steps"
    assert f"mine RUNNING training: {rate // 8}/{steps:,} steps; loss 0.12; 221 steps/s; ETA " in lines[0]
    assert len(lines) == pytest.approx(max(seconds / progress.EVERY_S, 1 / progress.EVERY_PART), abs=2)
    assert stream.getvalue().replace("\n", "").isprintable(), "no bars that are redrawn, no control characters"
