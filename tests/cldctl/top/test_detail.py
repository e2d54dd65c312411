"""What is shown of the run that is selected: curve, time line of its attempts, shards, results, why it waits."""

import io
import struct

import pytest
from rich.console import Console

from cld_core.run import RunFolder
from cld_core.run.attempt import Attempt
from cld_core.run.events import CAUSES
from cld_core.run.timeline import Stretch
from cld_core.train.loggers import About
from cld_core.train.monitoring import Monitor
from cldctl.page.curves import LOSS, Curves
from cldctl.runs.status import RunStatus
from cldctl.runs.why import Why
from cldctl.top.detail import LETTERS, TimeLine
from tests.support.made_up import run_with
from tests.support.piloted import Screen, on_screen


def drawn(renderable, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(renderable)
    return console.file.getvalue().splitlines()


def test_a_run_is_shown_with_attempts_and_shards(fleet):
    async def look(screen: Screen) -> None:
        await screen.select("celebahq-cld-1125-0911-k3fa")
        await screen.sees("it trains on n07", "49.8%", "attempts", "█", "1d05h since")
        line = next(line for line in screen.lines if "attempts  " in line and "▶" in line)
        assert [mark for mark in line if mark in "PX▶"] == ["P", "X", "▶"]
        await screen.sees("P preempted  X crashed  ▶ running")
        await screen.sees("■" * 17 + "▶" + "░" * 4 + "×" + "░" * 15 + "·" * 2, "17 done", "1 failed")
        await screen.press("tab", "end")
        await screen.sees("rank 2 on n11: CUDA error")
        await screen.press("tab", "up")
        await screen.until(lambda: screen.app._main.selected.name == "cifar10-vpsde-1125-1730-x9e0")

    on_screen(fleet.root, look)


def line_of(*stretches, state="STOPPED") -> list[str]:
    """The time line of attempts, each (queued, began, started, until, cause), in ten columns."""
    attempts = [
        Stretch(
            attempt=Attempt(attempt=number, job_id="1", started=started, first_step=0, ended=until, cause=cause),
            **{"queued": queued, "began": began, "until": until, "kept": 1, "lost": 0, "set_aside": 0},
        )
        for number, (queued, began, started, until, cause) in enumerate(stretches)
    ]
    row = RunStatus(name="mine", path="mine", state=state)
    return drawn(TimeLine(Why(row=row, headline="", stretches=attempts)), 10)


def test_a_time_line_has_the_scale_of_time():
    line = line_of((0, 10, 20, 50, "preempted"), (60, 70, 70, 100, "crashed"))[0]
    assert line == "░▒██P·░██X"
    assert line_of((0, 0, 0, 50, "preempted"), (50, 50, 50, 100, None), state="RUNNING")[0][-1] == "▶"
    assert line_of((0, 0, 0, 50, "preempted"), (50, 50, 50, 100, None))[0][-1] == "?"
    assert line_of((0, 0, 0, 100, "of a later version"))[0][-1] == "?"
    assert line_of((0, 0, 0, 1e6, "preempted"), (1e6, 1e6, 1e6, 1e6 + 1, "killed"))[0][-1] == "K", "short, but seen"


def test_every_cause_has_a_letter_of_its_own():
    assert set(LETTERS) == {*CAUSES, None}
    assert len(set(LETTERS.values())) == len(CAUSES) + 1


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return run_with(tmp_path / "mine", 60)


def trained(run: RunFolder, last: int) -> None:
    """A first attempt as training writes it; each loss tells the step."""
    about = About(folder=run, recipe=run.recipe(), attempt=0, first_step=0)
    monitor = Monitor(about, may_write=lambda: False)
    for step in range(10, last + 1, 10):
        monitor.report(step, {"loss": float(step)})
    monitor.close()


def test_damaged_files_end_where_they_are_damaged(run):
    trained(run, 40)
    (file,) = run.tensorboard.glob("*tfevents*")
    whole = file.read_bytes()
    file.write_bytes(whole[:-3])
    curve = Curves(run.tensorboard, LOSS)
    curve.look()
    file.write_bytes(whole)
    curve.look()
    assert curve.losses == (10.0, 20.0, 30.0, 40.0), "the rest of a record that was being written"
    for name, content in {"0": struct.pack("<QI", 2**60, 0), "1": struct.pack("<QI", 4, 0) + b"\xff" * 8}.items():
        (run.tensorboard / f"{name}.tfevents").write_bytes(content + whole)
    curve = Curves(run.tensorboard, LOSS)
    curve.look()
    assert curve.losses == (10.0, 20.0, 30.0, 40.0)
