"""What "Did you mean" offers."""

import pytest

from cld_core.config import describe
from cld_core.errors import did_you_mean, nearest


@pytest.mark.parametrize(
    ("word", "close"),
    [
        ("train.stepz", "train.steps"),
        ("trian.steps", "train.steps"),
        ("nfe", "sampling.nfe"),
        ("cluster.gpu", "cluster.gpus_per_node"),
        ("optm", "optim"),
        ("network.zzzz", None),
        ("network.", "network.name"),
        ("xyzzy", None),
    ],
)
def test_a_key_is_near_by_its_name_and_not_by_its_section(word, close):
    found = nearest(word, [*describe.keys(), *filter(None, describe.sections())])
    assert found == close or (word == "network." and found.startswith("network."))


def test_names_are_near_if_they_are_alike():
    assert did_you_mean("slrm", ["slurm", "local"]) == " Did you mean 'slurm'?"
    assert nearest("toy-0102", ["toy-0102-101112-ab12", "other"]) == "toy-0102-101112-ab12"
    assert nearest("", ["one"]) is None
    assert nearest("one", []) is None
    assert nearest("x" * 10_000, ["one", "two"]) is None
