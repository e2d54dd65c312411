"""References between keys: whatever a text is, it can be written so that it stays what it is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cld_core.config.references import literal, resolved
from cld_core.errors import RecipeError

PIECES = st.sampled_from(["\\", "${", "}", "$", "{", "a", "a.b", " ", "oc.env:HOME", "\u00e9"])
TEXTS = st.one_of(st.text(), st.lists(PIECES, max_size=12).map("".join))
VALUES = st.recursive(
    st.one_of(TEXTS, st.integers(), st.booleans(), st.none()), lambda inner: st.lists(inner, max_size=3)
)
TREES = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.one_of(VALUES, st.dictionaries(st.just("b"), VALUES)))
steadily = settings(derandomize=True, deadline=None, max_examples=300)


@steadily
@given(TREES)
def test_a_literal_resolves_to_itself(tree):
    assert resolved(literal(tree), {}) == tree


@steadily
@given(TREES)
def test_references_are_replaced_or_refused(tree):
    refused = None
    try:
        assert resolved(tree, {"": "here"}).keys() == tree.keys()
    except RecipeError as error:
        refused = str(error)
    assert refused is None or (refused.startswith("here: ") and refused.endswith("."))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${a.b}", 3),
        ("${ a.b }", 3),
        ("x${a.b}y${a.b}", "x3y3"),
        (r"\${a.b}", "${a.b}"),
        (r"\\${a.b}", r"\3"),
        (r"\\\${a.b}", r"\${a.b}"),
        (r"\n$ {a}", r"\n$ {a}"),
        ("${c}", [1, "3"]),
    ],
)
def test_spellings(text, value):
    assert resolved({"a": {"b": 3}, "c": [1, "3"], "x": text}, {})["x"] == value


def test_a_text_cannot_grow_without_bound():
    tree = {f"k{number}": f"${{k{number + 1}}}" * 10 for number in range(18)} | {"k18": "x" * 10}
    with pytest.raises(RecipeError, match="more than 10000 characters"):
        resolved(tree, {})
    chain = {f"k{number}": f"${{k{number + 1}}}" for number in range(500)} | {"k500": 1}
    with pytest.raises(RecipeError, match="more than 20 steps"):
        resolved(chain, {})


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", ["${a.b", "x${a.b", "${a.b ", "${a.b}${a.b", "${"])
def test_a_reference_that_is_not_closed_is_refused(text):
    tree = {"a": {"b": 3}, "x": text}
    with pytest.raises(RecipeError, match=r"^here: 'x' has \$\{.*, which is not closed\. Write \} after the key"):
        resolved(tree, {"x": "here"})


def test_a_list_within_a_text_is_refused():
    tree = {"a": [1], "x": "1${a}"}
    with pytest.raises(RecipeError, match=r"'x' has \$\{a\}, a list, within a text"):
        resolved(tree, {})
