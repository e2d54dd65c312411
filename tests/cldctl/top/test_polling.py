"""How often the scheduler is asked, and what happens while it does not answer."""

import threading
import time

from cldctl.clusters.slurm import client
from cldctl.runs import survey
from cldctl.top import app
from tests.support.piloted import Screen, on_screen


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
