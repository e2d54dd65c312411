import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cld_core.data import folder as folder_module
from cld_core.data.prepare import members, prepare, verify
from cld_core.data.store import read_about
from cld_core.errors import DataError, UsageError
from tests.support.images import pixels_of


def picture(width, height, seed=0, mode="RGB"):
    size = width * height * len(mode)
    return Image.frombytes(mode, (width, height), np.random.default_rng(seed).bytes(size))


@pytest.fixture
def source(tmp_path):
    """Twenty pictures of 40 x 32 pixels, beside other files."""
    (tmp_path / "pictures" / "more").mkdir(parents=True)
    for name in ("README.txt", ".hidden.png"):
        (tmp_path / "pictures" / name).write_text("no picture")
    for number in range(20):
        place = "more/" if number % 3 else ""
        picture(40, 32, number).save(tmp_path / "pictures" / f"{place}{number:02d}.png")
    return tmp_path / "pictures"


def images(path, split="train"):
    return pixels_of(path, split, size=read_about(path).size).transpose(0, 2, 3, 1)


def prepared(folder, out="out", **keys):
    """The pictures in `p`, all of them for training."""
    return prepare("folder", folder / "p", folder / out, split=0, **{"size": 8, **keys})


def names_of(source, split, validation):
    plan = folder_module._splits(members(source, ""), validation)
    return {Path(picture.name).name for picture in plan[split]}


def test_archives_and_folder_give_the_same(source, tmp_path):
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for path in source.rglob("*.png"):
            archive.write(path, path.relative_to(source))
        archive.writestr("__MACOSX/._00.png", b"not a picture")
    with tarfile.open(tmp_path / "pictures.tar", "w") as archive:
        archive.add(source, ".")
    of_folder = prepare("folder", source, tmp_path / "out", size=16, split=0.3)
    for archive in ("pictures.zip", "pictures.tar"):
        made = prepare(
            "folder", tmp_path / archive, tmp_path / f"out of {archive}", size=16, split=0.3
        )
        assert made.splits == of_folder.splits


def test_the_middle_square_is_kept(tmp_path):
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = (10, 200, 30)
    (tmp_path / "p").mkdir()
    Image.fromarray(wide).save(tmp_path / "p" / "wide.png")
    Image.fromarray(wide.transpose(1, 0, 2).copy()).save(tmp_path / "p" / "tall.png")
    prepared(tmp_path, size=10)
    made = images(tmp_path / "out")
    # The filter reaches three pixels over the border.
    assert (made[:, 3:-3, 3:-3] == (10, 200, 30)).all()
    assert (made.mean(axis=(1, 2)) > (8, 180, 24)).all()


def test_upright_opaque_and_of_three_channels(tmp_path):
    (tmp_path / "p").mkdir()
    half = np.zeros((8, 8, 3), np.uint8)
    half[:4] = 255
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    Image.fromarray(half).save(tmp_path / "p" / "0.png", exif=turned)
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "p" / "1.png")
    Image.new("L", (8, 8), 77).save(tmp_path / "p" / "2.png")
    Image.new("P", (8, 8), 0).save(tmp_path / "p" / "3.gif")
    picture(8, 8, mode="CMYK").save(tmp_path / "p" / "4.jpg")
    prepared(tmp_path)
    made = images(tmp_path / "out")
    assert (made[0] == half[::-1]).all()
    assert (made[1] == 255).all()
    assert (made[2] == 77).all()
    assert len(made) == 5


def grey_pictures(folder):
    """Three pictures of 8 x 8 pixels, of all modes that grey pictures are stored in."""
    folder.mkdir()
    Image.new("L", (8, 8), 77).save(folder / "0.png")
    Image.new("LA", (8, 8), (77, 0)).save(folder / "1.png")
    Image.new("1", (8, 8), 0).save(folder / "2.png")
    return folder


