"""The log on the screen: it opens at the rank that failed first, and follows what is written."""

from cldctl.show.runs import Query
from tests.support.piloted import Screen, on_screen

FAILED = "toy-spirals-1126-0715-p2mm"
RUNNING = "celebahq-cld-1125-0911-k3fa"


def test_it_opens_at_the_rank_that_failed_first(fleet):
    async def look(screen: Screen) -> None:
        await screen.select(FAILED)
        await screen.press("enter")
        await screen.sees(f"{FAILED} · attempt 0, rank 2: failed first")
        await screen.sees("rank 2 trains", "Traceback (most recent call last):", "ValueError: spiral arms must be odd")
        assert "Connection closed by peer" not in screen.text
        await screen.press("n")
        await screen.sees("attempt 0, rank 0", "Connection closed by peer")
        assert "ValueError" not in screen.text
        await screen.press("p")
        await screen.sees("attempt 0, rank 2", "rank 2 trains")
        await screen.press("p")
        await screen.sees("attempt 0, rank 1", "rank 1 trains")
        await screen.press("f")
        await screen.sees("rank 2: failed first", "ValueError")
        await screen.press("e")
        await screen.sees("no evaluation was started")
        await screen.press("escape")
        await screen.sees("steps/s")

    on_screen(fleet.root, look)


def test_it_follows_a_run_that_trains_and_asks_no_scheduler(fleet, monkeypatch):
    log = fleet.root / RUNNING / "logs" / "4410_0_log.out"

    async def look(screen: Screen) -> None:
        await screen.select(RUNNING)
        monkeypatch.setattr(Query, "look", lambda query: screen.app._main._look)
        before = fleet.slurm.calls.total()
        await screen.press("l")
        await screen.sees("job 4410, rank 0", "step 398200/800000 loss 0.4137")
        with log.open("a") as file:
            file.write("step 398400/800000 loss 0.4\x1b[31m11\nhalf of a ")
            file.flush()
            await screen.sees("step 398400/800000 loss 0.411")
            file.write("line\n10%\r50%\r100%\n")
        await screen.sees("half of a line", "100%")
        assert "50%" not in screen.text
        assert fleet.slurm.calls.total() == before
        await screen.press("q")
        await screen.sees("steps/s")

    on_screen(fleet.root, look)
