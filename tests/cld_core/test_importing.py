"""A published checkpoint becomes a run: recorded as attempt 0, and kept for good."""

from pathlib import Path

import pytest
import torch

from cld_core.config import load
from cld_core.errors import SaveError, UsageError
from cld_core.importing import ImportedRun, import_published
from cld_core.ranks import Ranks
from cld_core.run import events
from cld_core.stop import StopFlag
from cld_core.train import session
from cld_core.train.step import Trainer
from tests.support.paths import RECIPES

SMALL = ("network.width=8", "network.layers=2", "train.batch_size=4", "train.checkpoint_every=10", "train.keep=1")


def published(path: Path, step: int) -> Path:
    """A checkpoint in the published layout of the toy's network, after one optimiser step."""
    trainer = Trainer(load(RECIPES / "toy.yaml", SMALL), Ranks())
    trainer.step(0)
    state = trainer.state_dict()
    content = {
        "step": step,
        "model": {f"module.{name}": tensor for name, tensor in state["model"].items()},
        "ema": {"shadow_params": list(state["ema"]["average"].values()), "num_updates": step},
        "optimizer": state["optimiser"],
    }
    torch.save(content, path)
    return path


def made(tmp_path: Path, step: int, *overrides: str) -> ImportedRun:
    recipe = load(RECIPES / "toy.yaml", [*SMALL, *overrides])
    file = published(tmp_path / "checkpoint_20.pth", step)
    return import_published(file, recipe, tmp_path / "runs" / "mine", {"created": 1.0})


def test_an_import_is_attempt_0_and_the_run_continues_as_attempt_1(tmp_path):
    run = made(tmp_path, 20, "train.steps=50")
    assert run.step == 20
    assert run.parameters == sum(tensor.numel() for tensor in Trainer(run.folder.recipe(), Ranks()).net.parameters())
    assert run.folder.identity()["imported"] == str(tmp_path / "checkpoint_20.pth")
    (imported,) = run.folder.ledger.events()
    assert imported == events.Imported(time=imported.time, step=20, source="checkpoint_20.pth")
    assert (run.folder.progress()["attempt"], run.folder.progress()["step"]) == (0, 20)
    assert session.run(run.folder, Ranks(), StopFlag(), job_id="test").step == 50
    attempts = run.folder.ledger.history().attempts
    assert [(entry.attempt, entry.first_step, entry.cause) for entry in attempts] == [
        (0, 20, "imported"),
        (1, 20, "finished"),
    ]
    assert run.folder.checkpoint_steps() == [20, 50], "what came from elsewhere cannot be computed again"


def test_a_checkpoint_of_the_last_step_makes_a_finished_run(tmp_path):
    run = made(tmp_path, 20, "train.steps=20")
    assert [entry.cause for entry in run.folder.ledger.history().attempts] == ["finished"]
    assert session.run(run.folder, Ranks(), StopFlag(), job_id="test") == session.SessionResult("finished", 20)


def test_a_checkpoint_later_than_the_recipes_end_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(UsageError, match=r"is of step 20, later than train\.steps=10\. Add train\.steps=20"):
        made(tmp_path, 20, "train.steps=10")
    assert not (tmp_path / "runs").exists()


def test_nothing_is_left_of_an_import_that_cannot_be_written(tmp_path, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    save = torch.save
    monkeypatch.setattr("torch.save", lambda content, to: save(content, to) if isinstance(to, Path) else full())
    with pytest.raises(SaveError, match="no space left on the disk"):
        made(tmp_path, 20)
    assert list((tmp_path / "runs").iterdir()) == []
