"""How often the scheduler is asked, and what happens while it does not answer."""

import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cldctl.clusters.slurm import client, shared
from cldctl.runs import selection, status, survey
from cldctl.runs.index import Index
from cldctl.runs.selection import Selection
from cldctl.show import runs as shown_runs
from cldctl.show.runs import Look
from cldctl.top import app, feed
from cldctl.top.feed import FileFeed, RunFeed
from tests.support import on_screen as made_up
from tests.support import scheduler
from tests.support.on_screen import Fleet
from tests.support.piloted import Screen, on_screen
from tests.support.scheduler import Scheduler
from tests.support.together import Together

MINUTES = 3


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Together:
    clock = Together(60.0 * MINUTES)
    for module in (shown_runs, selection, status, feed):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch, clock: Together) -> Iterator[Scheduler]:
    yield scheduler.register(monkeypatch, clock)
    shared._answers.cache_clear()


def watch(clock: Together, root: Path) -> None:
    """What `status --watch` does."""
    asked = shown_runs.Query(Index(root), Selection())
    while True:
        asked.look()
        clock.sleep(1.0)


def top(clock: Together, root: Path, looks: list[Look]) -> None:
    RunFeed(root, Selection(), everything=False).go_on(looks.append, lambda seconds: bool(clock.sleep(seconds)))


def runs(root: Path, clock: Together, slurm: Scheduler) -> None:
    fleet = Fleet(root, clock.now)
    made_up.running(fleet)
    made_up.waiting(fleet)
    slurm.mine = fleet.slurm.mine


def calls_of(clock: Together, slurm: Scheduler, *programs) -> int:
    clock.run(*programs)
    return slurm.calls.total()


def test_minutes_ask_as_often_as_status_does(tmp_path, clock, slurm):
    runs(tmp_path, clock, slurm)
    looks: list[Look] = []
    assert calls_of(clock, slurm, lambda: top(clock, tmp_path, looks)) <= 2 * MINUTES + 2
    assert slurm.calls["squeue"] >= 2 * MINUTES - 1, "it does look"
    assert len(looks) == 60 * MINUTES
    assert {row.state for row in looks[-1].rows} == {"RUNNING", "PENDING"}


def test_it_shares_the_answers_of_others(tmp_path, clock, slurm):
    """Two screens and two `status --watch` are one question every half a minute."""
    runs(tmp_path, clock, slurm)
    screens = [lambda: top(clock, tmp_path, [])] * 2
    watchers = [lambda: watch(clock, tmp_path)] * 2
    assert calls_of(clock, slurm, *screens, *watchers) <= 2 * MINUTES + 2


def test_everything_on_the_screen_asks_no_more_than_a_look(fleet):
    """Selecting runs, details, curves and logs read files."""

    async def look(screen: Screen) -> None:
        await screen.sees("celeba-lr")
        before, began = fleet.slurm.calls.total(), time.time()
        for name in ("celebahq-cld-1125-0911-k3fa", "toy-spirals-1126-0715-p2mm", "toy-diamond-1124-1502-aa10"):
            await screen.select(name)
        await screen.press("enter")
        await screen.sees("job 4391, rank 0")
        await screen.press("escape")
        assert before <= 3
        # A look that began half a minute after the first one may have asked again meanwhile.
        assert fleet.slurm.calls.total() - before <= before * (1 + int((time.time() - began) / survey.TO_LOOK_S))

    on_screen(fleet.root, look)


def test_a_scheduler_that_hangs_keeps_nobody_waiting(fleet, monkeypatch):
    hangs, answers = threading.Event(), threading.Event()

    def ask(command, stdin=""):
        if hangs.is_set():
            answers.wait(120)
        return fleet.slurm(command, stdin)

    monkeypatch.setattr(client, "run", ask)
    monkeypatch.setattr(survey, "TO_LOOK_S", 0.0)
    monkeypatch.setattr(app, "_PATIENCE_S", 0.0)

    async def look(screen: Screen) -> None:
        await screen.select("celebahq-cld-1125-0911-k3fa")
        hangs.set()
        await screen.sees("still looking after", "a scheduler or a disk does not answer")
        await screen.select("toy-spirals-1126-0715-p2mm")
        await screen.sees("spiral arms must be odd", "attempts  ")
        await screen.press("enter")
        await screen.sees("failed first", "Traceback")
        await screen.press("escape", "q")
        await screen.until(lambda: not screen.app.is_running)

    try:
        on_screen(fleet.root, look)
    finally:
        answers.set()


def test_a_scheduler_that_is_away_is_a_line(fleet):
    fleet.slurm.is_away = True

    async def look(screen: Screen) -> None:
        await screen.sees("slurmctld does not answer", "celebahq-cld-1125-0911-k3fa")
        await screen.select("celebahq-cld-1125-0911-k3fa")
        await screen.sees("RUNNING as of")

    on_screen(fleet.root, look)


def test_a_look_that_fails_keeps_the_runs(fleet, monkeypatch):
    async def look(screen: Screen) -> None:
        await screen.sees("celeba-lr")

        def broken(self: Index, **how: object) -> None:
            raise OSError(5, "Input/output error\x1b[31m")

        with monkeypatch.context() as patch:
            patch.setattr(Index, "look", broken)
            await screen.sees("Input/output error", "celeba-lr")
        await screen.until(lambda: "Input/output error" not in screen.text)

    on_screen(fleet.root, look)


def test_a_read_that_fails_is_said_and_reading_goes_on(tmp_path, monkeypatch):
    def read(self: FileFeed) -> None:
        raise struct.error("unpack requires a buffer")

    async def look(screen: Screen) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(FileFeed, "read", read)
            await screen.sees("the files of runs cannot be read: unpack requires a buffer")
        await screen.until(lambda: "cannot be read" not in screen.text)

    on_screen(tmp_path, look)
