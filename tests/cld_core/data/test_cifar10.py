import os
import pickle

import numpy as np
import pytest
import torch

from cld_core.data import cifar10
from cld_core.data.prepare import prepare
from cld_core.errors import DataError, UsageError
from tests.support.images import opened

from .formats import CIFAR_BATCHES, cifar_batch, cifar_rows, images_of_rows, write_cifar_archive

FEW = {"train": 50, "validation": 10}


@pytest.fixture
def rows():
    return {name: cifar_rows(10, seed) for seed, name in enumerate(CIFAR_BATCHES)}


@pytest.fixture
def batches(rows):
    return {name: cifar_batch(some) for name, some in rows.items()}


def images(path, split):
    some = opened(path, split, name="cifar10", size=32)
    return some.batch(torch.arange(some.n)).numpy()


def test_the_official_archive_at_its_true_size(tmp_path):
    number = np.arange(10_000)
    rows = np.repeat((number % 256).astype(np.uint8)[:, None], 3072, axis=1)
    rows[:, ::7] = (number // 256)[:, None]
    batches = {name: cifar_batch(np.roll(rows, shift, axis=0)) for shift, name in enumerate(CIFAR_BATCHES)}
    archive = write_cifar_archive(tmp_path / "cifar-10-python.tar.gz", batches)
    about = prepare("cifar10", archive, tmp_path / "out")
    assert {split: info.count for split, info in about.splits.items()} == {"train": 50_000, "validation": 10_000}
    train = images(tmp_path / "out", "train")
    assert np.array_equal(train[:10_000], images_of_rows(rows))
    assert np.array_equal(train[40_000:], images_of_rows(np.roll(rows, 4, axis=0)))
    assert np.array_equal(images(tmp_path / "out", "validation"), images_of_rows(np.roll(rows, 5, axis=0)))


def test_archive_and_folders_give_the_same(tmp_path, rows, batches):
    archive = write_cifar_archive(tmp_path / "cifar-10-python.tar.gz", batches)
    folder = tmp_path / "unpacked" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, data in batches.items():
        (folder / name).write_bytes(data)
    made = [
        prepare("cifar10", source, tmp_path / f"out{number}", expect=FEW)
        for number, source in enumerate((archive, folder, folder.parent))
    ]
    assert made[0].splits == made[1].splits == made[2].splits
    assert made[0].source_digest == made[1].source_digest == made[2].source_digest
    expected = np.concatenate([images_of_rows(rows[name]) for name in CIFAR_BATCHES[:5]])
    assert np.array_equal(images(tmp_path / "out0", "train"), expected)


def test_batches_that_python_3_pickled_are_read_too(tmp_path, rows):
    batches = {name: pickle.dumps({b"data": some, b"labels": [0] * 10}, protocol=2) for name, some in rows.items()}
    archive = write_cifar_archive(tmp_path / "a.tar.gz", batches)
    prepare("cifar10", archive, tmp_path / "out", expect=FEW)
    assert np.array_equal(images(tmp_path / "out", "validation"), images_of_rows(rows["test_batch"]))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_never_runs_code(tmp_path, batches, protocol):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    batches["data_batch_2"] = pickle.dumps({b"data": Evil()}, protocol=protocol)
    archive = write_cifar_archive(tmp_path / "a.tar.gz", batches)
    with pytest.raises(DataError, match=r"data_batch_2 is not a batch of CIFAR-10.*mkdir"):
        prepare("cifar10", archive, tmp_path / "out", expect=FEW)
    assert not (tmp_path / "owned").exists()


def test_missing_batches_and_cut_archives(tmp_path, batches):
    archive = write_cifar_archive(tmp_path / "a.tar.gz", batches)
    content = archive.read_bytes()
    archive.write_bytes(content[: int(0.6 * len(content))])
    with pytest.raises(DataError, match="not complete"):
        prepare("cifar10", archive, tmp_path / "out", expect=FEW)
    del batches["data_batch_3"], batches["test_batch"]
    write_cifar_archive(archive, batches)
    with pytest.raises(DataError, match="has no data_batch_3, test_batch"):
        prepare("cifar10", archive, tmp_path / "out", expect=FEW)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "batch",
    [{b"data": np.zeros((2, 3000), np.uint8), b"labels": [0, 0]}, {b"data": np.zeros((2, 3072)), b"labels": [0, 0]},
     {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 10]}, {b"data": 3}, [1]],
)  # fmt: skip
def test_a_batch_of_something_else(tmp_path, batches, batch):
    batches["data_batch_1"] = pickle.dumps(batch, protocol=2)
    with pytest.raises(DataError, match="data_batch_1 is not a batch of CIFAR-10"):
        prepare("cifar10", write_cifar_archive(tmp_path / "a.tar.gz", batches), tmp_path / "out", expect={})


def test_downloads(tmp_path, monkeypatch):
    """Into a folder, also where the archive in it was named, which is not there yet; nothing is fetched unasked."""
    fetched = []
    monkeypatch.setattr("torchvision.datasets.utils.download_url", lambda *about: fetched.append(about))
    with pytest.raises(DataError, match="does not exist"):
        prepare("cifar10", tmp_path / "new", tmp_path / "out", expect=FEW)
    for name in ("other.tgz", "other.tar.gz"):
        with pytest.raises(UsageError, match=f"{name} is a file: pass a folder"):
            cifar10.download(tmp_path / name)
    assert fetched == []
    for given in ("new", f"new/{cifar10.ARCHIVE}"):
        assert cifar10.download(tmp_path / given) == tmp_path / "new" / cifar10.ARCHIVE
        url, folder, name, md5 = fetched.pop()
        assert (folder, name, url.endswith(name), len(md5)) == (str(tmp_path / "new"), cifar10.ARCHIVE, True, 32)

    def fail(*_):
        raise OSError("Name or service not known")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fail)
    with pytest.raises(DataError, match=r"could not be downloaded.*Fetch it by hand"):
        cifar10.download(tmp_path / "new")
