"""Dividing items among parts."""

import pytest

from cld_core.ranges import share


@pytest.mark.parametrize(("n", "parts"), [(0, 1), (1, 3), (7, 3), (70, 8), (1000, 999)])
def test_shares_cover_everything_in_order_and_differ_by_at_most_one(n, parts):
    shares = [share(n, part, parts) for part in range(parts)]
    assert [index for first, last in shares for index in range(first, last)] == list(range(n))
    sizes = [last - first for first, last in shares]
    assert max(sizes) - min(sizes) <= 1
