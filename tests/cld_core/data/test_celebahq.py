import os
import pickle
import sys
import tarfile
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from cld_core.data import celebahq, cifar10
from cld_core.data.prepare import build, prepare, verify
from cld_core.data.store import partial_path
from cld_core.errors import DataError, UsageError, WrongSourceError
from tests.support.crafted import Crafted
from tests.support.images import pixels_of

from . import formats

SIZE = 16
COUNTS = {"train": 11, "validation": 4}
SHARDS = {"train": 4, "validation": 2}


@pytest.fixture
def images(monkeypatch):
    monkeypatch.setattr(celebahq, "SIZE", SIZE)
    return {
        split: formats.celebahq_images(count, SIZE, seed=count) for split, count in COUNTS.items()
    }


@pytest.fixture
def source(tmp_path, images):
    formats.write_celebahq(tmp_path / "celeba-tfr", images, SHARDS, SIZE)
    return tmp_path / "celeba-tfr"


@pytest.fixture
def lmdbs(tmp_path, images):
    for split, some in images.items():
        formats.write_lmdb(tmp_path / "celeba-lmdb" / f"{split}.lmdb", some)
    return tmp_path / "celeba-lmdb"


@pytest.fixture
def whole(source, tmp_path):
    """A preparation that nothing disturbed."""
    return build(plan(source), tmp_path / "undisturbed")


def plan(source, expect=COUNTS):
    return replace(celebahq.plan_celebahq(source), expect=expect)


def shard(source, index, split="train"):
    return source / split / f"{split}-r04-s-{index:04d}-of-{SHARDS[split]:04d}.tfrecords"


def fails(source, out, match):
    """The preparation fails, leaves nothing that looks complete, and says what it keeps."""
    with pytest.raises(DataError, match=match) as caught:
        build(plan(source), out)
    assert not out.exists()
    return str(caught.value)


def archived(source, mode="w"):
    path = source.with_name(f"celeba-tfr.tar{mode[1:].replace(':', '.')}")
    with tarfile.open(path, mode) as archive:
        for shard in sorted(source.rglob("*.tfrecords"), reverse=True):
            archive.add(shard, arcname=shard.relative_to(source.parent))
    return path


def counts_of(about):
    return {split: info.count for split, info in about.splits.items()}


def test_every_image_arrives_in_order(source, images, tmp_path):
    seen = []
    about = build(plan(source), tmp_path / "out", lambda part, *counts: seen.append(counts))
    assert counts_of(about) == COUNTS
    for split, expected in images.items():
        got = pixels_of(tmp_path / "out", split, name=f"celebahq{SIZE}", size=SIZE)
        assert np.array_equal(got.transpose(0, 2, 3, 1), expected)
    assert verify(tmp_path / "out") == about
    assert sorted(os.listdir(tmp_path / "out")) == ["about.json", "images.npy"]
    assert seen == [(count, 15) for count in (3, 6, 9, 11, 13, 15)]


def test_archive_and_lmdb_files_give_the_same_images_as_the_folder(source, lmdbs, whole, tmp_path):
    made = build(plan(archived(source)), tmp_path / "of-tar")
    assert (made.splits, made.source_digest) == (whole.splits, whole.source_digest)
    assert build(plan(lmdbs), tmp_path / "of-lmdb").splits == whole.splits


def test_published_size_through_prepare(tmp_path):
    images = {"train": formats.celebahq_images(3, 256)}
    images["validation"] = formats.celebahq_images(1, 256, seed=1)
    formats.write_celebahq(tmp_path / "tfr", images, {"train": 2, "validation": 1}, 256)
    about = prepare("celebahq256", tmp_path / "tfr", tmp_path / "out", expect={"train": 3})
    assert (about.name, about.size) == ("celebahq256", 256)
    with pytest.raises(DataError, match=r"train has 3 images, but 27000 are expected"):
        prepare("celebahq256", tmp_path / "tfr", tmp_path / "official")


def test_a_cut_shard_keeps_those_before_it(source, whole, tmp_path):
    out = tmp_path / "out"
    content = shard(source, 2).read_bytes()
    shard(source, 2).write_bytes(content[:-100])
    message = fails(
        source, out, r"train-r04-s-0002-of-0004.tfrecords: record 2 .*Fetch this file again"
    )
    assert f"kept in {partial_path(out)}: 6 images, 2 of 6 pieces" in message
    shard(source, 2).write_bytes(content)
    assert build(plan(source), out).splits == whole.splits


@pytest.mark.parametrize("split", ["train", "validation"])
def test_missing_shards_are_named_at_once(source, tmp_path, split):
    shard(source, 1, split).unlink()
    missing = rf"lacks 1 of {SHARDS[split]} shards of {split}: {split}-r04-s-0001-of"
    fails(source, tmp_path / "out", missing)


def test_something_else_than_raw_pixels(source, lmdbs, tmp_path, monkeypatch):
    for record in (
        {"shape": ([SIZE, SIZE, 3], "int"), "data": (b"\xff\xd8\xff\xe0 JFIF", "byte")},
        {"shape": ([8, 8, 3], "int"), "data": (bytes(192), "byte")},
        {"label": (1, "int")},
    ):
        formats.write_records(shard(source, 1), [record])
        fails(source, tmp_path / "out", "record 0 is not an image of 16x16 raw pixels")
    monkeypatch.setattr(celebahq, "SIZE", 32)
    with pytest.raises(WrongSourceError, match="16x16, not 32x32"):
        plan(lmdbs)


