"""What is on the screen: the list of runs in every state, the run that is selected, its logs; a run
that trains."""

import dataclasses
import threading

import pytest

from cld_core.files import write_json
from cld_core.run import RunFolder
from cld_core.run.events import Labelled
from cld_core.run.state import STATES
from cldctl.clusters.slurm import client
from cldctl.runs import survey
from cldctl.runs.status import RunStatus
from cldctl.show.runs import Query
from cldctl.top import app
from cldctl.top.app import RunTable, arranged
from tests.support.piloted import on_screen
from tests.support.tools import ONE, cldctl, wait_step

FAILED = "toy-spirals-1126-0715-p2mm"
RUNNING = "celebahq-cld-1125-0911-k3fa"


def listed(screen):
    return [line.name for line in screen.app._main.query_one(RunTable).lines]


def test_runs_of_a_group_stay_together_and_are_folded_when_they_are_over():
    def order(ends, opened=()):
        alone = [
            RunStatus(name=name, path=name, state="FINISHED", created=at)
            for name, at in (("x", 1.0), ("y", 3.0))
        ]
        swept = [
            dataclasses.replace(alone[0], name=f"g{k}", state=it, group="g")
            for k, it in enumerate(ends)
        ]
        return [line.name for line in arranged([*alone, *swept], opened)]

    assert order(["FINISHED"] * 2) == ["y", "g", "x"]
    assert order(["FINISHED"] * 2, {"g"}) == ["y", "g", "g0", "g1", "x"]
    assert order(["RUNNING", "FINISHED"]) == ["g", "g0", "g1", "y", "x"], (
        "those that live come first"
    )


def test_every_state_is_shown_with_its_progress_and_why_it_waits(fleet):
    async def look(screen):
        await screen.sees(*STATES, "2 RUNNING", str(fleet.root))
        await screen.until(lambda: any("k3fa" in line and "▇" in line for line in screen.lines))
        (line,) = [line for line in screen.lines if line.startswith(" celebahq-cld-1125-0911-k3fa")]
        assert {"RUNNING", "398.2k/800k", "0.4137", "5.21", "21h25m"} <= set(line.split())
        assert any("PENDING" in line and "Priority" in line for line in screen.lines)
        # Keys and words filter.
        await screen.press("5")
        await screen.until(lambda: len(listed(screen)) == 3)
        await screen.press("slash", *"spirals", "enter")
        await screen.until(lambda: listed(screen) == [FAILED])
        await screen.sees('only failed "spirals"')
        await screen.press("1")
        await screen.sees("no run matches the filter; esc clears it")

    on_screen(fleet.root, look, size=(200, 40))


def test_an_empty_folder_says_what_to_do(tmp_path):
    async def look(screen):
        await screen.sees("no runs in", "Start one: cldctl submit toy_demo")
        await screen.press("enter", "r", "c", "s", "o", "space", "down", "end")
        await screen.sees("There are no runs yet.")

    on_screen(tmp_path / "nothing", look)


def test_a_run_that_vanishes_leaves_its_place_to_the_next_one(tmp_path, fleet):
    async def look(screen):
        # Before the scheduler has answered, the order is another.
        await screen.sees(*STATES, "2 RUNNING")
        await screen.select(FAILED)
        place = listed(screen).index(FAILED)
        (fleet.root / FAILED).rename(tmp_path / "elsewhere")
        await screen.until(lambda: FAILED not in listed(screen))
        # The list is drawn first, and then what is selected of it.
        await screen.until(lambda: screen.app._main.selected.name == listed(screen)[place])

    on_screen(fleet.root, look, size=(200, 40))


def test_texts_of_others_steer_nothing(fleet):
    """Escape sequences, markup of rich and of textual, line breaks and wide characters."""
    run = RunFolder(fleet.root / FAILED)
    evil = (
        "\x1b]0;owned\x07\x1b[31mred\x1b[0m [bold red]markup[/] "
        "[@click=app.quit]x[/]\nsecond\u202eline 漢字漢字"
    )
    write_json(run.identity_file, {**run.identity(), "user": evil})
    fleet.event(run, 1.0, Labelled, note=evil, add=("[red]tag",))
    text = run.ledger.path.read_text()
    run.ledger.path.write_text(
        text.replace("spiral arms must be odd", r"\u001b[2J[bold]spiral\u0007[/nothing] 漢字")
    )

    async def look(screen):
        await screen.select(run.name)
        await screen.sees("[bold]spiral[/nothing]", "[red]tag")
        await screen.press("tab", "end")
        await screen.sees("red [bold red]markup[/] [@click=app.quit]x[/]")
        assert all(line.isprintable() for line in screen.lines)
        assert "owned" not in screen.text

    on_screen(fleet.root, look, size=(160, 60))


