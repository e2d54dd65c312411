"""Keys that act on runs: they ask first, and do what the commands do."""

import subprocess
import sys
import threading

import pytest

from cld_core.run import RunFolder
from cld_core.run.events import Ended, Tagged
from cldctl.runs import cancel as cancelling
from cldctl.top import actions
from tests.support.made_up import run_with, seeds
from tests.support.piloted import Screen, on_screen
from tests.support.scripted import trained

STEPS = ("train.steps=50",)


def stopped(path, job_id):
    run = trained(run_with(path, 10, 20, overrides=STEPS), job_id, "gone")
    run.ledger.append(Ended(attempt=0, cause="preempted", step=20))
    return run


pytestmark = pytest.mark.usefixtures("clock")


def test_resume_asks_first_and_then_submits(tmp_path, scripted, asked):
    run = stopped(tmp_path / "mine", "1")

    async def look(screen: Screen) -> None:
        await screen.select("mine")
        for no in ("n", "escape", "enter", "q"):
            await screen.press("r")
            await screen.sees("Resume mine?", "A new job continues it from its checkpoint at step 20.", "y yes", "n no")
            await screen.press(no)
            await screen.until(lambda: "Resume mine?" not in screen.text)
        assert asked == []
        await screen.press("r", "y")
        await screen.sees("resuming mine from step 20; job 100 (scripted)")
        assert "logs mine -f" not in screen.text

    on_screen(tmp_path, look, everything=True)
    assert asked == [["resume", str(run.path)]]


def test_a_refusal_is_shown_with_its_fix(tmp_path, scripted):
    """By the command itself: the cluster of this run has no scheduler."""
    run = trained(run_with(tmp_path / "mine", 50, overrides=("train.steps=40",)), "1", cluster="local")
    run.ledger.append(Ended(attempt=0, cause="preempted", step=50))

    async def look(screen: Screen) -> None:
        await screen.select("mine")
        await screen.press("r", "y")
        await screen.sees("mine is already at step 50, beyond train.steps=40.", "ask for more:")
        assert "error:" not in screen.text
        await screen.press("escape")
        await screen.until(lambda: "ask for more" not in screen.text)

    on_screen(tmp_path, look, everything=True)


def test_a_run_that_would_train_in_this_process_is_refused(tmp_path, scripted, monkeypatch):
    monkeypatch.setattr(scripted, "blocks", True)
    stopped(tmp_path / "mine", "1")

    async def look(screen: Screen) -> None:
        await screen.select("mine")
        await screen.press("r", "y")
        await screen.sees("mine trains inside the command that starts it.", "cldctl resume mine")

    on_screen(tmp_path, look, everything=True)


def test_cancel_asks_first_and_says_how_it_ended(tmp_path, scripted):
    trained(run_with(tmp_path / "mine", 10), "1")
    trained(run_with(tmp_path / "other", 10), "2")

    async def look(screen: Screen) -> None:
        await screen.select("mine")
        await screen.press("c")
        await screen.sees("Cancel mine?", "A run saves a checkpoint first.")
        await screen.press("n")
        assert scripted.calls == []
        await screen.press("c", "y")
        await screen.sees("mine: cancelled; last checkpoint: step 10")
        assert scripted.calls == [("cancel", ["1"])]
        await screen.sees("1 RUNNING  1 CANCELLED")
        await screen.select("mine")
        await screen.press("c")
        await screen.sees("mine is CANCELLED: there is nothing to cancel.")
        assert "Cancel mine?" not in screen.text

    on_screen(tmp_path, look, everything=True)


def test_a_group_is_cancelled_and_resumed_as_a_whole(tmp_path, scripted, asked):
    for number, run in enumerate(seeds(tmp_path, "g", 3, 10, overrides=STEPS)):
        trained(run, str(number), "running" if number else "gone")

    async def look(screen: Screen) -> None:
        await screen.select("g")
        await screen.press("c")
        await screen.sees("Cancel 2 runs of g?")
        await screen.press("y")
        await screen.until(
            lambda: scripted.calls == [("cancel", ["1", "2"])] or scripted.calls == [("cancel", ["2", "1"])]
        )
        await screen.sees("2 CANCELLED")
        await screen.press("c")
        await screen.sees("g: none of its runs is alive")
        await screen.press("l")
        await screen.sees("Select a run to look at its log.")
        await screen.press("r")
        await screen.sees("Resume 3 runs of g?")
        await screen.press("y")
        await screen.until(lambda: asked == [["resume", "g", "--runs-dir", str(tmp_path)]])

    on_screen(tmp_path, look, everything=True)


def test_a_filter_hides_runs_of_a_group_and_spares_none(tmp_path, scripted):
    for number, run in enumerate(seeds(tmp_path, "g", 3, 10, overrides=STEPS)):
        trained(run, str(number))
    run = RunFolder(tmp_path / "g-2")
    run.ledger.append(Tagged(add=("odd",)))
    RunFolder(tmp_path / "g-1").ledger.append(Tagged(add=("odd",)))

    async def look(screen: Screen) -> None:
        await screen.select("g")
        await screen.press("slash", *"odd", "enter")
        await screen.sees('only "odd"')
        await screen.until(lambda: "g-0" not in screen.text)
        await screen.select("g")
        await screen.press("c")
        await screen.sees("Cancel 3 runs of g?", "filtered or not")
        await screen.press("y")
        await screen.until(lambda: [sorted(jobs) for _, jobs in scripted.calls] == [["0", "1", "2"]])

    on_screen(tmp_path, look, everything=True)


