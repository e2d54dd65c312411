"""Training with labels: which examples keep theirs, and that everything else stays repeatable."""

import math

import pytest
import torch

from cld_core.config import load
from cld_core.errors import CheckpointError, DataError
from cld_core.ranks import Ranks
from cld_core.train.step import Trainer
from tests.support.images import clone
from tests.support.paths import RECIPES

SMALL = ("network.width=16", "network.layers=3", "train.batch_size=12", "data.labels=true")


def trainer(*overrides, noise_key=0):
    return Trainer(load(RECIPES / "toy_diamond.yaml", [*SMALL, *overrides]), Ranks(), noise_key)


def trained(steps, *overrides):
    made = trainer(*overrides)
    for step in range(steps):
        made.step(step)
    return made


@pytest.mark.parametrize(
    "overrides",
    [
        ("network.name=resnet", "network.width=8", "network.layers=2"),
        ("train.precision=fp16", "sde.name=vpsde", "objective.name=dsm", "objective.mixed_score=true"),
    ],
    ids=lambda overrides: " ".join(overrides),
)
def test_training_with_labels_lowers_the_loss(overrides):
    names = {text.split("=")[0] for text in overrides}
    small = [text for text in SMALL if text.split("=")[0] not in names | {"train.batch_size"}]
    made = Trainer(
        load(RECIPES / "toy_diamond.yaml", [*small, "train.batch_size=64", "optim.lr=0.01", *overrides]), Ranks()
    )
    losses = []
    for block in range(2):
        for step in range(80 * block, 80 * block + 80):
            made.step(step)
        losses.append(made.take_scalars()["loss"])
    assert all(map(math.isfinite, losses))
    assert losses[1] < losses[0]


def test_the_share_of_examples_without_a_label_is_that_of_the_recipe():
    made = trainer("train.batch_size=4000", "objective.label_dropout=0.25")
    x, label = made._examples(0, slice(0, 4000))
    free = label == 9
    assert float(free.double().mean()) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(label[~free], made.source._labels(x)[~free])
    _, part = made._examples(0, slice(1000, 1500))
    assert torch.equal(part, label[1000:1500])
    assert not torch.equal(made._examples(1, slice(0, 4000))[1] == 9, free)


def test_labels_change_neither_the_data_nor_the_noise():
    """Dropping all labels, a network whose embedding is fixed sees what one without labels sees."""
    labelled, plain = trainer(), trainer("data.labels=false")
    assert torch.equal(labelled._examples(3, slice(0, 12))[0], plain._examples(3, slice(0, 12))[0])
    assert plain._examples(3, slice(0, 12))[1] is None
    assert "classes" not in plain.state_dict()


def test_a_checkpoint_of_other_classes_is_refused():
    state = clone(trained(1).state_dict())
    state["classes"] = {**state["classes"], "names": [f"mode {number}" for number in range(9)]}
    with pytest.raises(CheckpointError, match=r"the classes of the data are others .*: mode 0, mode 1"):
        trainer().load_state_dict(state)


def test_toy_data_without_labels_cannot_have_them(tmp_path):
    plain = tmp_path / "plain.py"
    plain.write_text(
        "import torch\nfrom cld_core.data.toy import toy\n\n\n@toy('unlabelled_for_tests')\n"
        "def plain(n, generator):\n    return torch.randn(n, 2, generator=generator)\n"
    )
    with pytest.raises(DataError, match=r"have no labels\. Set data\.labels=false"):
        trainer("data.name=unlabelled_for_tests", f"plugins={plain}")
