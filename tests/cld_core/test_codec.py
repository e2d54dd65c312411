"""Records: JSON becomes values of the annotated types, or an error names the field."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cld_core.records import (
    RecordError,
    find_record,
    from_plain,
    keeping,
    read_record,
    real,
    text,
    to_plain,
    whole,
)


@dataclass(frozen=True)
class Inner:
    rows: tuple[tuple[float, ...], ...] = ()
    pair: tuple[int, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Outer:
    word: Literal["a", "b", 3]
    count: int
    flag: bool = False
    either: int | str = 0
    inner: Inner | None = None
    by_name: Mapping[str, Inner] | None = None
    names: tuple[str, ...] = ()
    anything: Any = None


@dataclass(frozen=True)
class Keeper:
    name: str
    rest: Mapping[str, Any] = keeping()


class Loose(TypedDict, total=False):
    step: int
    loss: float | None


INNERS = st.builds(
    Inner,
    st.lists(st.lists(st.floats(-1e9, 1e9), max_size=3).map(tuple), max_size=3).map(tuple),
    st.none() | st.tuples(st.integers(-5, 5), st.text("ab", max_size=3)),
)
OUTERS = st.builds(
    Outer,
    word=st.sampled_from(["a", "b", 3]),
    count=st.integers(-(2**62), 2**62),
    flag=st.booleans(),
    either=st.integers(0, 3) | st.text("xy", max_size=2),
    inner=st.none() | INNERS,
    by_name=st.none() | st.dictionaries(st.text("kl", max_size=2), INNERS, max_size=2),
    names=st.lists(st.text("n", max_size=2), max_size=2).map(tuple),
    anything=st.none() | st.lists(st.integers(0, 3), max_size=2),
)


@given(OUTERS, st.booleans())
def test_a_record_comes_back_from_json(record, sparse):
    assert from_plain(Outer, json.loads(json.dumps(to_plain(record, sparse=sparse)))) == record


def test_defaults_can_be_left_out():
    plain = to_plain(Outer(word="a", count=1, inner=Inner()), sparse=True)
    assert plain == {"word": "a", "count": 1, "inner": {}}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"count": "1"}, "count is '1'"),
        ({"count": True}, "count"),
        ({"word": "c"}, "word is 'c', not one of 'a', 'b', 3"),
        ({"flag": 1}, "flag"),
        ({"either": 1.5}, "either"),
        ({"names": ["n", 1]}, r"names\[1\]"),
        ({"names": ["\udcff"]}, "names"),
        ({"inner": {"rows": [[1.0], [float("nan")]]}}, r"inner\.rows\[1\]\[0\]"),
        ({"inner": {"pair": [1]}}, r"inner\.pair"),
        ({"by_name": {"k": {"rows": 3}}}, r"by_name\.k\.rows"),
    ],
)
def test_the_field_that_does_not_fit_is_named(changed, named):
    with pytest.raises(RecordError, match=named):
        from_plain(Outer, {"word": "a", "count": 1, **changed})
    with pytest.raises(RecordError, match="count is missing"):
        from_plain(Outer, {"word": "a"})


def test_unknown_fields_are_ignored_or_kept():
    plain = {"word": "a", "count": 1}
    assert from_plain(Outer, {**plain, "later": 1}) == from_plain(Outer, plain)
    kept = from_plain(Keeper, {"name": "n", "later": [1]})
    assert kept == Keeper("n", {"later": [1]})
    assert to_plain(kept) == {"name": "n", "later": [1]}


def test_a_loose_record_keeps_the_fields_that_fit():
    plain = {"step": 3, "loss": "low", "later": 1}
    assert from_plain(Loose, plain) == {"step": 3, "later": 1}
    assert from_plain(Loose, {"loss": None}) == {"loss": None}


def test_a_file_that_is_damaged_is_named(tmp_path):
    file = tmp_path / "record.json"
    assert find_record(Inner, file) is None
    for content in ("{", "[]", '{"rows": 3}'):
        file.write_text(content)
        assert find_record(Inner, file) is None
        with pytest.raises(RecordError, match=r"record\.json: "):
            read_record(Inner, file)
    file.write_text('{"rows": [[1.5]]}')
    assert read_record(Inner, file) == Inner(((1.5,),))


@pytest.mark.parametrize("value", [True, None, "1", 1.0, -1, 2**63, 10**400, [], {}])
def test_a_whole_number_is_not(value):
    assert whole(value) is None


@pytest.mark.parametrize(
    "value", [True, None, "1", float("nan"), float("inf"), 1e300, 10**400, [], {}]
)
def test_a_real_number_is_not(value):
    assert real(value) is None


def test_values_that_are_of_their_types():
    assert (whole(0), whole(7), whole(-1, least=-1)) == (0, 7, -1)
    assert (real(-1.5), real(3)) == (-1.5, 3)
    assert (text(""), text("ä"), text(1), text("\udcff")) == ("", "ä", None, None)