def test_archives_that_are_cut_or_compressed(source):
    path = archived(source)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(DataError, match="not complete"):
        plan(path)
    with pytest.raises(WrongSourceError, match=r"without compression.*celeba-tfr\.tar"):
        plan(archived(source, "w:gz"))


def test_the_package_that_reads_tfrecords_is_named_where_it_is_missing(source, lmdbs, monkeypatch):
    monkeypatch.setitem(sys.modules, "tfrecord", None)
    with pytest.raises(UsageError, match=r"pip install 'cldctl\[tfrecord\]'"):
        plan(source)
    plan(lmdbs)


FEW = {"train": 50, "validation": 10}


@pytest.fixture
def rows():
    return {name: formats.cifar_rows(10, seed) for seed, name in enumerate(formats.CIFAR_BATCHES)}


@pytest.fixture
def batches(rows):
    return {name: formats.cifar_batch(some) for name, some in rows.items()}


def cifar_images(folder, split):
    return pixels_of(folder / "out", split, name="cifar10", size=32)


def prepared(folder, batches, **expect):
    """The data set `out` of an archive of these batches."""
    archive = formats.write_cifar_archive(folder / "cifar-10-python.tar.gz", batches)
    return prepare("cifar10", archive, folder / "out", **expect)


def test_the_official_archive_at_its_true_size(tmp_path):
    number = np.arange(10_000)
    rows = np.repeat((number % 256).astype(np.uint8)[:, None], 3072, axis=1)
    rows[:, ::7] = (number // 256)[:, None]
    batches = {
        name: formats.cifar_batch(np.roll(rows, shift, axis=0))
        for shift, name in enumerate(formats.CIFAR_BATCHES)
    }
    about = prepared(tmp_path, batches)
    assert counts_of(about) == cifar10.OFFICIAL_COUNTS
    train = cifar_images(tmp_path, "train")
    assert np.array_equal(train[:10_000], formats.images_of_rows(rows))
    assert np.array_equal(train[40_000:], formats.images_of_rows(np.roll(rows, 4, axis=0)))
    expected = formats.images_of_rows(np.roll(rows, 5, axis=0))
    assert np.array_equal(cifar_images(tmp_path, "validation"), expected)


def test_archive_and_folders_give_the_same(tmp_path, rows, batches):
    folder = tmp_path / "unpacked" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, data in batches.items():
        (folder / name).write_bytes(data)
    made = prepared(tmp_path, batches, expect=FEW)
    for source in (folder, folder.parent):
        again = prepare("cifar10", source, tmp_path / f"out of {source.name}", expect=FEW)
        assert (again.splits, again.source_digest) == (made.splits, made.source_digest)
    expected = np.concatenate([rows[name] for name in formats.CIFAR_BATCHES[:5]])
    images = cifar_images(tmp_path, "train")
    assert np.array_equal(images, formats.images_of_rows(expected))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_never_runs_code(tmp_path, batches, protocol):
    crafted = {b"data": Crafted(tmp_path / "it-ran")}
    batches["data_batch_2"] = pickle.dumps(crafted, protocol=protocol)
    with pytest.raises(DataError, match=r"data_batch_2 is not a batch of CIFAR-10.*mkdir"):
        prepared(tmp_path, batches, expect=FEW)
    assert not (tmp_path / "it-ran").exists()


def test_missing_batches(tmp_path, batches):
    del batches["data_batch_3"], batches["test_batch"]
    with pytest.raises(DataError, match="has no data_batch_3, test_batch"):
        prepared(tmp_path, batches, expect=FEW)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "batch",
    [
        {b"data": np.zeros((2, 3000), np.uint8), b"labels": [0, 0]},
        {b"data": np.zeros((2, 3072)), b"labels": [0, 0]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 10]},
        {b"data": 3},
        [1],
    ],
)
def test_a_batch_of_something_else(tmp_path, batches, batch):
    batches["data_batch_1"] = pickle.dumps(batch, protocol=2)
    with pytest.raises(DataError, match="data_batch_1 is not a batch of CIFAR-10"):
        prepared(tmp_path, batches, expect={})


def test_downloads(tmp_path, monkeypatch):
    """The source is a folder, or the archive in it; nothing is fetched without `download`."""
    fetch = Mock()
    monkeypatch.setattr("torchvision.datasets.utils.download_url", fetch)
    with pytest.raises(DataError, match="does not exist"):
        prepare("cifar10", tmp_path / "new", tmp_path / "out", expect=FEW)
    for name in ("other.tgz", "other.tar.gz"):
        with pytest.raises(UsageError, match=f"{name} is a file: pass a folder"):
            cifar10.download(tmp_path / name)
    fetch.assert_not_called()
    for given in ("new", f"new/{cifar10.ARCHIVE}"):
        assert cifar10.download(tmp_path / given) == tmp_path / "new" / cifar10.ARCHIVE
        url, *place = fetch.call_args.args
        assert url.endswith(cifar10.ARCHIVE)
        assert place == [str(tmp_path / "new"), cifar10.ARCHIVE, CIFAR10.tgz_md5]
    fetch.side_effect = OSError("Name or service not known")
    with pytest.raises(DataError, match=r"could not be downloaded.*Fetch it by hand"):
        cifar10.download(tmp_path / "new")
