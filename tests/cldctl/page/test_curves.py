"""Curves of a run as its last attempts wrote them."""

import os

import pytest
from torch.utils.tensorboard import SummaryWriter

from cld_core.run import RunFolder
from cld_core.train.monitoring import Monitor
from cldctl.page import curves
from tests.support.made_up import run_with


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return run_with(tmp_path / "mine", 60)


def attempt(run: RunFolder, number: int, first: int, last: int, every: int = 10) -> None:
    """What an attempt writes that begins after step ``first``; its files are those of a second of its own."""
    before = set(run.tensorboard.glob("*"))
    monitor = Monitor(run, attempt=number, first_step=first, steps=last, may_write=lambda: False)
    for step in range(first + every, last + 1, every):
        monitor.report(step, {"loss": 100.0 * number + step})
        monitor.add(step, {"nfe": float(number)})
    monitor.close()
    (file,) = set(run.tensorboard.glob("*")) - before
    file.rename(run.tensorboard / f"events.out.tfevents.{number:010d}")


def test_what_later_attempts_repeat_replaces_what_was_there(run, caplog):
    for number, (first, last) in enumerate(((0, 40), (20, 30), (20, 60))):
        attempt(run, number, first, last)
    found = curves.read(run)
    assert found["train/loss"] == [(10, 10.0), (20, 20.0), (30, 230.0), (40, 240.0), (50, 250.0), (60, 260.0)]
    assert [step for step, _ in found["periodic/nfe"]] == [10, 20, 30, 40, 50, 60]
    assert caplog.text == ""


def test_what_is_not_finite_is_no_point_and_a_subfolder_names_its_tags(run):
    with SummaryWriter(str(run.tensorboard / "eval-1")) as board:
        for step, value in enumerate((1.0, float("nan"), float("inf"), 2.0)):
            board.add_scalar("other", value, step)
    assert curves.read(run)["eval-1: other"] == [(0, 1.0), (3, 2.0)]


def test_nothing_outside_of_the_run_is_read_unless_somebody_wants_it(run, tmp_path):
    with SummaryWriter(str(tmp_path / "private")) as board:
        board.add_scalar("salary", 1.0, 1)
    (run.tensorboard / "linked").symlink_to(tmp_path / "private")
    os.mkfifo(run.tensorboard / "events.out.tfevents.1")
    assert curves.read(run) == {}
    assert list(curves.read(run, follow=True)) == ["linked: salary"]
