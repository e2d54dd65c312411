"""Power-function profiles: their lengths, their inner products, and sums of them."""

import math

import numpy as np
import pytest
from scipy import integrate

from cld_core.averages.profiles import Basis, Profile, exponent, inner, relative_length
from cld_core.config.train import UNIFORM_LENGTH


def density(profile: Profile, s):
    gamma = exponent(profile.length)
    return np.where(s <= profile.updates, (gamma + 1) / profile.updates * (s / profile.updates) ** gamma, 0.0)


@pytest.mark.parametrize(("length", "gamma"), [(0.05, 16.97), (0.1, 6.94)])
def test_the_exponents_of_the_lengths_that_the_paper_tracks(length, gamma):
    assert exponent(length) == pytest.approx(gamma, abs=0.005)


def test_lengths_and_exponents_are_inverse_to_each_other():
    for length in np.geomspace(1e-4, 0.9999 * UNIFORM_LENGTH, 50):
        assert relative_length(exponent(length)) == pytest.approx(length, rel=1e-12)
    for gamma in (1e-3, 0.5, 6.94, 100.0):
        assert exponent(relative_length(gamma)) == pytest.approx(gamma, rel=1e-9)
    assert relative_length(0.0) == pytest.approx(UNIFORM_LENGTH, rel=1e-15)


@pytest.mark.parametrize("length", [0.0, -0.1, UNIFORM_LENGTH, 1.0, math.nan])
def test_what_is_no_length_is_refused(length):
    with pytest.raises(ValueError, match=r"a relative length is between 0 and 0\.2887"):
        exponent(length)


@pytest.mark.parametrize("length", [0.02, 0.1, 0.25])
def test_a_length_is_the_standard_deviation_of_its_profile(length):
    profile = Profile(length, 300)
    moments = [integrate.quad(lambda s, k=k: s**k * density(profile, s), 0, 300, epsabs=0)[0] for k in range(3)]
    assert moments[0] == pytest.approx(1.0, rel=1e-9)
    assert math.sqrt(moments[2] - moments[1] ** 2) == pytest.approx(300 * length, rel=1e-7)


@pytest.mark.parametrize("pair", [((0.05, 400), (0.1, 250)), ((0.02, 90), (0.2, 800)), ((0.1, 70), (0.1, 70))])
def test_inner_products_are_those_of_quadrature(pair):
    a, b = (Profile(*one) for one in pair)
    end = min(a.updates, b.updates)
    found, _ = integrate.quad(lambda s: density(a, s) * density(b, s), 0, end, epsabs=0, epsrel=1e-11)
    products = inner([a, b], [a, b])
    assert products[0, 1] == pytest.approx(found, rel=1e-9)
    assert np.array_equal(products, products.T)


def basis(count: int, end: int = 1000) -> tuple[list[Profile], Basis]:
    known = [Profile(length, end * i // count) for i in range(1, count + 1) for length in (0.05, 0.1)]
    return known, Basis(known)


def test_a_profile_that_is_known_is_made_of_itself_alone():
    known, made = basis(10)
    weights, error = made.fit(known[-1])
    assert weights == pytest.approx([0.0] * 19 + [1.0], abs=1e-6)
    assert error < 1e-6


@pytest.mark.parametrize("length", [0.03, 0.07, 0.15, 0.25])
def test_the_error_of_a_sum_is_the_distance_of_profiles(length):
    """Against the sums of profiles on a fine grid, and no other sum that keeps constants is nearer."""
    known, made = basis(20)
    wanted = Profile(length, 1000)
    weights, error = made.fit(wanted)
    s = (np.arange(20_000) + 0.5) / 20
    rows = np.stack([density(profile, s) for profile in known])
    target = density(wanted, s)
    assert weights.sum() == pytest.approx(1.0, rel=1e-9)
    found = math.sqrt(((weights @ rows - target) ** 2).mean() * 1000 / inner([wanted], [wanted]).item())
    assert error == pytest.approx(found, rel=1e-2)
    rng = np.random.default_rng(0)
    for _ in range(20):
        change = rng.normal(size=len(known)) * 1e-2
        other = (weights + change - change.mean()) @ rows
        assert ((other - target) ** 2).mean() > ((weights @ rows - target) ** 2).mean()


def test_more_snapshots_reach_more_lengths():
    errors = {count: basis(count)[1].fit(Profile(0.02, 1000))[1] for count in (5, 20, 50)}
    assert errors[5] > 0.2 > 0.1 > errors[20] > 0.05 > 0.02 > errors[50]
