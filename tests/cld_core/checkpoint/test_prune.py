"""Which checkpoints stay."""

from cld_core.checkpoint.prune import prune, set_aside
from cld_core.files import write_json
from tests.cld_core.checkpoint.conftest import fill


def test_later_checkpoints_are_set_aside_not_lost(run):
    fill(run, 10, 20, 30)
    assert set_aside(run, after=10) == [20, 30]
    assert run.checkpoint_steps() == [10]
    assert len(list((run.checkpoints / "set_aside").iterdir())) == 4


def test_a_checkpoint_that_an_evaluation_waits_for_is_kept(run):
    fill(run, 10, 20, 30)
    for step, done in ((10, False), (20, True)):
        folder = run.evals / f"elbo-{step}"
        folder.mkdir()
        write_json(folder / "request.json", {"checkpoint_step": step})
        if done:
            write_json(folder / "report.json", {})
    prune(run, keep=1)
    assert run.checkpoint_steps() == [10, 30]
