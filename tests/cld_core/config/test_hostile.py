"""Recipes of others may be hostile: they are refused in one line, with place and fix."""

import os

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cld_core.config import dump, from_dict, load, load_frozen, with_overrides
from cld_core.config.keys import is_text
from cld_core.config.loader import MAX_BYTES, anchored_overrides, literal
from cld_core.errors import RecipeError
from tests.support.paths import RECIPES, TOY
from tests.support.recipes import toy_recipe

LAUGHS = "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n"
    for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)  # 9**9 values


def write(folder, content, name="mine.yaml"):
    file = folder / name
    file.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return file


def refusal(*arguments, **keywords):
    with pytest.raises(RecipeError) as caught:
        load(*arguments, **keywords)
    message = str(caught.value)
    assert message.isprintable(), "one line that no terminal obeys"
    assert len(message) < 5000
    assert message.endswith((".", "?"))
    return message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"train:\n  steps: {'9' * 400}\n", ["line 2", "'train.steps'", "99...99", "whole number"]),
        (f"train:\n  steps: {'9' * 6000}\n", ["line 2", "'train.steps'", "not a number"]),
        ("train: &a [*a]\n", ["line 1", "'train'", "levels deep"]),
        (f"a: &a [x]\n{LAUGHS}", ["values", "aliases"]),
        ("train: {steps: 1}\nnull: 3\n", ["line 2", "the recipe has no key 'null'"]),
        ("name: x\ntrain.steps: 5\n", ["line 2", "'train.steps'", "nested", "`train: {steps: 9}`"]),
        ("name: ${data.name}\ndata:\n  name: ${name}\n", ["'name'", "refers to"]),
        ("name: '${train}'\ntrain:\n  steps: 5\n", ["line 1", "'name'", "is a section"]),
        ("name: !!python/object/apply:os.system ['true']\n", ["line 1", "python/object/apply"]),
        ('name: "\\e[31mred"\n', ["line 1", "'name'", "control characters"]),
        (f"train: {'[' * 1000}{']' * 1000}\n", ["too deeply"]),
        (f"name: x\n# {'x' * MAX_BYTES}\n", ["larger than"]),
    ],
    ids=lambda value: value[:40].replace("\n", " ") if isinstance(value, str) else "",
)
def test_a_hostile_file(tmp_path, text, words):
    message = refusal(write(tmp_path, text))
    assert [word for word in words if word not in message] == []


def test_files_are_utf_8_perhaps_with_a_byte_order_mark(tmp_path):
    for content in (b"\xff\xfen\x00", b"name: \xc3\x28\n", b"name: \xed\xa0\x80"):
        assert "not a text file" in refusal(write(tmp_path, content))
    assert load(write(tmp_path, b"\xef\xbb\xbfname: mine\n")).name == "mine"


def test_counts_and_their_products_are_bounded():
    assert "<= 1e+12" in refusal(TOY, ["train.steps=1e18"])
    assert "weights" in refusal(TOY, ["network.width=65536", "network.layers=1000"])
    assert "at most" in refusal(RECIPES / "celebahq256.yaml", ["periodic.samples=10000"])


def test_a_chain_of_ancestors_ends(tmp_path):
    for number in range(30):
        write(tmp_path, f"extends: {number + 1}.yaml\n", f"{number}.yaml")
    write(tmp_path, "name: last\n", "30.yaml")
    assert "more than 20 recipes" in refusal(tmp_path / "0.yaml")
    assert load(tmp_path / "20.yaml").name == "last"


@pytest.mark.timeout(20)
def test_files_that_are_missing_or_not_regular_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    for name in ("pipe.yaml", "zero.yaml", "a\0b", "none.yaml", ""):
        assert "cannot read" in refusal(tmp_path / name)
        assert refusal(TOY, profile=tmp_path / name)
    assert refusal(write(tmp_path, "extends: pipe.yaml\n"))
    (tmp_path / "link.yaml").symlink_to(write(tmp_path, "name: linked\n"))
    assert load(tmp_path / "link.yaml").name == "linked"


