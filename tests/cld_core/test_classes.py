"""Classes of labelled data: how labels are named and drawn, and what a file may say of them."""

import pytest

from cld_core.classes import Classes, numbered
from cld_core.codec import from_plain, to_plain
from cld_core.errors import UsageError

ANIMALS = Classes(("cat", "dog", "7"), (1.0, 2.0, 5.0))


@pytest.mark.parametrize(("label", "index"), [("cat", 0), ("dog", 1), (1, 1), ("1", 1), ("7", 2), (2, 2)])
def test_a_label_is_a_name_or_a_number_and_names_come_first(label, index):
    assert ANIMALS.index(label) == index


def test_labels_of_many_examples():
    assert ANIMALS.each("dog", 3) == [1, 1, 1]
    assert ANIMALS.each(["dog", 0, "7"], 3) == [1, 0, 2]
    with pytest.raises(UsageError, match="2 labels for 3 examples"):
        ANIMALS.each([0, 1], 3)
    with pytest.raises(UsageError, match=r"a label is a number or the name of a class, not 1\.5"):
        ANIMALS.each(1.5, 3)


def test_drawn_labels_have_the_frequencies_and_depend_on_their_number_alone():
    drawn = ANIMALS.drawn(0, 8000)
    assert [drawn.count(label) for label in range(3)] == pytest.approx([1000, 2000, 5000], abs=3)
    assert ANIMALS.drawn(123, 456) == drawn[123:456]
    even = numbered([1 / 9] * 9).drawn(0, 90)
    assert [even.count(label) for label in range(9)] == pytest.approx([10] * 9, abs=2)


def test_what_files_say_of_classes_is_checked():
    assert from_plain(Classes, to_plain(ANIMALS)) == ANIMALS
    bad = [
        None,
        {},
        {"names": ["a"], "weights": []},
        {"names": ["a", "a"], "weights": [1, 1]},
        {"names": ["a", "b"], "weights": [0, 0]},
        {"names": ["a", "b"], "weights": [1, float("nan")]},
        {"names": ["a", "b"], "weights": [1, True]},
        {"names": ["a\x1b[0m"], "weights": [1]},
        {"names": [""], "weights": [1]},
        {"names": ["a" * 300], "weights": [1]},
        {"names": "ab", "weights": [1, 1]},
    ]
    for content in bad:
        with pytest.raises(ValueError):
            from_plain(Classes, content)