def test_grey_pictures_stay_grey(tmp_path):
    grey_pictures(tmp_path / "p")
    grey = prepared(tmp_path, size=4)
    assert grey.channels == 1
    assert grey.shape == (3, 1, 4, 4)
    assert grey.words == "grey images of 4x4"
    assert images(tmp_path / "out")[:, 0, 0, 0].tolist() == [77, 255, 0]
    assert verify(tmp_path / "out") == grey


def test_one_picture_with_colours_makes_all_of_them_coloured_unless_told_otherwise(tmp_path):
    picture(8, 8).save(grey_pictures(tmp_path / "p") / "3.png")
    coloured = prepared(tmp_path, "a")
    assert coloured.shape == (4, 3, 8, 8)
    assert (images(tmp_path / "a")[0] == 77).all()
    grey = prepared(tmp_path, "b", channels=1)
    assert grey.shape == (4, 1, 8, 8)
    with pytest.raises(
        DataError, match=r"already holds grey images of 8x8 \(folder\).*Remove that folder"
    ):
        prepared(tmp_path, "b")


def test_colours_that_come_later_make_an_unfinished_preparation_begin_again(tmp_path):
    bad = grey_pictures(tmp_path / "p") / "3.png"
    bad.write_bytes(b"hello")
    with pytest.raises(DataError, match=r"3\.png cannot be used.*finished part is kept"):
        prepared(tmp_path)
    picture(8, 8).save(bad)
    about = prepared(tmp_path)
    assert about.shape == (4, 3, 8, 8)
    assert (images(tmp_path / "out")[0] == 77).all()


def test_a_bad_picture_may_simply_be_removed(source, tmp_path):
    bad = source / "more" / "11.png"
    bad.write_bytes(b"hello")
    with pytest.raises(DataError, match="cannot be used"):
        prepare("folder", source, tmp_path / "out", size=8, split=0.4)
    bad.unlink()
    made = prepare("folder", source, tmp_path / "out", size=8, split=0.4)
    assert sum(info.count for info in made.splits.values()) == 19
    assert made.splits == prepare("folder", source, tmp_path / "afresh", size=8, split=0.4).splits


def test_a_split_depends_on_the_name_alone(source):
    before = names_of(source, "validation", 0.4)
    assert 2 <= len(before) <= 14
    for name in ("07.png", "10.png"):
        (source / "more" / name).unlink()
    assert names_of(source, "validation", 0.4) == before - {"07.png", "10.png"}
    assert names_of(source, "validation", 0.2) <= before


def test_folders_that_name_splits(source, tmp_path):
    (source / "more").rename(source / "train")
    (source / "val").mkdir()
    for path in source.glob("*.png"):
        path.rename(source / "val" / path.name)
    about = prepare("folder", source, tmp_path / "a", size=8)
    counts = {split: info.count for split, info in about.splits.items()}
    assert counts == {"train": 13, "validation": 7}
    wrapped = prepare("folder", source.parent, tmp_path / "b", size=8)
    assert wrapped.splits == about.splits

    mixed = prepare("folder", source, tmp_path / "c", size=8, split=0.5)
    assert mixed.splits != about.splits
    (source / "val" / "00.png").rename(source / "00.png")
    with pytest.raises(DataError, match=r"pictures in 00.png.*--split"):
        prepare("folder", source, tmp_path / "d", size=8)


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("folder", {}, "--size"),
        ("folders", {"size": 8}, "Did you mean .folder"),
        ("folder", {"size": 0}, "1 to 4096 pixels, not 0"),
        ("folder", {"size": 8, "split": 1.0}, r"\[0, 1\)"),
        ("folder", {"size": 8, "channels": 2}, "1 channel or 3, not 2"),
        ("cifar10", {"size": 64}, "have 32 pixels a side, not 64"),
        ("cifar10", {"split": 0.1}, "its own validation"),
        ("cifar10", {"channels": 1}, "its own channels"),
    ],
)
def test_wrong_usage(source, tmp_path, name, options, match):
    with pytest.raises(UsageError, match=match):
        prepare(name, source, tmp_path / "out", **options)
