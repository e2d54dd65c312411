"""A run that really trains on this machine, watched and steered by keys alone."""

import pytest

from cld_core.run import RunFolder
from tests.support.piloted import on_screen
from tests.support.tools import ONE, cldctl, wait_step

QUICK = ("sampling.method=em", "sampling.nfe=2", "train.steps=1000000", "train.checkpoint_every=100000")


@pytest.mark.slow
def test_a_run_is_watched_cancelled_resumed_sampled_and_reported(fresh_runs, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    cldctl("submit", "toy_diamond", *ONE, *QUICK, "--name", "mine", "--cluster", "local", runs=fresh_runs)
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
