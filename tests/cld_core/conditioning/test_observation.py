import numpy as np
import pytest
import torch
from PIL import Image

from cld_core.conditioning import Observation
from cld_core.conditioning import observation as files
from cld_core.errors import DataError, UsageError, WrongSourceError
from tests.support.numeric import standard_normal

IMAGE = (3, 4, 4)


def back_to_all(w):
    return torch.stack([w, torch.zeros_like(w)], dim=2).view(-1, *IMAGE)


OBSERVATIONS = {
    "masked": Observation.masked(standard_normal(*IMAGE), standard_normal(*IMAGE) > 0),
    "pooled": Observation.downscaled(standard_normal(3, 2, 2), 2),
    "matrix": Observation.linear(standard_normal(5, 48), standard_normal(5), shape=IMAGE),
    "functions": Observation.of_functions(
        lambda x: x.flatten(1)[:, ::2], back_to_all, standard_normal(24), IMAGE
    ),
}
OF_EACH = pytest.mark.parametrize("observation", OBSERVATIONS.values(), ids=OBSERVATIONS)


@OF_EACH
def test_observations_have_their_transpose_and_their_gram_matrix(observation):
    assert observation.shape == IMAGE
    x, w = standard_normal(2, *IMAGE), standard_normal(2, observation.count, seed=1)
    there, back = observation.apply(x), observation.transpose(w)
    assert there.shape == w.shape
    assert back.shape == x.shape
    torch.testing.assert_close((there * w).sum(), (back * x).sum())
    eye = torch.eye(observation.count).double()
    gram = (
        observation.gram if isinstance(observation.gram, torch.Tensor) else observation.gram * eye
    )
    torch.testing.assert_close(observation.apply(observation.transpose(eye)), gram)


@OF_EACH
def test_what_is_shown_of_an_observation_has_it(observation):
    assert (
        float(observation.residual(observation.backprojected()[None].double()).abs().max()) < 1e-5
    )


X = torch.zeros(2)
FIRST = torch.tensor([True, False])
WRONG = [
    (lambda: Observation.masked(X, torch.tensor([1, 0])), "the mask has the type torch.int64"),
    (
        lambda: Observation.masked(X, torch.tensor([True])),
        r"the mask has the shape \(1,\), and x \(2,\)",
    ),
    (lambda: Observation.masked(X, torch.tensor([False, False])), "true nowhere"),
    (lambda: Observation.masked(X, torch.tensor([True, True])), "true everywhere"),
    (lambda: Observation.masked(X * torch.nan, FIRST), "not finite"),
    (lambda: Observation.masked(X, FIRST, -1.0), "sigma=-1"),
    (
        lambda: Observation.linear(torch.tensor([[torch.nan, 1.0]]), torch.zeros(1), 0.1),
        "H has entries that are not",
    ),
    (
        lambda: Observation.linear(torch.ones(1, 2), torch.zeros(2)),
        r"y has the shape \(2,\), and 1 values",
    ),
    (
        lambda: Observation.linear(torch.ones(2, 2), torch.zeros(2)),
        "the rows of H depend on each other",
    ),
    (
        lambda: Observation.linear(torch.ones(2, 3), torch.zeros(2), shape=(2,)),
        r"Pass a matrix \(k, 2\)",
    ),
    (
        lambda: Observation.linear(torch.ones(4097, 2), torch.zeros(4097), 0.1),
        "4097 observed values: a matrix may",
    ),
    (lambda: Observation.downscaled(torch.zeros(4, 4), 2), r"Pass \(C, height, width\)"),
    (
        lambda: Observation.of_functions(
            lambda x: x[:, :1], lambda w: torch.cat([w, w], 1), torch.zeros(1), (2,)
        ),
        "not each other's transpose",
    ),
    (
        lambda: Observation.masked(X, FIRST).require_fit(IMAGE, is_image=True),
        "the model draws",
    ),
    (
        lambda: Observation.masked(torch.full(IMAGE, 255.0), torch.eye(4) > 0).require_fit(
            IMAGE, is_image=True
        ),
        r"a pixel of the observation is 255\. Scale images",
    ),
]


