"""Filters and orders of `cldctl status`."""

import time

import pytest

from cld_core.errors import UsageError
from cldctl.runs.selection import in_order, moment, selection
from cldctl.runs.status import RunStatus

DAY = 24 * 3600.0


def row(name, state="FINISHED", days_ago=0.0, **more):
    then = time.time() - days_ago * DAY
    return RunStatus(name=name, path=name, state=state, created=then - DAY, updated=then, **more)


ROWS = [
    row("a", days_ago=30, loss=3.0, step=5, tags=["x", "y"], user="anna"),
    row("b", "RUNNING", days_ago=20, loss=1.0, step=9, tags=["x"], user="bob", group="g"),
    row("c", "FAILED", days_ago=2, step=1, user="anna", group="g"),
]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, "abc"),
        ({"states": "failed, RUNNING"}, "bc"),
        ({"since": "7d"}, "bc"),
        ({"tags": ["x", "y"]}, "a"),
        ({"user": "anna", "group": "g"}, "c"),
    ],
    ids=str,
)
def test_filters_go_together(options, names):
    assert "".join(it.name for it in selection(**options).of(ROWS)) == names


def test_a_wrong_value_is_answered_with_the_valid_ones():
    with pytest.raises(UsageError, match=r"--state .*'RUNING'.*Did you mean 'RUNNING'\?.*LOST"):
        selection(states="RUNING")
    with pytest.raises(UsageError, match="'a b' cannot be a tag"):
        selection(tags=["a b"])


@pytest.mark.parametrize(
    ("order", "names"),
    [
        ("name", "abc"),
        ("created", "abc"),
        ("updated", "abc"),
        ("step", "cab"),
        ("loss", "cba"),
        ("state", "bca"),
    ],
)
def test_orders(order, names):
    assert "".join(it.name for it in in_order(ROWS[::-1], order)) == names
    unknown, known = ("c", names[1:]) if order == "loss" else ("", names)
    assert "".join(it.name for it in in_order(ROWS, order, reverse=True)) == unknown + known[::-1]


def test_a_time_is_an_age_or_a_date():
    assert moment("2h") == pytest.approx(time.time() - 7200, abs=300)
    assert moment(" 2026-11-01 ") == time.mktime(time.strptime("2026-11-01", "%Y-%m-%d"))
    assert moment("2026-11-01 18:30") == moment("2026-11-01T18:30:00")
    for wrong in ("", "yesterday", "7", "d", "-3d", "2026-13-01", "9" * 30 + "d"):
        with pytest.raises(
            UsageError,
            match=r"--since cannot be '.*'\. Use a number and m, h, d or w \(30m, 12h, 7d",
        ):
            moment(wrong)
