"""Texts of others: what is left of them in messages and on terminals."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cld_core.config import describe
from cld_core.errors import did_you_mean, nearest
from cld_core.sanitize import has_control, is_count, local_time, one_line, printable

ANY = st.text(st.characters(codec=None), max_size=60)
steadily = settings(max_examples=300)


@steadily
@given(ANY)
def test_nothing_that_steers_a_terminal_is_left(text):
    assert not has_control(printable(text, keep=""))
    assert printable(printable(text)) == printable(text)
    if not has_control(text):
        assert printable(text) == text


def test_what_is_left():
    left = {
        "\x1b[1;31mred\x1b[0m": "red",
        "\x1b]0;title\x07after": "after",
        "\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\": "link",
        "\x9b31mred": "31mred",
        "a\tb\nc\rd\x08e": "a\tb\ncde",
        "\u202eabc\u2066": "abc",
        "/data/\udcff.npz": "/data/\ufffd.npz",
        "na\u00efve \u6f22 \U0001f600": "na\u00efve \u6f22 \U0001f600",
    }
    assert {text: printable(text) for text in left} == left


@steadily
@given(ANY, st.integers(2, 80))
def test_one_line_is_short(text, most):
    line = one_line(text, most)
    assert len(line) <= most
    assert not has_control(line)


@steadily
@given(st.integers(0, 10**18 - 1))
def test_a_count_has_one_spelling(number):
    assert is_count(str(number))
    assert not is_count(f"0{number}")
    assert not is_count(f" {number}")


def test_what_is_not_a_count():
    others = ("", "-1", "+1", "1_0", "1e3", "\u00b2", "\u0967", "1.0", "9" * 19, "1\n", "0x1", "00")
    assert not any(map(is_count, others))


@pytest.mark.parametrize("moment", [None, 1e17, -1e17, 1e300, float("inf"), float("nan")])
def test_a_time_that_no_clock_shows_is_unknown(moment):
    assert local_time(moment, "%H", unknown="?") == "?"


def test_a_time_is_that_of_clocks_here():
    noon = time.mktime((2026, 11, 26, 12, 0, 30, 0, 0, -1))
    assert local_time(noon) == "2026-11-26 12:00"
    assert local_time(noon, "%H:%M:%S") == "12:00:30"


def test_a_key_is_near_by_its_name_and_not_by_its_section():
    near = {
        "train.stepz": "train.steps",
        "nfe": "sampling.nfe",
        "cluster.gpu": "cluster.gpus_per_node",
        "xyzzy": None,
    }
    keys = [*describe.keys(), *filter(None, describe.sections())]
    assert {word: nearest(word, keys) for word in near} == near
    assert nearest("network.", keys).startswith("network.")


def test_names_are_near_if_they_are_alike():
    assert did_you_mean("slrm", ["slurm", "local"]) == " Did you mean 'slurm'?"
    assert nearest("toy-0102", ["toy-0102-101112-ab12", "other"]) == "toy-0102-101112-ab12"
    assert nearest("", ["one"]) is None
    assert nearest("one", []) is None
    assert nearest("x" * 10_000, ["one", "two"]) is None
