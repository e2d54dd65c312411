"""Toy densities; labels: of CIFAR-10's batches, of folders by class, of toy densities; and data that have none."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cld_core.classes import Classes, numbered
from cld_core.codec import from_plain, to_plain
from cld_core.config import load
from cld_core.config.data import TOYS_WITHOUT_LABELS, Cifar10Spec, ImageDataSpec, ToyDataSpec
from cld_core.config.registry import SECTIONS
from cld_core.data import store, toy
from cld_core.data.cifar10 import CLASSES
from cld_core.data.prepare import prepare, verify
from cld_core.data.source import classes_of, source
from cld_core.data.store import LABELS, read_about
from cld_core.data.toy import ToySource
from cld_core.errors import DataError, UsageError
from cld_core.seeds import generator
from tests.support.paths import TOY

from .formats import CIFAR_BATCHES, cifar_batch, cifar_rows, write_cifar_archive

TOY_DATA = [name for name, variant in SECTIONS["data"].variants.items() if variant.spec is ToyDataSpec]


def draws(name, n=4000):
    return toy.get(name).sample(n, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", TOY_DATA)
def test_samples(name):
    x = draws(name, 100)
    assert x.shape == (100, *toy.get(name).data_shape)
    assert x.dtype == torch.float32
    assert torch.equal(x, draws(name, 100))


@pytest.mark.parametrize("name", TOY_DATA)
def test_mean_log_density_of_samples_is_minus_the_entropy(name):
    density = toy.get(name)
    logp = density.log_density(draws(name))
    assert logp.dtype == torch.float64
    assert float(logp.mean()) == pytest.approx(-density.entropy(), abs=4 * float(logp.std()) / len(logp) ** 0.5)


@pytest.mark.parametrize(("name", "reach", "step"), [("diamond", 1.0, 0.01), ("gaussian", 4.0, 0.1)])
def test_density_integrates_to_one(name, reach, step):
    axis = torch.arange(-reach, reach, step, dtype=torch.float64)
    p = toy.get(name).log_density(torch.cartesian_prod(axis, axis)).exp()
    assert float(p.sum()) * step**2 == pytest.approx(1.0, abs=1e-9)


def test_a_roll_holds_a_fifth_of_the_mass():
    step = 0.0015  # three quarters of the noise's std: the trapezoid rule is exact to 1e-10
    axis = torch.arange(-0.17, 0.17, step, dtype=torch.float64)
    centre = torch.tensor([0.8, -0.8], dtype=torch.float64)
    p = toy.get("multimodal_swissroll").on_grid(axis + centre[0], axis + centre[1])
    assert float(p.sum()) * step**2 == pytest.approx(0.2, abs=1e-9)


def test_on_a_grid_the_density_is_the_same():
    roll = toy.get("multimodal_swissroll")
    x, y = (torch.linspace(low, high, 120, dtype=torch.float64) for low, high in ((0.6, 1.0), (-1.0, -0.6)))
    points = roll.log_density(torch.cartesian_prod(x, y)).exp().reshape(120, 120)
    assert float(points.max()) > 1.0
    torch.testing.assert_close(roll.on_grid(x, y), points, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["diamond", "multimodal_swissroll"])
def test_the_log_density_of_a_class_is_that_of_all_cut_off_and_scaled(name):
    known, x = toy.get(name), draws(name)
    label = known.label(x)
    exact, cut = known.log_density_of(2), replace(known, given=None).log_density_of(2)
    torch.testing.assert_close(exact(x)[label == 2], cut(x)[label == 2], rtol=0, atol=1e-6)
    assert torch.isfinite(exact(x)).all()
    assert (cut(x)[label != 2] == -math.inf).all()
    assert known.log_density_of(None) is known.log_density
    assert replace(known, given=None, log_density=None).log_density_of(2) is None


def test_true_entropies():
    # Nine disjoint Gaussians: 1e-8 is their overlap.
    nine = math.log(9) + math.log(2 * math.pi * math.e * 0.04**2)
    assert toy.get("diamond").entropy() == pytest.approx(nine, abs=1e-8)
    assert toy.get("diamond").entropy() == pytest.approx(-1.399, abs=5e-3)  # a Monte Carlo value of it
    assert toy.get("multimodal_swissroll").entropy() == pytest.approx(-3.337359, abs=1e-6)


def test_swiss_roll_quadrature_has_converged(monkeypatch):
    x = draws("multimodal_swissroll", 200)
    coarse = toy.get("multimodal_swissroll").log_density(x)
    monkeypatch.setattr(toy, "_ROLL_PANELS", 200)
    toy._roll.cache_clear()
    fine = toy.get("multimodal_swissroll").log_density(x)
    toy._roll.cache_clear()
    torch.testing.assert_close(coarse, fine, rtol=0, atol=1e-11)


def test_unknown_name_lists_what_there_is():
    with pytest.raises(DataError, match=r"no toy data 'diamont'.*multimodal_swissroll.*Did you mean 'diamond'\?"):
        toy.get("diamont")
    with pytest.raises(DataError, match="`plugins`"):
        toy.get("zzz")


PLUGIN = """
import torch
from cld_core.data.toy import toy

@toy("{name}", entropy=lambda: 0.0)
def square(n, generator):
    return torch.rand(n, 2, generator=generator)
