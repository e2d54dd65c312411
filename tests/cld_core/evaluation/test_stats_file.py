"""Statistics that somebody else made: damaged, or of other things than statistics."""

import json
import os

import numpy as np
import pytest

from cld_core.errors import UsageError
from cld_core.evaluation import stats_file

SOUND = {"mu": np.zeros(3), "sigma": np.eye(3), "about": np.array(json.dumps({"images": 7}))}
FEATURES = {"pool_3": np.random.default_rng(1).normal(size=(5, 3))}


def test_both_layouts(tmp_path):
    np.savez(tmp_path / "a.npz", **SOUND)
    assert stats_file.read(tmp_path / "a.npz").images == 7
    np.savez(tmp_path / "b.npz", **FEATURES)
    read = stats_file.read(tmp_path / "b.npz", features=True)
    assert np.allclose(read.sigma, np.cov(FEATURES["pool_3"].T))
    assert np.array_equal(read.features, FEATURES["pool_3"])


@pytest.mark.parametrize(
    "arrays",
    [
        {"mu": np.zeros(3)},
        {"mu": np.zeros(0), "sigma": np.zeros((0, 0))},
        {"mu": np.array(0.0), "sigma": np.array(0.0)},
        {**SOUND, "sigma": np.eye(4)},
        {**SOUND, "mu": np.array(["a", "b", "c"])},
        {**SOUND, "mu": np.zeros(3, complex)},
        {**SOUND, "mu": np.array([None, 1, 2], object)},
        {**SOUND, "mu": np.full(3, np.nan)},
        {**SOUND, "about": np.zeros(4)},
        {**SOUND, "about": np.array("{")},
        {**SOUND, "about": np.array("[" * 2000 + "]" * 2000)},
        {**SOUND, "about": np.array("x" * 300_000)},
        {"mu": np.zeros(9000), "sigma": np.broadcast_to(np.zeros(1), (1, 1))},
        {"pool_3": np.zeros((1, 3))},
        {"pool_3": np.zeros((0, 3))},
        {"pool_3": np.zeros((5, 0))},
        {"pool_3": np.zeros((5, 9000), np.int8)},
        {"pool_3": np.full((5, 3), np.inf)},
        {"other": np.zeros(3)},
        {},
    ],
    ids=range(20),
)
def test_other_arrays(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UsageError) as caught:
        stats_file.read(tmp_path / "a.npz", features=True)
    assert str(caught.value).startswith(f"{tmp_path / 'a.npz'} ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("images", ["7", True, None, [7], 1e9])
def test_a_number_of_images_that_is_none(tmp_path, images):
    np.savez(tmp_path / "a.npz", **{**SOUND, "about": np.array(json.dumps({"images": images}))})
    assert stats_file.read(tmp_path / "a.npz").images is None


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(UsageError, match="not a regular file"):
        stats_file.read(tmp_path / "a.npz")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_cut_files(tmp_path, share):
    np.savez(tmp_path / "a.npz", **SOUND)
    os.truncate(tmp_path / "a.npz", int(share * (tmp_path / "a.npz").stat().st_size))
    with pytest.raises(UsageError, match=r"not an \.npz file of statistics"):
        stats_file.outline(tmp_path / "a.npz")
