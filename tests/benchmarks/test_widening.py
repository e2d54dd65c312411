"""The table of docs/samplers.md, in part: VPSDE with the default grid."""

import pytest

from benchmarks.widening import CASES, fewest


@pytest.mark.parametrize(
    ("eta", "numbers", "found"), [(0.3, (10, 15), "15"), (1.0, (10, 25, 30), "30"), (1.0, (10,), "> 10")]
)
def test_the_fewest_evaluations_follow_the_last_that_do_not_do(eta, numbers, found):
    assert fewest(CASES["VPSDE"], numbers, order=1, corrector=True, eta=eta) == found