@pytest.mark.parametrize(("make", "said"), WRONG, ids=[said for _, said in WRONG])
def test_wrong_observations(make, said):
    with pytest.raises(UsageError, match=said):
        make()


def test_observations_differ_in_their_digests():
    first, again = (Observation.masked(X, FIRST) for _ in range(2))
    others = (
        Observation.masked(X, ~FIRST),
        Observation.masked(X + 1, FIRST),
        Observation.masked(X, FIRST, 0.1),
    )
    assert first.digest("how") == again.digest("how")
    assert (
        len({first.digest("how"), first.digest("else"), *(other.digest("how") for other in others)})
        == 5
    )


ARRAYS = [
    ({"x": [0.3, 0.0], "mask": [1, 0], "sigma": 0.1}, 0.2),
    ({"x": [0.3, 0.0], "mask": [True, False]}, 0.2),
    ({"y": [0.3], "matrix": [[1.0, 0.5]]}, 0.7),
]


@pytest.mark.parametrize(("arrays", "seen"), ARRAYS)
def test_files_of_arrays(tmp_path, arrays, seen):
    np.savez(tmp_path / "o.npz", **arrays)
    made = files.from_arrays(tmp_path / "o.npz", (2,))
    assert float(made.apply(torch.tensor([[0.2, 1.0]]))) == pytest.approx(seen)
    assert made.y.tolist() == [0.3]
    assert made.sigma == arrays.get("sigma", 0.0)


WRONG_ARRAYS = [
    ({"x": [0.3, 0.0]}, "it has the arrays x"),
    ({"x": [0.3, 0.0], "mask": [2, 0]}, "other values than 0 and 1"),
    ({"y": np.zeros((3, 2, 2)), "factor": 1.7}, r"factor is 1\.7, and a whole number is expected"),
    ({"x": ["a", "b"], "mask": [1, 0]}, "numbers are expected"),
]


@pytest.mark.parametrize(("arrays", "said"), WRONG_ARRAYS)
def test_wrong_files_of_arrays(tmp_path, arrays, said):
    np.savez(tmp_path / "o.npz", **arrays)
    with pytest.raises(UsageError, match=said):
        files.from_arrays(tmp_path / "o.npz", (2,))


def picture(path, array):
    Image.fromarray(np.asarray(array, dtype=np.uint8)).save(path)
    return path


def test_a_picture_and_a_mask(tmp_path):
    image = picture(tmp_path / "i.png", np.full((4, 4, 3), 255))
    white = np.zeros((4, 4))
    white[:, 2:] = 255
    made = files.from_pictures(image, picture(tmp_path / "m.png", white), IMAGE)
    assert made.mask[0].tolist() == [[True, True, False, False]] * 4
    assert made.y.tolist() == [1.0] * 24
    wrong = [
        (np.zeros((4, 4)), UsageError, "black everywhere"),
        (np.full((4, 4), 255), UsageError, "white everywhere"),
        (np.zeros((4, 5)), WrongSourceError, "5 x 4 pixels, and 4 x 4 are needed"),
    ]
    for array, error, said in wrong:
        with pytest.raises(error, match=said):
            files.from_pictures(image, picture(tmp_path / "w.png", array), IMAGE)
    with pytest.raises(UsageError, match="sigma=inf"):
        files.from_pictures(image, tmp_path / "m.png", IMAGE, float("inf"))
    (tmp_path / "text.png").write_text("no")
    with pytest.raises(DataError, match=r"text.png cannot be used as a picture"):
        files.from_pictures(tmp_path / "text.png", tmp_path / "m.png", IMAGE)
    with pytest.raises(UsageError, match="are not square pictures"):
        files.from_pictures(image, image, (2,))