def test_a_scheduler_that_hangs_keeps_nobody_waiting(fleet, monkeypatch):
    hangs, answers = threading.Event(), threading.Event()

    def ask(command, stdin=""):
        if hangs.is_set():
            answers.wait(120)
        return fleet.slurm(command, stdin)

    monkeypatch.setattr(client, "run", ask)
    monkeypatch.setattr(survey, "TO_LOOK_S", 0.0)
    monkeypatch.setattr(app, "_PATIENCE_S", 0.0)

    async def look(screen):
        await screen.select(RUNNING)
        hangs.set()
        await screen.sees("still looking after", "a scheduler or a disk does not answer")
        await screen.select(FAILED)
        await screen.sees("spiral arms must be odd", "attempts  ")
        await screen.press("enter")
        await screen.sees("failed first", "Traceback")
        await screen.press("escape", "q")
        await screen.until(lambda: not screen.app.is_running)

    try:
        on_screen(fleet.root, look)
    finally:
        answers.set()


def test_a_run_is_shown_with_attempts_and_shards(fleet):
    async def look(screen):
        await screen.select(RUNNING)
        await screen.sees("it trains on n07", "49.8%", "attempts", "█", "1d05h since")
        await screen.sees("P preempted  X crashed  ▶ running")
        await screen.sees(
            "■" * 17 + "▶" + "░" * 4 + "×" + "░" * 15 + "·" * 2, "17 done", "1 failed"
        )
        await screen.press("tab", "end")
        await screen.sees("rank 2 on n11: CUDA error")
        await screen.press("tab", "up")
        await screen.until(lambda: screen.app._main.selected.name == "cifar10-vpsde-1125-1730-x9e0")

    on_screen(fleet.root, look)


def test_a_log_opens_at_the_rank_that_failed_first_and_follows_one_that_trains(fleet, monkeypatch):
    log = fleet.root / RUNNING / "logs" / "4410_0_log.out"

    async def look(screen):
        await screen.select(FAILED)
        await screen.press("enter")
        await screen.sees(f"{FAILED} · attempt 0, rank 2: failed first")
        await screen.sees(
            "rank 2 trains",
            "Traceback (most recent call last):",
            "ValueError: spiral arms must be odd",
        )
        assert "Connection closed by peer" not in screen.text
        await screen.press("n")
        await screen.sees("attempt 0, rank 0", "Connection closed by peer")
        await screen.press("p", "p")
        await screen.sees("attempt 0, rank 1", "rank 1 trains")
        await screen.press("escape")
        await screen.select(RUNNING)
        # Following asks no scheduler.
        monkeypatch.setattr(Query, "look", lambda query: screen.app._main._look)
        before = fleet.slurm.calls.total()
        await screen.press("l")
        await screen.sees("job 4410, rank 0", "step 398200/800000 loss 0.4137")
        with log.open("a") as file:
            file.write("step 398400/800000 loss 0.411\nhalf of a ")
            file.flush()
            await screen.sees("step 398400/800000 loss 0.411")
            file.write("line\n10%\r50%\r100%\n")
        await screen.sees("half of a line", "100%")
        assert fleet.slurm.calls.total() == before

    on_screen(fleet.root, look)


QUICK = (
    "sampling.method=em",
    "sampling.nfe=2",
    "train.steps=1000000",
    "train.checkpoint_every=100000",
)


@pytest.mark.slow
def test_a_run_is_watched_cancelled_resumed_sampled_and_reported(fresh_runs, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    cldctl(
        "submit toy_diamond --name mine --cluster local",
        *ONE,
        *QUICK,
        runs=fresh_runs,
    )
    run = RunFolder(fresh_runs / "mine")
    wait_step(run, 50)

    async def look(screen):
        await screen.sees("mine", "RUNNING")
        await screen.press("enter")
        await screen.sees("rank 0", "loss")
        await screen.press("escape", "c", "y")
        # Messages vanish after a while: what stays is looked for afterwards.
        await screen.sees("mine: cancelled; last checkpoint: step")
        await screen.sees("CANCELLED")
        await screen.press("r", "y")
        await screen.sees("resuming mine from step")
        await screen.sees("C cancelled  ▶ running")
        await screen.press("c", "y")
        await screen.sees("C cancelled ×2")
        await screen.press("s")
        await screen.sees("samples of step", ".png", "done")
        await screen.press("escape", "o")
        await screen.sees("no display here")

    on_screen(fresh_runs, look)
    assert (run.path / "report.html").exists()
    assert list(run.samples.glob("step_*_em_*.png"))
