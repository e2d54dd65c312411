"""Curves of the loss: read on from where the last look ended, within bounds, whatever the files hold."""

import io
import math
import struct

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from cld_core.run import RunFolder
from cld_core.train.monitoring import Monitor
from cldctl.page import curves
from cldctl.top import losses as module
from cldctl.top.losses import Losses
from cldctl.top.sparks import means, sparkline
from tests.support.made_up import run_with


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return run_with(tmp_path / "mine", 60)


def trained(run: RunFolder, *attempts: tuple[int, int], every: int = 10) -> None:
    """Attempts as training writes them, from one step to another; each loss tells the attempt and the step."""
    for attempt, (first, last) in enumerate(attempts):
        monitor = Monitor(run, attempt=attempt, first_step=first, steps=last, may_write=lambda: False)
        for step in range(first + every, last + 1, every):
            monitor.report(step, {"loss": 100.0 * attempt + step})
        monitor.close()


def test_it_agrees_with_the_reader_of_everything(run):
    trained(run, (0, 40), (20, 30), (20, 60))
    losses = Losses()
    assert not losses.look(run)
    board = curves.read(run)["train/loss"]
    assert losses.of(run.path) == [loss for _, loss in board] == [10.0, 20.0, 230.0, 240.0, 250.0, 260.0]


def test_only_what_is_new_is_read_and_pictures_are_skipped(run, monkeypatch):
    read: list[int] = []
    take = module._take
    monkeypatch.setattr(module, "_take", lambda record, file: read.append(len(record)) or take(record, file))
    losses = Losses()
    with SummaryWriter(str(run.tensorboard)) as board:
        board.add_scalar("train/loss", 3.0, 10)
        board.add_image("periodic/samples", torch.randint(0, 255, (200, 200, 3)).byte().numpy(), 10, dataformats="HWC")
        board.add_scalar("train/loss", 2.0, 20)
        board.flush()
        losses.look(run)
        assert losses.of(run.path) == [3.0, 2.0]
        assert max(read) < 1000, "the picture is not read"
        before = len(read)
        board.add_scalar("train/loss", 1.0, 30)
        board.flush()
        losses.look(run)
        losses.look(run)
        assert losses.of(run.path) == [3.0, 2.0, 1.0]
        assert len(read) == before + 1


def test_a_look_has_a_limit_and_the_next_one_goes_on(run):
    trained(run, (0, 400))
    losses, looks = Losses(), 0
    while losses.look(run, most=300):
        looks += 1
    assert looks > 5
    assert losses.of(run.path) == [float(step) for step in range(10, 401, 10)]
    losses.forget_others(set())
    assert losses.of(run.path) == []


def test_many_points_are_means_of_neighbours(run, monkeypatch):
    monkeypatch.setattr(module, "_POINTS", 8)
    trained(run, (0, 400))
    losses = Losses()
    losses.look(run)
    found = losses.of(run.path)
    assert len(found) < 16
    assert found == sorted(found)
    assert 10 <= found[0] < found[-1] <= 400


def test_damaged_and_foreign_files_end_where_they_are_damaged(run, tmp_path):
    trained(run, (0, 40))
    (file,) = run.tensorboard.glob("*tfevents*")
    whole = file.read_bytes()
    file.write_bytes(whole[:-3])
    losses = Losses()
    losses.look(run)
    assert losses.of(run.path) == [10.0, 20.0, 30.0, 40.0][: len(losses.of(run.path))]
    file.write_bytes(whole)
    losses.look(run)
    assert losses.of(run.path) == [10.0, 20.0, 30.0, 40.0], "the rest of a record that was being written"
    (run.tensorboard / "0.tfevents").write_bytes(struct.pack("<QI", 2**60, 0) + b"x" * 100)
    (run.tensorboard / "1.tfevents").write_bytes(struct.pack("<QI", 4, 0) + b"\xff\xff\xff\xff" + b"0000" + whole)
    (run.tensorboard / "2.tfevents").symlink_to(file)
    (run.tensorboard / "3.tfevents").mkdir()
    fresh = Losses()
    fresh.look(run)
    assert fresh.of(run.path) == [10.0, 20.0, 30.0, 40.0]


def test_a_folder_that_leads_out_of_the_run_is_not_read(run, tmp_path):
    trained(run, (0, 40))
    run.tensorboard.rename(tmp_path / "elsewhere")
    run.tensorboard.symlink_to(tmp_path / "elsewhere")
    losses = Losses()
    losses.look(run)
    assert losses.of(run.path) == []


def test_values_that_are_not_finite_are_left_out(run):
    with SummaryWriter(str(run.tensorboard)) as board:
        for step, value in enumerate((2.0, math.nan, math.inf, 1.0)):
            board.add_scalar("train/loss", value, step)
    losses = Losses()
    losses.look(run)
    assert losses.of(run.path) == [2.0, 1.0]


@pytest.mark.parametrize(
    ("values", "width", "line"),
    [
        ([], 5, ""),
        ([1.0], 5, "▁"),
        ([1.0, 1.0], 5, "▁▁"),
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 8, "▁▂▃▄▅▆▇█"),
        ([0.0, 2.0, 6.0, 8.0], 2, "▂█"),
        ([math.nan, 1.0, math.inf, 3.0], 9, "▁█"),
        ([-1.7e308, 1.7e308, 0.0], 3, "▁█▅"),
        ([1.0, 2.0], 0, ""),
    ],
)
def test_sparklines(values, width, line):
    assert sparkline(values, width) == line


def test_an_outlier_does_not_flatten_a_curve():
    values = [float(value) for value in range(100)]
    assert sparkline([1e9, *values, 1e9, 1e9], 100).count("█") < 20


def test_means():
    assert means([1.0, 3.0, 5.0, 7.0], 2) == [2.0, 6.0]
    assert means([1.0], 4) == [1.0]
    assert means([], 4) == []


@pytest.mark.parametrize("left", [5, 12, 40])
def test_a_file_that_shrinks_while_it_is_read_is_not_yet_written(run, left):
    trained(run, (0, 40))
    (path,) = run.tensorboard.iterdir()
    whole = path.read_bytes()
    # The size is that of before.
    with io.BytesIO(whole[: len(whole) // 2 + left]) as stream:
        found = list(module._records(stream, 0, len(whole)))
    (*_, (end, record)) = found
    assert end <= len(whole) // 2 + left
    assert record
