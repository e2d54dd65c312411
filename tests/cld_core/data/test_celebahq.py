import os
import signal
import tarfile

import numpy as np
import pytest
import torch

from cld_core.data import build as build_module
from cld_core.data.build import build
from cld_core.data.celebahq import plan_celebahq
from cld_core.data.images import open_images
from cld_core.data.prepare import prepare, verify
from cld_core.data.store import partial_path
from cld_core.errors import DataError

from .formats import celebahq_images, example, image_example, tfrecord, write_celebahq

SIZE = 16
COUNTS = {"train": 11, "validation": 4}
SHARDS = {"train": 4, "validation": 2}


@pytest.fixture
def images():
    return {split: celebahq_images(count, SIZE, seed=count) for split, count in COUNTS.items()}


@pytest.fixture
def source(tmp_path, images):
    write_celebahq(tmp_path / "celeba-tfr", images, SHARDS, SIZE)
    return tmp_path / "celeba-tfr"


@pytest.fixture
def whole(source, tmp_path):
    """The manifest of a preparation that nothing disturbed."""
    return build(plan(source), tmp_path / "undisturbed")


def plan(source, expect=COUNTS):
    return plan_celebahq(source, SIZE, expect)


def shard(source, index, split="train"):
    return source / split / f"{split}-r04-s-{index:04d}-of-{SHARDS[split]:04d}.tfrecords"


