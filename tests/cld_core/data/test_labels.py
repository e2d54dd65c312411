"""Labels of CIFAR-10, of folders by class and of toy densities; and data without labels."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cld_core.classes import Classes, numbered
from cld_core.config.data import TOYS_WITHOUT_LABELS, Cifar10Spec, ImageDataSpec, ToyDataSpec
from cld_core.config.registry import SECTIONS
from cld_core.data import store, toy
from cld_core.data.cifar10 import CLASSES
from cld_core.data.prepare import prepare, verify
from cld_core.data.source import classes_of, source
from cld_core.data.store import LABELS, read_about
from cld_core.errors import DataError, UsageError
from cld_core.seeds import generator

from .formats import CIFAR_BATCHES, cifar_batch, cifar_rows, write_cifar_archive

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


@pytest.fixture
def cifar(tmp_path):
    batches = {name: cifar_batch(cifar_rows(7, seed)) for seed, name in enumerate(CIFAR_BATCHES)}
    archive = write_cifar_archive(tmp_path / "cifar-10-python.tar.gz", batches)
    prepare("cifar10", archive, tmp_path / "cifar", expect={})
    return tmp_path / "cifar"


def paint(root, counts, prefix=""):
    """Pictures of one colour in folders that are called so."""
    for name, count in counts.items():
        (root / prefix / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8), COLOURS[name]).save(root / prefix / name / f"{number:03d}.png")
    return root


def spec_of(path, **keys):
    return ImageDataSpec(path=str(path), size=8, labels=True, **keys)


def coloured(images, labels):
    """Whether images in [-1, 1] have the colours of their labels."""
    expected = torch.tensor([COLOURS[name] for name in sorted(COLOURS)])[labels].float() / 127.5 - 1
    return torch.allclose(images.mean((2, 3)), expected)


def test_cifar_batches_have_labels(cifar):
    about = read_about(cifar)
    assert about.classes == CLASSES
    train = store.find(cifar).labels("train")
    assert train.tolist() == [index for _ in range(5) for index in range(7)]
    assert verify(cifar) == about
    of = source(Cifar10Spec(path=str(cifar), labels=True))
    assert of.classes == Classes(CLASSES, (5.0,) * 7 + (0.0,) * 3)
    assert of.test_labels(0, 2, 5).tolist() == [2, 3, 4]


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("splits", [("",), ("train", "test"), ("wrapped/train", "wrapped/val")])
def test_folders_are_classes(tmp_path, splits, archived):
    for split in splits:
        paint(tmp_path / "all", {"red": 9, "green": 12, "blue": 5}, split)
    given = tmp_path / "all"
    if archived:
        given = tmp_path / "all.zip"
        shutil.make_archive(str(tmp_path / "all"), "zip", tmp_path / "all")
    about = prepare("folder", given, tmp_path / "set", size=8)
    assert about.classes == ("blue", "green", "red")
    of = source(spec_of(tmp_path / "set"))
    batch = (0, 0, 3, 16, slice(4, 12))
    x, labels = of.labelled_batch(*batch)
    assert coloured(x, labels)
    assert torch.equal(x, of.batch(*batch))
    n = about.splits["validation"].count
    assert coloured(of.test_data(0, 0, n), of.test_labels(0, 0, n))
    of.close()


def test_pictures_beside_folders_or_in_one_folder_have_no_classes(tmp_path):
    paint(tmp_path / "one", {"red": 30})
    assert prepare("folder", tmp_path / "one", tmp_path / "set1", size=8).classes == ()
    paint(tmp_path / "mixed", {"red": 20, "blue": 20})
    Image.new("RGB", (8, 8)).save(tmp_path / "mixed" / "more.png")
    assert prepare("folder", tmp_path / "mixed", tmp_path / "set2", size=8).classes == ()
    assert not (tmp_path / "set2" / LABELS).exists()


def test_a_set_without_labels_is_refused_where_they_are_needed(tmp_path):
    paint(tmp_path / "one", {"red": 30})
    prepare("folder", tmp_path / "one", tmp_path / "set", size=8)
    assert classes_of(source(replace(spec_of(tmp_path / "set"), labels=False))) is None
    for look in (store.require, lambda spec: classes_of(source(spec))):
        with pytest.raises(DataError, match="has no labels"):
            look(spec_of(tmp_path / "set"))


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_damaged_labels_are_found(tmp_path, damage):
    paint(tmp_path / "all", {"red": 20, "blue": 20})
    prepare("folder", tmp_path / "all", tmp_path / "set", size=8)
    path = tmp_path / "set" / LABELS
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-2] if damage == "cut" else content[:-8] + bytes([9]) * 8)
    for look in (
        lambda: verify(tmp_path / "set"),
        lambda: classes_of(source(spec_of(tmp_path / "set"))),
        lambda: prepare("folder", tmp_path / "all", tmp_path / "set", size=8),
    ):
        with pytest.raises(DataError, match=r"labels\.npy .* Remove .* and prepare it again"):
            look()


@pytest.mark.parametrize("name", ["diamond", "multimodal_swissroll"])
def test_a_toy_label_is_that_of_the_mode(name):
    density = toy.get(name)
    x = density.sample(9000, generator("labels"))
    label = density.label(x)
    count = {"diamond": 9, "multimodal_swissroll": 5}[name]
    assert len(density.classes) == count
    assert np.bincount(label.numpy()) == pytest.approx([9000 / count] * count, rel=0.15)
    # The points of a class are close together.
    widths = torch.stack([x[label == number].std(0) for number in range(count)])
    assert widths.max() < 0.1


def test_recipes_know_which_toys_have_labels():
    toys = [
        name for name, variant in SECTIONS["data"].variants.items() if variant.spec is ToyDataSpec
    ]
    assert {name for name in toys if toy.get(name).classes is None} == set(TOYS_WITHOUT_LABELS)


def test_a_toy_with_labels_needs_their_probabilities():
    with pytest.raises(DataError, match="has only one of `label` and `classes`"):
        toy.toy("half", label=lambda x: x[:, 0] > 0)


def test_toy_data_without_labels_cannot_have_them():
    with pytest.raises(DataError, match=r"have no labels\. Set data\.labels=false"):
        source(ToyDataSpec(name=TOYS_WITHOUT_LABELS[0], labels=True))


def test_labels_of_toys_follow_their_points():
    of = source(ToyDataSpec(name="diamond", labels=True))
    batch = (1, 0, 5, 64, slice(10, 20))
    x, label = of.labelled_batch(*batch)
    assert torch.equal(x, of.batch(*batch))
    assert torch.equal(label, toy.get("diamond").label(x))
    assert torch.equal(of.test_labels(3, 40, 50), toy.get("diamond").label(of.test_data(3, 40, 50)))


ANIMALS = Classes(("cat", "dog", "7"), (1.0, 2.0, 5.0))


@pytest.mark.parametrize(
    ("label", "index"), [("cat", 0), ("dog", 1), (1, 1), ("1", 1), ("7", 2), (2, 2)]
)
def test_a_label_is_a_name_or_a_number_and_names_come_first(label, index):
    assert ANIMALS.index(label) == index


def test_labels_of_many_examples():
    assert ANIMALS.each("dog", 3) == [1, 1, 1]
    assert ANIMALS.each(["dog", 0, "7"], 3) == [1, 0, 2]
    with pytest.raises(UsageError, match="2 labels for 3 examples"):
        ANIMALS.each([0, 1], 3)
    with pytest.raises(UsageError, match=r"a number or the name of a class, not 1\.5"):
        ANIMALS.each(1.5, 3)


def test_drawn_labels_have_the_frequencies_and_depend_on_their_number_alone():
    drawn = ANIMALS.drawn(0, 8000)
    assert [drawn.count(label) for label in range(3)] == pytest.approx([1000, 2000, 5000], abs=3)
    assert ANIMALS.drawn(123, 456) == drawn[123:456]
    even = numbered([1 / 9] * 9).drawn(0, 90)
    assert [even.count(label) for label in range(9)] == pytest.approx([10] * 9, abs=2)


@pytest.mark.parametrize(
    ("names", "weights"),
    [(("a",), ()), (("a", "a"), (1, 1)), (("a\x1b[0m",), (1,)), (("",), (1,)), (("a",), (0,))],
)
def test_impossible_classes_are_refused(names, weights):
    with pytest.raises(ValueError):
        Classes(names, weights)
