"""Keys that suit data: a recipe for every shape and size."""

import itertools

import pytest

from cld_core.config import from_dict
from cld_core.config.suggest import SIZES, rounded, suggested

SHAPES = (
    (1,),
    (5,),
    (900,),
    (1, 1),
    (2, 128),
    (3, 1000),
    (1, 37),
    (1, 28, 28),
    (3, 32, 48),
    (7, 101, 101),
    (4, 1, 9),
)


def recipe(shape, *more, **given):
    return from_dict({"data": {"name": "arrays"}, **suggested(shape, *more, **given)}, "suggested")


@pytest.mark.parametrize(("shape", "size"), list(itertools.product(SHAPES, SIZES)), ids=str)
def test_every_shape_has_a_recipe_whose_network_takes_it(shape, size):
    made = recipe(shape, 10_000, size)
    assert not list(made.network.misfits(shape))


@pytest.mark.parametrize(
    ("sides", "patch", "levels"),
    [
        ((28, 40), 2, 2),
        ((32, 32), 2, 3),
        ((64, 64), 4, 3),
        ((27, 27), 3, 1),
        ((128,), 2, 3),
        ((1000,), 5, 3),
        ((37,), 1, 1),
    ],
    ids=str,
)
def test_what_is_folded_leaves_as_many_resolutions_as_the_sides_allow(sides, patch, levels):
    network = recipe((1, *sides), 10_000).network
    assert (network.patch, len(network.multipliers)) == (patch, levels)


def test_few_examples_are_not_seen_too_often_and_bound_what_is_evaluated():
    few = recipe((3, 32, 32), 40, tests=4)
    many = recipe((3, 32, 32), 40_000, tests=4000)
    assert few.train.batch_size == 40
    assert few.train.steps * few.train.batch_size <= 500 * 40
    assert many.train.steps * many.train.batch_size > 500 * 40
    assert (few.eval.points, many.eval.points) == (4, 64)


def test_a_larger_size_is_a_larger_network_that_trains_for_longer():
    made = [recipe((5,), 10**6, size) for size in SIZES]
    for one, larger in itertools.pairwise(made):
        assert one.network.width < larger.network.width
        assert one.train.steps < larger.train.steps
    assert made[2].cluster.uses_gpu
    assert recipe((900,), 10_000).network.width > made[0].network.width, "for many features"


def test_the_network_of_few_numbers_sees_waves_of_them():
    assert recipe((3,), 10_000).network.input_features > 0
    assert recipe((4,), 10_000).network.input_features == 0


def test_a_diffusion_without_hybrid_score_matching_has_its_own_objective():
    assert suggested((2,), sde="vpsde")["objective"]["name"] == "dsm"


def test_numbers_are_rounded_up_to_two_digits():
    assert list(map(rounded, (0.2, 7, 99.5, 1234, 2000))) == [1, 7, 100, 1300, 2000]
