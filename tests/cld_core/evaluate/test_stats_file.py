"""Statistics that somebody else made: damaged, or of other things than statistics."""

import json

import numpy as np

from cld_core.evaluate import stats_file

SOUND = {"mu": np.zeros(3), "sigma": np.eye(3), "about": np.array(json.dumps({"images": 7}))}
FEATURES = {"pool_3": np.random.default_rng(1).normal(size=(5, 3))}


def test_both_layouts(tmp_path):
    np.savez(tmp_path / "a.npz", **SOUND)
    assert stats_file.read(tmp_path / "a.npz").outline.images == 7
    np.savez(tmp_path / "b.npz", **FEATURES)
    read = stats_file.read(tmp_path / "b.npz", features=True)
    assert np.allclose(read.sigma, np.cov(FEATURES["pool_3"].T))
    assert np.array_equal(read.features, FEATURES["pool_3"])
