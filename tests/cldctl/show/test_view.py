"""Progress on stderr: bars of fixed width on a terminal, a line for each phase in a file."""

import io

import pytest

from cldctl.show import view
from cldctl.show.console import PlainConsole
from cldctl.show.pace import Pace
from cldctl.show.view import Shown, View, drawn
from tests.support.screen import screen


def run(**known) -> Shown:
    usual = {"name": "mine", "done": 5_400, "total": 12_000, "state": "RUNNING", "phase": "training"}
    facts = ("loss 0.1234", "221 steps/s")
    return Shown(**{**usual, "facts": facts, "elapsed_s": 80.0, "left_s": 190.0, **known})


@pytest.fixture
def stream(monkeypatch):
    """What a file gets that stderr goes to."""
    stream = io.StringIO()
    console = PlainConsole(file=stream, width=80)
    monkeypatch.setattr(view, "err", console)
    monkeypatch.setattr(view.console, "err", console)
    return stream


@pytest.fixture
def now(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(view.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_a_bar_has_a_fixed_width_and_what_is_left_goes_last(monkeypatch, width):
    head, line = screen(monkeypatch, width)(drawn([run()]))
    assert head.split() == ["mine", "RUNNING", "training"]
    assert len(line) <= width
    assert line[:22].strip("━╸ ") == "", "20 cells, and blanks"
    assert line[22:].lstrip()[0].isdigit()
    assert "3m10s left" in line
    assert "5,400/12,000 steps" in line
    assert ("loss 0.1234" in line) == (width >= 80)
    assert ("1m20s elapsed" in line) == (width >= 100)
    assert ("221 steps/s" in line) == (width >= 100)


def test_several_have_a_line_each(monkeypatch):
    both = [run(), run(name="n" * 40, phase="drawing samples")]
    lines = screen(monkeypatch, 80)(drawn(both))
    assert len(lines) == 2
    assert max(map(len, lines)) <= 80
    assert lines[0].index("━") == lines[1].index("━")
    assert "…" in lines[1]
    assert all("left" in line for line in lines)


def test_bars_are_clean(monkeypatch):
    stream = io.StringIO()
    console = PlainConsole(file=stream, width=200, force_terminal=True, no_color=True)
    monkeypatch.setattr(view, "err", console)
    monkeypatch.setattr(view.console, "err", console)
    with View() as bars:
        bars.show(run(name="name\x1b]0;t\x07", phase="\x1b[2Jwhy"))
    assert "name" in stream.getvalue()
    assert "\x1b]0" not in stream.getvalue()
    assert "\x1b[2Jwhy" not in stream.getvalue()


def test_a_file_gets_a_line_for_each_phase(stream, now):
    with View() as lines:
        lines.show(run(state="PENDING", phase="waiting for the queue", facts=()))
        for step in range(100):
            now[0] += 0.4
            lines.show(run(done=step))
        lines.show(run(phase="drawing samples"))
        lines.show(run())
        lines.show(run(phase="saving"))
    said = stream.getvalue()
    assert said.splitlines() == [
        "mine PENDING waiting for the queue: 5,400/12,000 steps",
        "mine RUNNING training: 0/12,000 steps; loss 0.1234; 221 steps/s",
        "mine RUNNING drawing samples: 5,400/12,000 steps; loss 0.1234; 221 steps/s",
        "mine RUNNING saving: 5,400/12,000 steps; loss 0.1234; 221 steps/s",
    ]
    assert said.replace("\n", "").isprintable(), "no bars that are redrawn, no control characters"


def test_phases_that_come_again_are_told_again_once_a_minute(stream, now):
    with View() as lines:
        for _ in range(300):
            now[0] += 1.0
            for phase in ("training", "drawing samples"):
                lines.show(run(phase=phase))
    assert 8 <= len(stream.getvalue().splitlines()) <= 10


def test_a_remark_is_told(stream, now):
    with View() as lines:
        lines.show(run())
        lines.show(run(remark="slurmctld does not answer"))
    assert stream.getvalue().splitlines()[-1].endswith("; slurmctld does not answer")


def test_hidden_progress_is_hidden(stream, now, monkeypatch):
    monkeypatch.setattr(view.err, "quiet", True)
    with View() as lines:
        lines.show(run())
    assert stream.getvalue() == ""


def test_what_is_left_goes_by_what_was_seen(now):
    pace = Pace()
    assert pace.of(run(done=100, total=500)).left_s is None
    now[0] = 10.0
    shown = pace.of(run(done=200, total=500))
    assert (shown.elapsed_s, shown.left_s) == (10.0, 30.0)
