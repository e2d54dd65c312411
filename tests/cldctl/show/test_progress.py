"""What commands say while they work: a bar on a terminal that leaves nothing, a line for each phase in a file."""

import io

import pytest

from cld_core.run.events import JobRef
from cldctl.runs import sample
from cldctl.runs.cancel import Ending, waits_for
from cldctl.show import console, progress
from cldctl.show.console import PlainConsole
from cldctl.show.progress import Working
from tests.support.made_up import run_with


@pytest.fixture(params=[True, False], ids=["terminal", "file"])
def stream(monkeypatch, request):
    stream = io.StringIO()
    err = PlainConsole(file=stream, width=80, force_terminal=request.param, no_color=True)
    monkeypatch.setattr(console, "err", err)
    monkeypatch.setattr(progress, "err", err)
    return stream


def work(announced=True):
    with Working("loading mine", announced=announced) as working:
        working.phase("drawing 9 samples")
        working.phase("drawing 9 samples")
        for done in range(10):
            working.at(done, 9, "samples")
        working.phase("writing x.png")


def test_a_phase_is_a_line_in_a_file_and_a_bar_on_a_terminal(stream):
    work()
    text = stream.getvalue()
    if console.err.is_terminal:
        assert "writing x.png" in text
        assert text.endswith("\x1b[1A\x1b[2K"), "the line of the bar is cleared"
        assert "\x1b[?25h" in text, "the cursor is back"
    else:
        assert text.splitlines() == ["loading mine", "drawing 9 samples", "writing x.png"]
        work(announced=False)
        assert stream.getvalue().removeprefix(text).splitlines() == ["drawing 9 samples", "writing x.png"]


def test_nothing_is_said_where_progress_is_hidden(stream, monkeypatch):
    monkeypatch.setattr(console.err, "quiet", True)
    work()
    assert stream.getvalue() == ""


def test_a_phase_of_somebody_else_does_not_steer_the_terminal(stream):
    with Working("reading \x1b]0;title\x07[red]x.pth", announced=True) as working:
        working.at(1, None, "\x1b[2Jimages")
    assert "\x1b]0" not in stream.getvalue()
    assert "\x1b[2J" not in stream.getvalue()
    assert "[red]x.pth" in stream.getvalue()


class Noted:
    """In place of `Working`: what it is told."""

    def __init__(self):
        self.counts, self.phases = [], []

    def phase(self, what):
        self.phases.append(what)

    def at(self, done, total, unit=""):
        self.counts.append((done, total, unit))


class Drawing:
    """In place of a model: it draws in batches, with so many network evaluations for each."""

    def __init__(self, recipe, evaluations):
        self.recipe, self.evaluations = recipe, evaluations

    def draw(self, n, *, seed, batch_size, progress):
        for first in range(0, n, batch_size):
            for evaluation in range(1, self.evaluations + 1):
                progress(first, evaluation)
        return "drawn"


@pytest.mark.parametrize(("method", "is_fixed"), [("em", True), ("ode", False)])
def test_samples_are_counted(tmp_path, method, is_fixed):
    settings = (f"sampling.method={method}", *(("sampling.nfe=4",) if is_fixed else ()), "eval.batch_size=8")
    recipe, noted = run_with(tmp_path / "a", overrides=settings).recipe(), Noted()
    assert sample._drawn(Drawing(recipe, 4), 20, 0, noted) == "drawn"
    assert noted.phases == [f"drawing 20 samples ({method})"]
    done = [count for count, _, _ in noted.counts]
    assert done == sorted(done)
    if is_fixed:
        assert noted.counts[0] == (2, 20, "")
        assert noted.counts[-1] == (20, 20, "")
    else:
        assert noted.counts[-1] == (16, 20, "done, 4 NFE")


@pytest.mark.parametrize(("method", "evaluations"), [("exponential", 20), ("ode", 131)])
def test_a_bar_about_many_samples_fits_a_terminal(tmp_path, monkeypatch, method, evaluations):
    stream = io.StringIO()
    monkeypatch.setattr(progress, "err", PlainConsole(file=stream, width=80, force_terminal=True, color_system=None))
    monkeypatch.setattr(console, "err", progress.err)
    recipe = run_with(tmp_path / "a", overrides=(f"sampling.method={method}", "eval.batch_size=2000")).recipe()
    with Working("loading a") as working:
        sample._drawn(Drawing(recipe, evaluations), 4_000, 0, working)
        working._progress.refresh()
    (line,) = {line.strip() for line in stream.getvalue().splitlines() if "/4,000" in line}
    assert f"drawing 4,000 samples ({method})" in line
    assert "━" in line
    assert "…" not in line


def test_cancel_says_what_it_waits_for(tmp_path):
    job = JobRef(cluster="scripted", job_id="7")
    endings = [Ending(run_with(tmp_path / name, 10), (job,), trains=True) for name in "ab"]
    assert waits_for(endings[:1]) == "waiting for a to save and end (job 7), at most 60 s"
    assert waits_for(endings) == "waiting for 2 runs to save and end (job 7), at most 60 s"
    endings[0].trains = False
    assert waits_for(endings[:1]) == "waiting for a to end (job 7), at most 60 s"