@pytest.mark.parametrize(("phase", "state"), [("running", "RUNNING"), ("pending", "REQUEUED")])
def test_a_run_that_is_alive_is_not_resumed(tmp_path, scripted, asked, phase, state):
    trained(run_with(tmp_path / "mine", 10), "1", phase)

    async def look(screen: Screen) -> None:
        await screen.select("mine")
        await screen.press("r")
        await screen.sees(f"mine is {state}: there is nothing to resume.")
        assert "Resume mine?" not in screen.text

    on_screen(tmp_path, look, everything=True)
    assert asked == []


def test_what_is_shown_here_comes_without_colours(tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for said in (
        actions.command_of(["why", "mine"])[1],
        list(actions.output_of(actions.sampling(RunFolder(tmp_path)))),
    ):
        assert "error:" in "".join(said)
        assert "\x1b" not in "".join(said)


def test_the_report_is_written_and_opened_only_where_there_is_a_display(tmp_path, scripted, monkeypatch):
    run = stopped(tmp_path / "mine", "1")
    monkeypatch.chdir(tmp_path)  # The shorter path leaves room for the rest of the message.
    opened: list[str] = []
    monkeypatch.setattr(actions.webbrowser, "open", lambda uri: opened.append(uri) or True)
    monkeypatch.setattr(actions, "_page", lambda run: f"<html>{run.name}</html>")
    monkeypatch.setattr(actions.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)

    async def look(screen: Screen) -> None:
        await screen.select("mine")
        await screen.press("o")
        await screen.sees("report.html", "(no display here: copy it")
        assert opened == []
        monkeypatch.setenv("DISPLAY", ":0")
        await screen.press("o")
        await screen.until(lambda: opened == [(run.path / "report.html").as_uri()])
        await screen.until(lambda: "no display" not in screen.text)

    on_screen(tmp_path, look, everything=True)
    assert (run.path / "report.html").read_text() == "<html>mine</html>"


def test_a_report_of_a_real_page(tmp_path, scripted):
    run = stopped(tmp_path / "mine", "1")
    actions.report(run, lambda text: None)
    assert "mine" in (run.path / "report.html").read_text()


SPEAKS = "import sys; print('drawing \\x1b[31m[red]'); sys.stderr.write('64 samples\\n'); sys.stdout.flush(); {}"


@pytest.mark.parametrize(("then", "said"), [("", "done"), ("sys.exit(3)", "ended with exit code 3")])
def test_samples_are_drawn_by_a_process_whose_output_is_shown(tmp_path, scripted, monkeypatch, then, said):
    stopped(tmp_path / "mine", "1")
    monkeypatch.setattr(actions, "sampling", lambda run: _process(SPEAKS.format(then)))

    async def look(screen: Screen) -> None:
        await screen.select("mine")
        await screen.press("s")
        await screen.sees("$ cldctl sample mine", "drawing [red]", "64 samples", said)
        await screen.until(lambda: "the command goes on" not in screen.text and "esc back" in screen.text)
        await screen.press("escape")
        await screen.sees("steps/s")

    on_screen(tmp_path, look, everything=True)


def test_samples_that_cannot_be_drawn_are_over(tmp_path, scripted, monkeypatch):
    stopped(tmp_path / "mine", "1")

    def sampling(run):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(actions, "sampling", sampling)

    async def look(screen: Screen) -> None:
        await screen.select("mine")
        await screen.press("s")
        await screen.sees("$ cldctl sample mine", "error: [Errno 12] Cannot allocate memory")
        await screen.until(lambda: "the command goes on" not in screen.text and "esc back" in screen.text)

    on_screen(tmp_path, look, everything=True)


def test_the_command_that_draws_samples_is_that_of_cldctl(tmp_path):
    """Of a run that is gone, it says so before it loads torch."""
    *said, end = actions.output_of(actions.sampling(RunFolder(tmp_path / "mine")))
    assert end == "ended with exit code 3"
    assert said[0].startswith("error: ")
    assert "mine" in said[0]


def test_a_process_that_still_draws_is_ended_with_the_screen(tmp_path, scripted, monkeypatch):
    stopped(tmp_path / "mine", "1")
    started: list[subprocess.Popen[str]] = []

    def sampling(run):
        started.append(_process("import sys, time; print('begun', flush=True); time.sleep(600)"))
        return started[0]

    monkeypatch.setattr(actions, "sampling", sampling)

    async def look(screen: Screen) -> None:
        await screen.select("mine")
        await screen.press("s")
        await screen.sees("begun", "esc back; the command goes on")
        await screen.press("escape", "q")

    app = on_screen(tmp_path, look, everything=True)
    assert app.left_over() == ["ended: sample mine"]
    assert started[0].wait(60) != 0


def test_quitting_does_not_wait_for_what_ends_anyway(tmp_path, scripted, monkeypatch):
    trained(run_with(tmp_path / "mine", 10), "1")
    asked, over = threading.Event(), threading.Event()

    def wait(endings, told, grace_s=0.0):
        asked.set()
        over.wait(60)

    monkeypatch.setattr(cancelling, "wait", wait)

    async def look(screen: Screen) -> None:
        await screen.select("mine")
        await screen.press("c", "y")
        await screen.until(asked.is_set)
        await screen.press("q")

    app = on_screen(tmp_path, look, everything=True)
    assert app.left_over() == ["no longer waiting for: Cancel mine. `cldctl status` shows how it ends"]
    over.set()


def _process(code: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
