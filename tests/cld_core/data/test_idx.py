"""The idx files of MNIST and Fashion-MNIST."""

import gzip

import numpy as np
import pytest

from cld_core.data import idx as files
from cld_core.data.idx import FASHION_CLASSES, NAMES
from cld_core.data.prepare import prepare
from cld_core.data.store import blake2b, find
from cld_core.errors import DataError, WrongSourceError
from tests.support.images import pixels_of

SIZE = 4
TRAIN = np.random.default_rng(0).integers(0, 256, (7, SIZE, SIZE), dtype=np.uint8)
TEST = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE), dtype=np.uint8)
LABELS = {"train": [0, 1, 2, 0, 1, 2, 2], "t10k": [2, 0, 1]}


def idx(array, code=8):
    """An idx file of unsigned bytes, after its description on the page of MNIST."""
    array = np.asarray(array, np.uint8)
    sides = np.array(array.shape, ">u4")
    return bytes((0, 0, code, array.ndim)) + sides.tobytes() + array.tobytes()


IMAGES = "train-images-idx3-ubyte"
NUMBERS = "train-labels-idx1-ubyte"
TESTS = "t10k-images-idx3-ubyte.gz"


@pytest.fixture
def source(tmp_path):
    """A folder with the four files, two of them compressed."""
    (tmp_path / IMAGES).write_bytes(idx(TRAIN))
    (tmp_path / NUMBERS).write_bytes(idx(LABELS["train"]))
    (tmp_path / TESTS).write_bytes(gzip.compress(idx(TEST)))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS["t10k"])))
    return tmp_path


def prepared(source):
    return prepare("idx", source, source / "out")


def test_images_and_labels_arrive_in_order(source):
    about = prepared(source)
    assert (about.name, about.shape, about.classes) == ("idx", (10, 1, SIZE, SIZE), ("0", "1", "2"))
    for split, images, file in (("train", TRAIN, "train"), ("validation", TEST, "t10k")):
        assert (pixels_of(source / "out", split, name="idx", size=None)[:, 0] == images).all()
        assert find(source / "out").labels(split).tolist() == LABELS[file]
    assert prepared(source) == about


def test_names_with_dots_and_a_file_of_class_names(source):
    (source / IMAGES).rename(source / "train-images.idx3-ubyte")
    (source / NAMES).write_text("cat\ndog\n\nT-shirt/top\n")
    assert prepared(source).classes == ("cat", "dog", "T-shirt/top")
    (source / NAMES).write_text("cat\ndog\n")
    with pytest.raises(DataError, match=rf"up to 2 for 7 images in 2 classes.*correct {NAMES}"):
        prepare("idx", source, source / "other")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        (IMAGES, idx(TRAIN)[:-1], r"size 111 into shape \(7, ?4, ?4\)"),
        (IMAGES, idx(TRAIN) + b"x", "size 113 into shape"),
        (IMAGES, b"", "not a complete idx file.*Fetch it again"),
        (IMAGES, idx(LABELS["train"]), "begins with 00000801, not 00000803"),
        (IMAGES, idx(np.zeros((7, 4, 5))), "images of 5 x 4 pixels.*Only square"),
        (NUMBERS, idx(LABELS["train"], code=13), "idx file .*begins with 00000d01"),
        (NUMBERS, idx([0] * 6), "has 6 labels up to 0 for 7 images"),
        (TESTS, gzip.compress(idx(TEST), mtime=0)[:-9], "t10k-images.*complete"),
        (TESTS, gzip.compress(idx(np.zeros((3, 8, 8))), mtime=0), "8 x 8 pixels, where 4 x 4 are"),
    ],
    ids=range(9),
)
def test_damaged_files(source, name, content, match):
    (source / name).write_bytes(content)
    with pytest.raises(DataError, match=match):
        prepared(source)
    assert not (source / "out").exists()


def test_missing_files_and_too_many(source, tmp_path):
    (source / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"has no t10k-labels-idx1-ubyte \(or \.gz\)"):
        prepared(source)
    (source / "more").mkdir()
    (source / "more" / "t10k-labels-idx1-ubyte").write_bytes(idx(LABELS["t10k"]))
    with pytest.raises(DataError, match=r"in several folders \(\., more\)"):
        prepared(source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(WrongSourceError, match="has no train-images"):
        prepare("idx", tmp_path / "empty", source / "out")


def test_the_classes_of_fashion_mnist_have_names(source, monkeypatch):
    monkeypatch.setattr(files, "_FASHION", blake2b(np.array(LABELS["train"], np.uint8)))
    assert prepared(source).classes == FASHION_CLASSES