"""


def recipe_with(plugin, name):
    return load(TOY, [f"plugins={plugin}", f"data.name={name}"])


def test_plugin_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN.format(name="test_square"))
    for _ in range(2):  # importing it twice is no conflict
        assert recipe_with(path, "test_square").data == ToyDataSpec(name="test_square")
    density = toy.get("test_square")
    assert density.sample(3, torch.Generator()).shape == (3, 2)
    assert density.log_density is None
    assert density.entropy() == 0.0


def test_plugin_module(tmp_path, monkeypatch):
    (tmp_path / "toy_plugin_for_test.py").write_text(PLUGIN.format(name="test_module"))
    monkeypatch.syspath_prepend(tmp_path)
    recipe_with("toy_plugin_for_test", "test_module")
    assert toy.get("test_module").name == "test_module"


def test_data_of_another_shape_are_refused(tmp_path):
    path = tmp_path / "solid.py"
    path.write_text(PLUGIN.format(name="test_solid").replace("2", "3"))
    drawn = ToySource(recipe_with(path, "test_solid").data)
    with pytest.raises(DataError, match=r"'test_solid' returned shape \(8, 3\) for n = 8, not \(8, 2\)"):
        drawn.batch(0, 0, 0, 8, slice(0, 8))


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
    train = store.read_labels(cifar, about, "train")
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
    x, labels = of.labelled_batch(0, 0, 3, 16, slice(4, 12))
    assert coloured(x, labels)
    assert torch.equal(x, source(spec_of(tmp_path / "set")).batch(0, 0, 3, 16, slice(4, 12)))
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
    for look in (lambda: verify(tmp_path / "set"), lambda: classes_of(source(spec_of(tmp_path / "set")))):
        with pytest.raises(DataError, match=r"labels\.npy .* Copy or prepare the data again"):
            look()


@pytest.mark.parametrize("name", ["diamond", "multimodal_swissroll"])
def test_a_toy_label_is_that_of_the_mode(name):
    density = toy.get(name)
    x = density.sample(9000, generator("labels"))
    label = density.label(x)
    count = {"diamond": 9, "multimodal_swissroll": 5}[name]
    assert len(density.classes) == count
    counts = np.bincount(label.numpy(), minlength=count)
    assert counts == pytest.approx([9000 / count] * count, rel=0.15)
    # Within a class the points are close together, and their entropy is less by that of the class.
    widths = torch.stack([x[label == number].std(0) for number in range(count)])
    assert widths.max() < 0.1


def test_recipes_know_which_toys_have_labels():
    toys = [name for name, variant in SECTIONS["data"].variants.items() if variant.spec is ToyDataSpec]
    assert {name for name in toys if toy.get(name).classes is None} == set(TOYS_WITHOUT_LABELS)


def test_a_toy_with_labels_needs_their_probabilities():
    with pytest.raises(DataError, match="has only one of `label` and `classes`"):
        toy.toy("half", label=lambda x: x[:, 0] > 0)


def test_toy_data_without_labels_cannot_have_them():
    with pytest.raises(DataError, match=r"have no labels\. Set data\.labels=false"):
        source(ToyDataSpec(name=TOYS_WITHOUT_LABELS[0], labels=True))


def test_labels_of_toys_follow_their_points():
    of = source(ToyDataSpec(name="diamond", labels=True))
    x, label = of.labelled_batch(1, 0, 5, 64, slice(10, 20))
    assert torch.equal(x, of.batch(1, 0, 5, 64, slice(10, 20)))
    assert torch.equal(label, toy.get("diamond").label(x))
    assert torch.equal(of.test_labels(3, 40, 50), toy.get("diamond").label(of.test_data(3, 40, 50)))


ANIMALS = Classes(("cat", "dog", "7"), (1.0, 2.0, 5.0))


@pytest.mark.parametrize(("label", "index"), [("cat", 0), ("dog", 1), (1, 1), ("1", 1), ("7", 2), (2, 2)])
def test_a_label_is_a_name_or_a_number_and_names_come_first(label, index):
    assert ANIMALS.index(label) == index


def test_labels_of_many_examples():
    assert ANIMALS.each("dog", 3) == [1, 1, 1]
    assert ANIMALS.each(["dog", 0, "7"], 3) == [1, 0, 2]
    with pytest.raises(UsageError, match="2 labels for 3 examples"):
        ANIMALS.each([0, 1], 3)
    with pytest.raises(UsageError, match=r"a label is a number or the name of a class, not 1\.5"):
        ANIMALS.each(1.5, 3)


def test_drawn_labels_have_the_frequencies_and_depend_on_their_number_alone():
    drawn = ANIMALS.drawn(0, 8000)
    assert [drawn.count(label) for label in range(3)] == pytest.approx([1000, 2000, 5000], abs=3)
    assert ANIMALS.drawn(123, 456) == drawn[123:456]
    even = numbered([1 / 9] * 9).drawn(0, 90)
    assert [even.count(label) for label in range(9)] == pytest.approx([10] * 9, abs=2)


def test_what_files_say_of_classes_is_checked():
    assert from_plain(Classes, to_plain(ANIMALS)) == ANIMALS
    bad = [
        None,
        {"names": ["a"], "weights": []},
        {"names": ["a", "a"], "weights": [1, 1]},
        {"names": ["a", "b"], "weights": [1, float("nan")]},
        {"names": ["a", "b"], "weights": [1, True]},
        {"names": ["a\x1b[0m"], "weights": [1]},
        {"names": [""], "weights": [1]},
    ]
    for content in bad:
        with pytest.raises(ValueError):
            from_plain(Classes, content)
