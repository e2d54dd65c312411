import os
import sys
import tarfile

import numpy as np
import pytest
import torch

from cld_core.data import celebahq
from cld_core.data.celebahq import plan_celebahq
from cld_core.data.prepare import build, prepare, verify
from cld_core.data.store import partial_path
from cld_core.errors import DataError, UsageError, WrongSourceError
from tests.support.images import opened

from .formats import celebahq_images, write_celebahq, write_lmdb, write_records

SIZE = 16
COUNTS = {"train": 11, "validation": 4}
SHARDS = {"train": 4, "validation": 2}


@pytest.fixture
def images(monkeypatch):
    monkeypatch.setattr(celebahq, "SIZE", SIZE)
    return {split: celebahq_images(count, SIZE, seed=count) for split, count in COUNTS.items()}


@pytest.fixture
def source(tmp_path, images):
    write_celebahq(tmp_path / "celeba-tfr", images, SHARDS, SIZE)
    return tmp_path / "celeba-tfr"


@pytest.fixture
def lmdbs(tmp_path, images):
    for split, some in images.items():
        write_lmdb(tmp_path / "celeba-lmdb" / f"{split}.lmdb", some)
    return tmp_path / "celeba-lmdb"


@pytest.fixture
def whole(source, tmp_path):
    """A preparation that nothing disturbed."""
    return build(plan(source), tmp_path / "undisturbed")


def plan(source, expect=COUNTS):
    return plan_celebahq(source, expect)


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


def test_every_image_arrives_in_order(source, images, tmp_path):
    seen = []
    about = build(plan(source), tmp_path / "out", lambda part, *counts: seen.append(counts))
    assert {split: info.count for split, info in about.splits.items()} == COUNTS
    for split, expected in images.items():
        some = opened(tmp_path / "out", split, name=f"celebahq{SIZE}", size=SIZE)
        assert (some.n, some.shape) == (len(expected), (3, SIZE, SIZE))
        got = some.batch(torch.arange(some.n)).permute(0, 2, 3, 1)
        assert np.array_equal(got.numpy(), expected)
    assert verify(tmp_path / "out") == about
    assert sorted(os.listdir(tmp_path / "out")) == ["about.json", "images.npy"]
    assert seen == [(count, 15) for count in (3, 6, 9, 11, 13, 15)]


def test_archive_and_lmdb_files_give_the_same_images_as_the_folder(source, lmdbs, whole, tmp_path):
    made = build(plan(archived(source)), tmp_path / "of-tar")
    assert (made.splits, made.source_digest) == (whole.splits, whole.source_digest)
    assert build(plan(lmdbs), tmp_path / "of-lmdb").splits == whole.splits


def test_published_size_through_prepare(tmp_path):
    images = {"train": celebahq_images(3, 256), "validation": celebahq_images(1, 256, seed=1)}
    write_celebahq(tmp_path / "tfr", images, {"train": 2, "validation": 1}, 256)
    about = prepare("celebahq256", tmp_path / "tfr", tmp_path / "out", expect={"train": 3})
    assert (about.name, about.size) == ("celebahq256", 256)
    with pytest.raises(DataError, match=r"train has 3 images, but 27000 are expected"):
        prepare("celebahq256", tmp_path / "tfr", tmp_path / "official")


def test_a_cut_shard_keeps_those_before_it(source, whole, tmp_path):
    out, content = tmp_path / "out", shard(source, 2).read_bytes()
    shard(source, 2).write_bytes(content[:-100])
    message = fails(source, out, r"train-r04-s-0002-of-0004.tfrecords: record 2 .*Fetch this file again")
    assert f"kept in {partial_path(out)}: 6 images, 2 of 6 pieces" in message
    assert "run the same command again" in message

    shard(source, 2).write_bytes(content)
    garbage = b"x" * shard(source, 0).stat().st_size
    shard(source, 0).write_bytes(garbage)  # is not read again, or it would be found out
    assert build(plan(source), out).splits == whole.splits
    assert not partial_path(out).exists()
    verify(out)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_missing_shards_are_named_at_once(source, tmp_path, split):
    shard(source, 1, split).unlink()
    fails(source, tmp_path / "out", rf"lacks 1 of {SHARDS[split]} shards of {split}: {split}-r04-s-0001-of")


def test_something_else_than_raw_pixels(source, lmdbs, tmp_path, monkeypatch):
    for record in (
        {"shape": ([SIZE, SIZE, 3], "int"), "data": (b"\xff\xd8\xff\xe0 JFIF", "byte")},
        {"shape": ([8, 8, 3], "int"), "data": (bytes(192), "byte")},
        {"label": (1, "int")},
    ):
        write_records(shard(source, 1), [record])
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
