"""Keys that act on runs: they ask first, and do what the commands do, or say at once why they do
nothing."""

import sys
import threading
import time
from dataclasses import replace

from cld_core.errors import UsageError
from cld_core.run.events import Labelled
from cld_core.run.state import ALIVE, RESUMABLE, STATES
from cldctl.runs.status import RunStatus
from cldctl.top import selected
from cldctl.top.selected import Command, command_for
from tests.support.made_up import note, seeds
from tests.support.piloted import on_screen
from tests.support.scripted import stopped, trained

STEPS = ("train.steps=50",)


def refused(what, row):
    """Why nothing is done; empty if it is."""
    try:
        command_for(what, [row])
    except UsageError as error:
        return str(error)
    return ""


def test_every_key_knows_what_a_state_allows():
    for state in STATES:
        row = RunStatus(
            name="mine", path="runs/mine", state=state, step=50, steps=50, checkpoint_step=50
        )
        assert (f"mine is {state}" in refused("resume", row)) == (state not in RESUMABLE)
        assert (f"mine is {state}" in refused("cancel", row)) == (state not in ALIVE)
        assert not refused("sample", row)
        assert not refused("cancel", replace(row, evals=[{"state": "PENDING"}])), (
            "an evaluation can be cancelled"
        )


def test_what_cannot_be_read_is_neither_resumed_nor_sampled():
    row = RunStatus(
        name="mine",
        path="mine",
        state="LOST",
        reason="format 99",
        is_readable=False,
        checkpoint_step=5,
    )
    assert refused("resume", row) == refused("sample", row) == "mine cannot be read: format 99"
    assert "nothing to cancel" in refused("cancel", row)
    assert "no checkpoint" in refused(
        "sample", replace(row, is_readable=True, checkpoint_step=None)
    )
    assert not refused(
        "resume", replace(row, state="FINISHED", is_readable=True, step=40, steps=50)
    )


def test_an_action_asks_first_and_says_what_it_did(tmp_path, scripted, ran, monkeypatch):
    run = stopped(tmp_path / "mine")

    async def look(screen):
        await screen.select("mine")
        await screen.press("r")
        await screen.sees("Resume mine?", "A new job continues it from its checkpoint at step 20.")
        await screen.press("enter")
        await screen.until(lambda: "Resume mine?" not in screen.text)
        assert ran == []
        await screen.press("r", "y")
        await screen.sees("resume it is")
        monkeypatch.setattr(scripted, "blocks", True)
        await screen.press("r", "y")
        await screen.sees("mine trains inside the command that starts it.", "cldctl resume mine")

    on_screen(tmp_path, look, everything=True)
    assert ran == [["resume", str(run.path)]]


def test_a_group_is_cancelled_and_resumed_as_a_whole_filtered_or_not(tmp_path, scripted, ran):
    runs = seeds(tmp_path, "g", 3, 10, overrides=STEPS)
    for number, run in enumerate(runs):
        trained(run, str(number), "running" if number else "gone")
    for run in runs[:2]:
        note(run, Labelled(add=("odd",)))

    async def look(screen):
        await screen.select("g")
        await screen.press("slash", *"odd", "enter")
        await screen.until(lambda: "g-2" not in screen.text)
        await screen.select("g")
        await screen.press("c")
        await screen.sees("Cancel 2 runs of g?", "filtered or not")
        await screen.press("y")
        await screen.until(lambda: len(ran) == 1)
        await screen.press("r", "y")
        await screen.until(lambda: len(ran) == 2)

    on_screen(tmp_path, look, everything=True)
    assert [ran[0][0], *sorted(ran[0][1:])] == [
        "cancel",
        str(tmp_path / "g-1"),
        str(tmp_path / "g-2"),
    ]
    assert ran[1] == ["resume", "g", "--runs-dir", str(tmp_path)]


def test_samples_are_drawn_beside_the_screen_and_end_with_it(tmp_path, scripted, monkeypatch):
    stopped(tmp_path / "mine")
    code = "import time; print('drawing \\x1b[31m[red]', flush=True); time.sleep(600)"
    started = speaking(monkeypatch, code)

    async def look(screen):
        await screen.select("mine")
        await screen.press("s")
        await screen.sees("sample mine: goes on until you quit", "drawing [red]")
        await screen.press("escape", "q")

    app = on_screen(tmp_path, look, everything=True)
    assert app.left_over() == ["ended: sample mine"]
    assert started[0].wait(60) != 0


def speaking(monkeypatch, code):
    """Let commands be a piece of Python; the processes that were started."""
    started, popen = [], selected.subprocess.Popen

    def start(command, **how):
        started.append(popen([sys.executable, "-c", code], **how))
        return started[-1]

    monkeypatch.setattr(selected.subprocess, "Popen", start)
    return started


def test_a_submission_goes_on_without_the_screen(monkeypatch):
    """It writes to a file, and is in a session of its own."""
    (started, command) = (
        speaking(monkeypatch, "import time; time.sleep(600)"),
        Command("Cancel mine", ["cancel"]),
    )
    threading.Thread(target=command.start, args=(lambda: None,), daemon=True).start()
    while not started:
        time.sleep(0.01)
    assert (
        command.leave() == "no longer waiting for: Cancel mine. `cldctl status` shows how it ends"
    )
    assert started[0].poll() is None
    started[0].kill()