def test_the_environment_is_never_read(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKEN", "secret")
    others = ("${oc.env:TOKEN,x}", "${TOKEN}", "${oc.decode:${oc.env:TOKEN}}")
    for text in ("${oc.env:TOKEN}", *others):
        assert "secret" not in refusal(write(tmp_path, f"name: '{text}'\n"))
    inside = "name: '${train.seed}'\ncluster: {setup: [['${oc.env:TOKEN}']]}\ntrain: {seed: 1}\n"
    assert "line 2: 'cluster.setup' has ${oc.env:TOKEN}" in refusal(write(tmp_path, inside))
    assert load(write(tmp_path, "name: $TOKEN\n")).name == "$TOKEN"


def test_overrides_in_the_ledger_have_no_references(tmp_path):
    """A later override of a key that one referred to changes nothing."""
    before = toy_recipe()
    frozen = write(tmp_path, dump(before))
    typed = [
        "train.checkpoint_every=${train.steps}",
        "cluster.account='\\${HOME}'",
        "train={steps: 9, keep: '${train.steps}'}",
        "sampling={nfe: 5, method: em}",
    ]
    recipe = with_overrides(before, typed)
    assert recipe.train.checkpoint_every == recipe.train.keep == 9
    settled = anchored_overrides(typed, recipe, tmp_path)
    assert settled == [
        "sampling.method=em",
        "train.checkpoint_every=9",
        r"cluster.account=\${HOME}",
        "train.steps=9",
        "train.keep=9",
        "sampling.nfe=5",
    ], "overrides that choose a variant come first"
    assert load_frozen(frozen, settled) == recipe
    later = load_frozen(frozen, [*settled, "train.steps=77"])
    assert (later.train.steps, later.train.checkpoint_every) == (77, 9)


@pytest.mark.parametrize(
    "tree",
    [
        None,
        3,
        [],
        {"train.steps": 5},
        {"train": {1: 2}},
        {"": {}},
        {"a\nb": 3},
        {"x" * 9000: 3},
        {"name": 10**400},
    ],
    ids=lambda tree: repr(tree)[:20],
)
def test_a_hostile_dictionary(tree):
    with pytest.raises(RecipeError) as caught:
        from_dict(tree, "x.safetensors")
    assert str(caught.value).startswith("x.safetensors: ")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text",
    ["0123", "true", "1e-4", "1.5", "2026-01-31", "null", "~", "1:30", "a: b", "", " x", "#"],
)
def test_a_text_that_looks_like_something_else_stays_a_text(tmp_path, text):
    recipe = with_overrides(toy_recipe(), [f"name='{text}'", f"cluster.setup=['{text}']"])
    assert (recipe.name, recipe.cluster.setup) == (text, (text,))
    assert load(write(tmp_path, dump(recipe))) == recipe
    assert yaml.safe_load(dump(recipe))["name"] == text, "other readers agree"


PIECES = st.sampled_from(
    ["\\", "${", "}", "$", "{", "a", "train.keep", " ", "oc.env:HOME", "\u00e9"]
)
TEXTS = st.one_of(st.text(max_size=50), st.lists(PIECES, max_size=12).map("".join))
steadily = settings(max_examples=40)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("references") / "mine.yaml"


def read(file, tree, *overrides):
    file.write_text(yaml.safe_dump(tree))
    return load(file, overrides)


def is_other(text):
    """Whether PyYAML writes a number, such as "0E0", without quotes; or a key would not be set."""
    try:
        float(text.strip().lstrip("-"))
    except ValueError:
        return text == "???"
    return True


@steadily
@given(text=TEXTS.filter(is_text).filter(lambda text: not is_other(text)))
@example("${oc.env:HOME}")
@example("plain")
def test_a_literal_stays_what_it_is(file, text):
    recipe = read(file, literal({"name": text, "cluster": {"setup": [text, text]}}))
    assert (recipe.name, recipe.cluster.setup) == (text, (text, text))
    file.write_text(dump(recipe))
    assert load_frozen(file) == load(file) == recipe
    assert from_dict(recipe.to_dict(), "x.safetensors") == recipe
    assert with_overrides(recipe, ["train.seed=7"]).name == text
    again = with_overrides(recipe, ["train.seed=${train.keep}", "hooks.on_change=${name}"])
    assert again.name == again.hooks.on_change == text, "a value is not read again"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${train.keep}", "7"),
        ("x${train.keep}y${train.keep}", "x7y7"),
        (r"\${train.keep}", "${train.keep}"),
        (r"\\${train.keep}", r"\7"),
        (r"\\\${train.keep}", r"\${train.keep}"),
    ],
)
def test_references_and_their_escapes(file, text, value):
    assert read(file, {"name": text, "train": {"keep": 7}}).name == value


def test_references_to_references_are_refused(file):
    chain = {"name": "${cluster.account}", "cluster": {"account": "${train.keep}"}}
    chain["train"] = {"keep": 7}
    with pytest.raises(RecipeError, match=r"'name' refers to cluster\.account, which"):
        read(file, chain)
    assert read(file, chain, "cluster.account=${train.keep}", "name=x").cluster.account == "7"


def test_a_text_cannot_grow_without_bound(file):
    tree = {"name": "${cluster.account}" * 50, "cluster": {"account": "x" * 2000}}
    with pytest.raises(RecipeError, match="more than 1000 characters"):
        read(file, tree)


@pytest.mark.parametrize(
    "text", ["${train.keep", "x${a.b", "${a.b ", "${train.keep}${a.b", "${", "${.x}", "${${a}}"]
)
def test_references_to_something_else_are_refused(file, text):
    with pytest.raises(RecipeError, match=r"line 1: 'name' has \$\{.*only other keys.*Write"):
        read(file, {"name": text, "train": {"keep": 7}})


def test_references_in_lists_and_to_lists(file):
    lists = {"network": {"name": "ncsnpp", "attention": [8]}, "data": {"name": "cifar10"}}
    whole = read(file, {**lists, "train": {"ema_lengths": ["${optim.lr}"]}, "optim": {"lr": 0.1}})
    assert whole.train.ema_lengths == (0.1,)
    with pytest.raises(RecipeError, match=r"\$\{network.attention\}, a list, within a string"):
        read(file, {**lists, "name": "1${network.attention}"})