def flip_byte(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(bytes(data))


def fails(source, out, match):
    """The preparation fails, leaves nothing that looks complete, and says what it keeps."""
    with pytest.raises(DataError, match=match) as caught:
        build(plan(source), out)
    assert not out.exists()
    return str(caught.value)


def test_every_image_arrives_in_order(source, images, tmp_path):
    seen = []
    manifest = build(plan(source), tmp_path / "out", seen.append)
    assert {split: info.count for split, info in manifest.splits.items()} == COUNTS
    for split, expected in images.items():
        opened = open_images(tmp_path / "out", split, name=f"celebahq{SIZE}", size=SIZE)
        assert (opened.n, opened.shape) == (len(expected), (3, SIZE, SIZE))
        got = opened.batch(torch.arange(opened.n)).permute(0, 2, 3, 1)
        assert np.array_equal(got.numpy(), expected)
    assert verify(tmp_path / "out") == manifest
    assert sorted(os.listdir(tmp_path / "out")) == ["manifest.json", "train.lmdb", "validation.lmdb"]
    assert (seen[-1].images, seen[-1].expected, seen[-1].units_done, seen[-1].units) == (15, 15, 6, 6)
    assert [step.images for step in seen] == sorted(step.images for step in seen)


def test_the_tar_gives_the_same_data_set_as_the_folder(source, whole, tmp_path):
    with tarfile.open(tmp_path / "celeba-tfr.tar", "w") as archive:
        for path in sorted(source.rglob("*.tfrecords"), reverse=True):
            archive.add(path, arcname=path.relative_to(tmp_path))
    made = build(plan(tmp_path / "celeba-tfr.tar"), tmp_path / "out")
    assert (made.splits, made.source_digest) == (whole.splits, whole.source_digest)


def test_published_size_through_prepare(tmp_path):
    images = {"train": celebahq_images(3, 256), "validation": celebahq_images(1, 256, seed=1)}
    write_celebahq(tmp_path / "tfr", images, {"train": 2, "validation": 1}, 256)
    manifest = prepare("celebahq256", tmp_path / "tfr", tmp_path / "out", expect={"train": 3})
    assert (manifest.name, manifest.size) == ("celebahq256", 256)
    with pytest.raises(DataError, match=r"train has 3 images, but 27000 are expected"):
        prepare("celebahq256", tmp_path / "tfr", tmp_path / "official")


def test_a_corrupted_record_keeps_the_shards_before_it(source, whole, tmp_path):
    out = tmp_path / "out"
    at = 2 * (shard(source, 2).stat().st_size // 3) + 100
    flip_byte(shard(source, 2), at)
    message = fails(source, out, r"train-r04-s-0002-of-0004.tfrecords: record 2 .*checksum of its data")
    assert f"kept in {partial_path(out)}: 6 images, 2 of 6 pieces" in message
    assert "run the same command again" in message

    flip_byte(shard(source, 2), at)
    garbage = b"x" * shard(source, 0).stat().st_size
    shard(source, 0).write_bytes(garbage)  # is not read again, or it would be found out
    assert build(plan(source), out).splits == whole.splits
    assert not partial_path(out).exists()
    verify(out)


def test_a_shard_that_ends_between_records_is_found_by_the_count(source, images, whole, tmp_path):
    data = shard(source, 1).read_bytes()
    shard(source, 1).write_bytes(tfrecord([image_example(image) for image in images["train"][3:4]]))
    message = fails(source, tmp_path / "out", "train has 9 images, but 11 are expected")
    assert "train-r04-s-0001-of-0004.tfrecords (1)" in message
    shard(source, 1).write_bytes(data)
    assert build(plan(source), tmp_path / "out").splits == whole.splits
    verify(tmp_path / "out")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_missing_shards_are_named_at_once(source, whole, tmp_path, split):
    flip_byte(shard(source, 1, split), 100)
    kept = fails(source, tmp_path / "out", "checksum")
    flip_byte(shard(source, 1, split), 100)
    shard(source, 1, split).rename(tmp_path / "away")
    fails(source, tmp_path / "out", rf"lacks 1 of {SHARDS[split]} shards of {split}: {split}-r04-s-0001-of")
    (tmp_path / "away").rename(shard(source, 1, split))
    assert "kept in" in kept
    assert build(plan(source), tmp_path / "out").splits == whole.splits


def test_a_record_that_is_no_image(source, tmp_path, images):
    shard(source, 1).write_bytes(tfrecord([b"\xff\xd8\xff\xe0 JFIF"]))
    fails(source, tmp_path / "out", "record 0 is not a tf.train.Example")
    shape = [SIZE, SIZE, 3]
    shard(source, 1).write_bytes(tfrecord([example(shape=shape, data=[b"\xff\xd8\xff\xe0 JFIF"])]))
    fails(source, tmp_path / "out", "raw pixels are expected")
    shard(source, 1).write_bytes(tfrecord([example(shape=shape, label=[1])]))
    fails(source, tmp_path / "out", "no feature `data`")


def run_and_die(source, out, units):
    """A process that prepares and is killed, without any chance to tidy up, after so many units."""
    pid = os.fork()
    if pid == 0:
        build(plan(source), out, lambda step: step.units_done < units or os.kill(os.getpid(), signal.SIGKILL))
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


def test_killed_again_and_again(source, whole, tmp_path):
    for units in (1, 3, 3, 5, 6):
        run_and_die(source, tmp_path / "out", units)
        assert not (tmp_path / "out").exists()
    assert build(plan(source), tmp_path / "out").splits == whole.splits
    verify(tmp_path / "out")


def test_killed_between_the_images_and_the_note_of_them(source, whole, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def die(self):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(build_module._Job, "_save", die)
        with pytest.raises(Killed):
            build(plan(source), tmp_path / "out")
    made = build(plan(source), tmp_path / "out")
    assert made.splits["train"].checksum == whole.splits["train"].checksum
    verify(tmp_path / "out")


def test_a_second_time_there_is_nothing_to_do(source, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(build_module._Job, "_build_unit", lambda *_: pytest.fail("it built again"))
    assert build(plan(source), tmp_path / "undisturbed") == whole


def test_what_is_there_is_never_overwritten(source, whole, tmp_path):
    out = tmp_path / "undisturbed"
    write_celebahq(tmp_path / "other", {split: celebahq_images(5, SIZE) for split in SHARDS}, SHARDS, SIZE)
    with pytest.raises(DataError, match=r"already holds celebahq16 at 16x16.*choose another --out"):
        build(plan(tmp_path / "other", expect={}), out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(DataError, match="is not a prepared data set"):
        build(plan(source), tmp_path / "mine")


def test_two_at_a_time(source, tmp_path):
    def also(step):
        with pytest.raises(DataError, match="Another process is writing"):
            build(plan(source), tmp_path / "out")

    build(plan(source), tmp_path / "out", also)
