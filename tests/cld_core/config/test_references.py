"""References between keys: whatever a text is, it can be written so that it stays what it is."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cld_core.config import dump, from_dict, load, load_frozen, with_overrides
from cld_core.config.keys import is_text
from cld_core.config.loader import literal
from cld_core.errors import RecipeError

PIECES = st.sampled_from(["\\", "${", "}", "$", "{", "a", "train.keep", " ", "oc.env:HOME", "\u00e9"])
TEXTS = st.one_of(st.text(max_size=50), st.lists(PIECES, max_size=12).map("".join))
steadily = settings(derandomize=True, deadline=None, max_examples=60)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("references") / "mine.yaml"


def read(file, tree, *overrides):
    file.write_text(yaml.safe_dump(tree))
    return load(file, overrides)


def is_other(text: str) -> bool:
    """Whether a text means something else: that a key is not set, or a number (PyYAML writes "0E0" without quotes)."""
    try:
        float(text.strip().lstrip("-"))
    except ValueError:
        return text == "???"
    return True


@steadily
@given(text=TEXTS.filter(is_text).filter(lambda text: not is_other(text)))
def test_a_literal_stays_what_it_is(file, text):
    recipe = read(file, literal({"name": text, "cluster": {"setup": [text, text]}}))
    assert (recipe.name, recipe.cluster.setup) == (text, (text, text))
    file.write_text(dump(recipe))
    assert load_frozen(file) == load(file) == recipe
    assert from_dict(recipe.to_dict(), "x.safetensors") == recipe
    assert with_overrides(recipe, ["train.seed=7"]).name == text
    again = with_overrides(recipe, ["train.seed=${train.keep}", "hooks.on_change=${name}"])
    assert again.name == again.hooks.on_change == text, "what a reference leads to is not read again"


@steadily
@given(text=TEXTS)
def test_references_are_replaced_or_refused(file, text):
    refused = None
    try:
        assert "${train" not in read(file, {"name": text, "train": {"keep": 7}}).name or "\\${" in text
    except RecipeError as error:
        refused = str(error)
    assert refused is None or refused.startswith(f"{file}, line 1: 'name' ")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${train.keep}", "7"),
        ("${ train.keep }", "7"),
        ("x${train.keep}y${train.keep}", "x7y7"),
        (r"\${train.keep}", "${train.keep}"),
        (r"\\${train.keep}", r"\7"),
        (r"\\\${train.keep}", r"\${train.keep}"),
        (r"\n$ {a}", r"\n$ {a}"),
        ("$TOKEN", "$TOKEN"),
    ],
)
def test_spellings(file, text, value):
    assert read(file, {"name": text, "train": {"keep": 7}}).name == value


def test_what_a_reference_leads_to_refers_to_nothing(file):
    chain = {"name": "${cluster.account}", "cluster": {"account": "${train.keep}"}, "train": {"keep": 7}}
    with pytest.raises(RecipeError, match=r"line \d: 'name' refers to cluster.account, which refers to another key"):
        read(file, chain)
    assert read(file, chain, "cluster.account=${train.keep}", "name=x").cluster.account == "7"


def test_a_text_cannot_grow_without_bound(file):
    tree = {"name": "${cluster.account}" * 50, "cluster": {"account": "x" * 2000}}
    with pytest.raises(RecipeError, match="more than 1000 characters"):
        read(file, tree)
    tree = {"name": "${train.keep}" * 1000, "train": {"keep": 7}}
    with pytest.raises(RecipeError, match="more than 1000 characters"):
        read(file, tree)


@pytest.mark.parametrize("text", ["${train.keep", "x${a.b", "${a.b ", "${train.keep}${a.b", "${", "${.x}", "${${a}}"])
def test_what_is_not_the_name_of_a_key_is_refused(file, text):
    with pytest.raises(RecipeError, match=r"line 1: 'name' has \$\{.*only other keys.*Write"):
        read(file, {"name": text, "train": {"keep": 7}})


def test_lists(file):
    lists = {"network": {"name": "ncsnpp", "attention": [8]}, "data": {"name": "cifar10"}}
    whole = read(file, {**lists, "train": {"ema_lengths": ["${optim.lr}"]}, "optim": {"lr": 0.1}})
    assert whole.train.ema_lengths == (0.1,)
    with pytest.raises(RecipeError, match=r"'name' has \$\{network.attention\}, a list, within a text"):
        read(file, {**lists, "name": "1${network.attention}"})
