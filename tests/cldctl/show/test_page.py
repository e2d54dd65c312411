"""`cldctl report`: one page that holds everything it shows."""

import base64
import re

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from cld_core.run import RunFolder
from cld_core.train.monitoring import Monitor
from cldctl.page import curves
from tests.support.made_up import run_with
from tests.support.tools import invoke


def written(path) -> RunFolder:
    """A run of two attempts, the second of which repeats steps of the first."""
    run = run_with(path, 30)
    for begin, losses in ((0, {10: 3.0, 20: 2.0, 30: 9.0}), (20, {30: 1.0})):
        with SummaryWriter(str(run.tensorboard), purge_step=begin + 1) as board:
            for step, loss in losses.items():
                board.add_scalar("train/loss", loss, step)
            board.add_image("periodic/samples", torch.full((4, 4, 3), begin).byte().numpy(), 30, dataformats="HWC")
        # Attempts are processes of other seconds, whose files sort by time.
        (file,) = run.tensorboard.glob("events*")
        file.rename(run.tensorboard / f"{begin:02d}.tfevents")
    (run.samples / "step_00000030_em.png").write_bytes(b"\x89PNG\r\n\x1a\n and so on")
    (run.path / "recipe.yaml").write_text(run.recipe_file.read_text().replace("name: toy", "name: <toy>"))
    return run


def test_the_page_holds_curves_pictures_and_tables(tmp_path):
    run = written(tmp_path / "runs" / "mine")
    board = curves.read(run.tensorboard)
    assert board.scalars["train/loss"] == [(10, 3.0), (20, 2.0), (30, 1.0)], "what was repeated replaces the old"
    target = tmp_path / "page.html"
    assert invoke("report", "mine", "-o", str(target), runs=run.path.parent).stdout == f"{target}\n"
    page = target.read_text()
    assert 'data-label="loss" data-points="10,3 20,2 30,1"' in page
    pictures = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]*)"', page)]
    assert pictures == [b"\x89PNG\r\n\x1a\n and so on", board.pictures["periodic/samples"][1]]
    assert len(re.findall("<img", page)) == 2
    assert not re.search(r'(src|href)="(?!data:)', page), "nothing is outside"
    assert "name: &lt;toy&gt;" in page
    assert "no folder" in invoke("report", "mine", "-o", "/nowhere/x.html", runs=run.path.parent, code=2).stderr


def test_the_curves_of_a_resumed_run_are_those_of_its_last_attempts(tmp_path, caplog):
    """Attempts as training writes them: each resumes from a step before the last point of the one before it."""
    run = run_with(tmp_path / "runs" / "mine", 60)
    made = torch.zeros(4, 4, 3, dtype=torch.uint8)
    for attempt, (first, last) in enumerate(((0, 40), (20, 30), (20, 60))):
        monitor = Monitor(run, attempt=attempt, first_step=first, steps=60, may_write=lambda: False)
        for step in range(first + 10, last + 1, 10):
            monitor.report(step, {"loss": 100.0 * attempt + step})
            monitor.add(step, {"nfe": float(attempt)})
            monitor.add_picture(step, made + attempt)
        if attempt == 1:
            monitor.add_picture(50, made)
        monitor.close()
    board = curves.read(run.tensorboard)
    expected = [(10, 10.0), (20, 20.0), (30, 230.0), (40, 240.0), (50, 250.0), (60, 260.0)]
    assert board.scalars["train/loss"] == expected
    assert [step for step, _ in board.scalars["periodic/nfe"]] == [10, 20, 30, 40, 50, 60]
    assert board.pictures["periodic/samples"][0] == 60
    invoke("report", "mine", "-o", str(tmp_path / "page.html"), runs=run.path.parent)
    assert caplog.text == ""


def test_an_orphaned_picture_gives_way_to_the_newest_one_before_it(tmp_path):
    run = run_with(tmp_path / "runs" / "mine", 60)
    made = torch.zeros(4, 4, 3, dtype=torch.uint8)
    for attempt, (first, steps) in enumerate(((0, (10, 20, 30)), (20, ()))):
        monitor = Monitor(run, attempt=attempt, first_step=first, steps=60, may_write=lambda: False)
        for step in steps:
            monitor.add_picture(step, made)
        monitor.close()
    assert curves.read(run.tensorboard).pictures["periodic/samples"][0] == 20


def test_tensorboard_itself_keeps_the_point_that_a_run_is_resumed_from(tmp_path):
    run = run_with(tmp_path / "runs" / "mine", 60)
    for attempt, steps in enumerate(((10, 20, 30), (30,))):
        monitor = Monitor(run, attempt=attempt, first_step=20 * attempt, steps=60, may_write=lambda: False)
        for step in steps:
            monitor.report(step, {"loss": 1.0 * attempt})
        monitor.close()
    events = EventAccumulator(str(run.tensorboard))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(10, 0.0), (20, 0.0), (30, 1.0)]


def test_a_file_that_is_being_written_is_read_to_its_last_whole_record(tmp_path):
    run = run_with(tmp_path / "runs" / "mine", 30)
    monitor = Monitor(run, attempt=0, first_step=0, steps=30, may_write=lambda: False)
    for step in (10, 20):
        monitor.report(step, {"loss": 1.0})
    monitor.close()
    (file,) = run.tensorboard.glob("*tfevents*")
    file.write_bytes(file.read_bytes()[:-5])
    (run.tensorboard / "empty.tfevents").touch()
    board = curves.read(run.tensorboard)
    assert [step for step, _ in board.scalars["train/loss"]] == [10, 20]


@pytest.mark.parametrize("which", ["samples", "evals", "tensorboard"])
def test_folders_that_lead_out_of_the_run_are_left_out(tmp_path, which):
    run = run_with(tmp_path / "foreign")
    private = tmp_path / "private"
    (private / "family").mkdir(parents=True)
    for file in (private / "passport.png", private / "family" / "samples.png"):
        file.write_bytes(b"\x89PNG\r\n\x1a\nSECRET")
    with SummaryWriter(str(private)) as writer:
        writer.add_scalar("salary", 1.0, 1)
    folder = run.path / which
    folder.rmdir()
    folder.symlink_to(private)
    invoke("report", "foreign", "-o", str(tmp_path / "page.html"), runs=tmp_path)
    text = (tmp_path / "page.html").read_text()
    assert "salary" not in text
    assert "passport" not in text
    assert "family" not in text
    secret = base64.b64encode(b"\x89PNG\r\n\x1a\nSECRET").decode()
    assert secret not in text
    assert f"Left out, because a link leads out of the run: {which}." in text
    invoke("report", "foreign", "--follow-links", "-o", str(tmp_path / "page.html"), runs=tmp_path)
    text = (tmp_path / "page.html").read_text()
    assert ("salary" if which == "tensorboard" else secret) in text
    assert "Left out" not in text


def test_results_that_tensorboard_shows_are_left_to_the_charts_of_evaluations(tmp_path):
    tag = "evaluation/fid (ode, n=2000)"
    run = written(tmp_path / "runs" / "mine")
    with SummaryWriter(str(run.tensorboard / "eval-12345678")) as board:
        for step in (10, 20):
            board.add_scalar(tag, float(step), step)
            board.add_scalar("other", float(step), step)
    target = tmp_path / "page.html"
    invoke("report", "mine", "-o", str(target), runs=run.path.parent)
    assert "eval-12345678: other" in target.read_text()
    assert tag not in target.read_text()
