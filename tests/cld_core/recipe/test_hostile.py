"""What somebody else's recipe, or a slip of one's own, cannot do: each is refused in one line with place and fix."""

import os
import time
from pathlib import Path

import pytest
import yaml

from cld_core.errors import RecipeError
from cld_core.recipe import anchored_overrides, dump, from_dict, load, load_frozen, with_overrides
from cld_core.recipe.reading import MAX_BYTES
from cld_core.run import RunFolder
from cld_core.run.events import Requested
from tests.support.paths import RECIPES

TOY = RECIPES / "toy.yaml"
LAUGHS = "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)  # 9**9 values


def write(folder: Path, content: str | bytes, name: str = "mine.yaml") -> Path:
    file = folder / name
    file.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return file


def refusal(*arguments, **keywords) -> str:
    began = time.monotonic()
    with pytest.raises(RecipeError) as caught:
        load(*arguments, **keywords)
    message = str(caught.value)
    assert time.monotonic() - began < 10
    assert message.isprintable(), "one line that no terminal obeys"
    assert len(message) < 5000
    assert message.endswith((".", "?"))
    return message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"train:\n  steps: {'9' * 400}\n", ["line 2", "'train.steps'", "a number of 400 digits"]),
        (f"train:\n  steps: {'9' * 6000}\n", ["line 2", "'train.steps'", "not a number"]),
        (f"train:\n  steps: 0x{'f' * 6000}\n", ["line 2", "'train.steps'", "digits"]),
        (f"optim:\n  lr: {'9' * 400}\n", ["line 2", "'optim.lr'", "digits"]),
        ("optim:\n  lr: 1e999\n", ["line 2", "'optim.lr'", "inf"]),
        ("train:\n  steps: 1e300\n", ["line 2", "'train.steps'"]),
        ("train:\n  steps: 1_\u0968e3\n", ["'train.steps'"]),
        ("train: &a [*a]\n", ["line 1", "'train'", "levels deep"]),
        ("train: &a {steps: *a}\n", ["line 1", "levels deep"]),
        ("&a a: &a [*a]\n", ["line 1", "not valid YAML"]),
        (f"a: &a [x]\n{LAUGHS}", ["values", "aliases"]),
        (f"a: &a {{k: 1}}\nb: &b {{<<: [{', '.join(['*a'] * 6000)}]}}\n", ["values", "aliases"]),
        ("train: {steps: 1}\nnull: 3\n", ["line 2", "a key of the recipe is not a text"]),
        ("~: 3\n", ["line 1", "not a text"]),
        ("train:\n  3: 4\n", ["line 2", "a key of 'train' is not a text"]),
        ("train:\n  [1, 2]: 4\n", ["line 2", "not a text"]),
        ("train:\n  {a: b}: 4\n", ["line 2", "not a text"]),
        ("train:\n  true: 4\n", ["line 2", "not a text"]),
        ("name: x\ntrain.steps: 5\n", ["line 2", "'train.steps' is not nested", "`train: {steps: ...}`"]),
        ("eval:\n  elbo.probes: 5\n", ["line 2", "'eval.elbo.probes' is not nested", "`elbo: {probes: ...}`"]),
        ("train:\n  steps: '${'\n", ["line 2", "'train.steps'", "${"]),
        ("train:\n  steps: '${train.steps}'\n", ["line 2", "'train.steps'", "never ends"]),
        ("name: ${data.name}\ndata:\n  name: ${name}\n", ["'data.name'", "never ends"]),
        ("name: '${train}'\ntrain:\n  steps: 5\n", ["line 1", "'name'", "is a section"]),
        ("name: 'a${network.multipliers}'\nnetwork: {name: ncsnpp, multipliers: [1]}\n", ["'name'", "a list"]),
        ("name: '${oc.env:HOME}'\n", ["line 1", "'name'", "${oc.env:HOME}", "only other keys"]),
        ("data:\n  path: '/x/${oc.env:HOME}'\n  name: folder\n", ["line 2", "'data.path'", "only other keys"]),
        ("cluster:\n  setup: ['echo ${oc.env:HOME}']\n", ["line 2", "'cluster.setup'", "only other keys"]),
        ("name: '${oc.decode:1}'\n", ["'name'", "only other keys"]),
        ("name: '${oc.create:{a: 1}}'\n", ["'name'", "only other keys"]),
        ("name: '${.name}'\n", ["'name'", "only other keys"]),
        ("name: '${${name}}'\n", ["'name'", "only other keys"]),
        ("name: !!python/object/apply:os.system ['true']\n", ["line 1", "python/object/apply"]),
        ("name: !env HOME\n", ["line 1", "'name'", "tag"]),
        ("name: !!binary aGFsbG8=\n", ["'name'", "tag"]),
        ("train: !!set {steps}\n", ["'train'", "tag"]),
        ("train: !!omap [steps: 3]\n", ["'train'", "tag"]),
        ("train:\n  steps: !!int x\n", ["line 2", "not a number"]),
        ("train:\n  tf32: !!bool x\n", ["line 2", "'train.tf32'"]),
        ("name: =\n", ["'name'", "tag"]),
        ("train:\n\tsteps: 3\n", ["line 2", "not valid YAML"]),
        ("name: a\x00b\n", ["not valid YAML"]),
        ('name: "a\\0b"\n', ["line 1", "'name'", "control characters"]),
        ('name: "\\e[31mred"\n', ["line 1", "'name'", "control characters"]),
        ('name: "a\\nb"\n', ["line 1", "'name'", "control characters"]),
        ('name: "\\uD800"\n', ["line 1", "'name'", "control characters"]),
        ('name: "\\u202Eabc"\n', ["line 1", "'name'", "control characters"]),
        ('"na\\nme": 3\n', ["line 1", "no key"]),
        (f"{'k' * 500}: 3\n", ["line 1", "no key"]),
        (f"name: {'x' * 100_000}\n", ["line 1", "'name'"]),
        (f"train: {'[' * 3000}{']' * 3000}\n", ["too deeply"]),
        (f"train: {'{a: ' * 100}{'}' * 100}\n", ["levels deep"]),
        ("a: 1\n---\nb: 2\n", ["not valid YAML"]),
        (f"cluster: {{setup: [{', '.join(['x'] * 2000)}]}}\n", ["'cluster.setup'"]),
        (f"name: x\n# {'x' * MAX_BYTES}\n", ["larger than"]),
        ("extends: ''\n", ["line 1", "'extends'"]),
        ("extends: [a]\n", ["line 1", "'extends'"]),
        ('extends: "a\\0b"\n', ["line 1", "'extends'"]),
        (f"extends: {'x' * 3000}\n", ["cannot read"]),
        ("extends: .\n", ["cannot read"]),
    ],
    ids=lambda value: value[:40].replace("\n", " ") if isinstance(value, str) else "",
)
def test_a_hostile_file(tmp_path, text, words):
    message = refusal(write(tmp_path, text))
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    "content", [b"\xff\xfen\x00", b"name: \xc3\x28\n", "name: \ud800".encode("utf-8", "surrogatepass")]
)
def test_what_is_not_utf_8(tmp_path, content):
    assert "not a text file" in refusal(write(tmp_path, content))


def test_a_byte_order_mark_changes_nothing(tmp_path):
    assert load(write(tmp_path, b"\xef\xbb\xbfname: mine\n")).name == "mine"


@pytest.mark.parametrize(
    "override",
    [
        f"train.steps={'9' * 400}",
        f"train.steps={'9' * 6000}",
        f"optim.lr={'9' * 400}",
        "optim.lr=1e999",
        "optim.lr=nan",
        "optim.lr=.nan",
        "optim.lr=-.inf",
        "train.steps=\u0967\u0968",
        "train.steps=\u00b2",
        "train.steps=-1",
        "train.steps=",
        "train.steps=&a [*a]",
        "train=&a {steps: *a}",
        "train={a.b: 3}",
        "train.steps=1\ntrain.seed: 3",
        "null=3",
        "train.=3",
        "=3",
        "train.steps: 3\nname=x",
        f"{'a.' * 2000}a=1",
        f"{'x' * 10_000}=1",
        "name=${oc.env:HOME}",
        "name=${",
        'name="\\udcff"',
        "name=\udcff",
        'name="\\e[31m"',
        'name="a\\nb"',
        "name=!!python/name:os.system",
        "name=!x y",
        "sampling.method=[em]",
        f"sampling.method={'9' * 6000}",
        f"network.name={'x' * 100_000}",
        "data.name=${data.name}",
        f"train.steps={'[' * 3000}",
    ],
    ids=lambda text: ascii(text[:30]),
)
def test_a_hostile_override(override):
    message = refusal(TOY, [override])
    assert message.startswith("command line: ")


@pytest.mark.parametrize(
    ("override", "limit"),
    [
        ("eval.samples=1e14", "1e+08"),
        ("train.batch_size=1e14", "1e+07"),
        ("sampling.method=em sampling.nfe=1e14", "1e+06"),
        ("eval.elbo.probes=1e14", "10000"),
        ("eval.kid.subsets=1e14", "100000"),
        ("network.layers=1e14", "1000"),
        ("periodic.samples=1e14", "10000"),
        ("train.steps=1e18", "1e+12"),
        ("cluster.tasks_per_node=1e9", "1024"),
        ("cluster.nodes=1e9", "100000"),
    ],
)
def test_counts_are_bounded(override, limit):
    assert f"<= {limit}" in refusal(TOY, override.split())


def test_products_of_counts_are_bounded():
    assert "weights" in refusal(TOY, ["network.width=65536", "network.layers=1000"])
    assert "at most" in refusal(RECIPES / "celebahq256.yaml", ["periodic.samples=10000"])


def test_a_chain_of_ancestors_ends(tmp_path):
    for number in range(1200):
        write(tmp_path, f"extends: {number + 1}.yaml\n", f"{number}.yaml")
    write(tmp_path, "name: last\n", "1200.yaml")
    assert "more than 20 recipes" in refusal(tmp_path / "0.yaml")
    assert load(tmp_path / "1190.yaml").name == "last"


def test_ancestors_in_a_circle_are_refused(tmp_path):
    write(tmp_path, "extends: b.yaml\n", "a.yaml")
    write(tmp_path, "extends: a.yaml\n", "b.yaml")
    assert "circle" in refusal(tmp_path / "a.yaml")


@pytest.mark.timeout(20)
def test_what_is_not_a_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    for name in ("pipe.yaml", "zero.yaml", "loop.yaml", "a\0b"):
        assert "cannot read" in refusal(tmp_path / name)
        assert refusal(TOY, profile=tmp_path / name)
    for name in ("pipe.yaml", "zero.yaml", "loop.yaml"):
        assert refusal(write(tmp_path, f"extends: {name}\n"))
    (tmp_path / "link.yaml").symlink_to(write(tmp_path, "name: linked\n"))
    assert load(tmp_path / "link.yaml").name == "linked"


def test_the_environment_is_never_read(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKEN", "secret")
    for text in ("${oc.env:TOKEN}", "${oc.env:TOKEN,x}", "${TOKEN}", "${oc.decode:${oc.env:TOKEN}}"):
        assert "secret" not in refusal(write(tmp_path, f"name: '{text}'\n"))
    assert load(write(tmp_path, "name: $TOKEN\n")).name == "$TOKEN"


def test_references(tmp_path):
    text = "name: 'r-${train.steps}-${ sde.beta0 }'\ntrain: {steps: 100, log_every: '${train.keep}', keep: 7}\n"
    file = write(tmp_path, f"{text}sde: {{beta0: 2.5}}\n")
    recipe = load(file, ["train.checkpoint_every=${train.log_every}"])
    assert recipe.name == "r-100-2.5"
    assert (recipe.train.log_every, recipe.train.checkpoint_every) == (7, 7)


LITERALS = ["${HOME}", "\\${HOME}", "a\\\\${b}", "${oc.env:HOME}", "${", "${train.steps}", "}${}{", "\\"]


@pytest.mark.parametrize("text", LITERALS)
def test_a_text_with_a_dollar_survives(tmp_path, text):
    """Escaped once, it is the same in the frozen recipe, in what was exported, and after further overrides."""
    escaped = text.replace("\\", "\\\\").replace("${", "\\${") if "${" in text else text
    recipe = load(TOY, [f"data.name='{escaped}'", "data.plugin=x"])
    assert recipe.data.name == text
    frozen = write(tmp_path, dump(recipe))
    assert load_frozen(frozen) == recipe
    assert load(write(tmp_path, dump(recipe, frozen=False))) == recipe
    assert from_dict(recipe.to_dict(), "x.safetensors") == recipe
    assert with_overrides(recipe, ["train.steps=5"]).data.name == text
    assert with_overrides(recipe, ["name=${data.name}"]).name == text, "what a reference leads to is not read again"


def test_overrides_are_settled_for_the_ledger(tmp_path):
    """A reference is resolved when it is typed: a later override of what it leads to changes nothing."""
    before = load(TOY, ["data.plugin=x"])
    frozen = write(tmp_path, dump(before))
    typed = [
        "train.checkpoint_every=${train.steps}",
        "data.name='\\${HOME}'",
        "train={steps: 9, keep: '${train.steps}'}",
    ]
    recipe = with_overrides(before, typed)
    assert (recipe.train.checkpoint_every, recipe.train.keep, recipe.data.name) == (9, 9, "${HOME}")
    settled = anchored_overrides(typed, recipe, tmp_path)
    assert settled == [
        "train.checkpoint_every=9",
        "data.name=\\${HOME}",
        "train.steps=9",
        "train.keep=9",
    ]
    assert load_frozen(frozen, settled) == recipe
    later = load_frozen(frozen, [*settled, "train.steps=77"])
    assert (later.train.steps, later.train.checkpoint_every) == (77, 9)


def test_a_run_keeps_what_was_typed(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKEN", "secret")
    recipe = load(TOY, ["cluster.account='\\${oc.env:TOKEN}'", "name='\\${HOME}'"])
    run = RunFolder.create(tmp_path / "run", recipe, {})
    run.ledger.append(Requested(time=1.0, steps=9, overrides=("train.steps=9", "cluster.qos=\\${oc.env:TOKEN}")))
    again = RunFolder.open(run.path).recipe()
    assert (again.name, again.train.steps) == ("${HOME}", 9)
    assert again.cluster.account == again.cluster.qos == "${oc.env:TOKEN}"


def test_paths_with_odd_characters_in_the_ledger(tmp_path):
    folder = tmp_path / "a: b #'c\""
    before = load(TOY)
    recipe = with_overrides(before, ["eval.fid.stats=x.npz"])
    settled = anchored_overrides(["eval.fid.stats=x.npz"], recipe, folder)
    assert load_frozen(write(tmp_path, dump(before)), settled).eval.fid.stats == str(folder / "x.npz")


@pytest.mark.parametrize(
    "tree",
    [
        None,
        3,
        [],
        "x",
        {"train.steps": 5},
        {"train": {1: 2}},
        {"": {}},
        {"a\nb": 3},
        {"../x": 3},
        {"x" * 9000: 3},
        {"train": {"a\x1b": 3}},
        {"train": {"steps": 10**400}},
    ],
)
def test_a_hostile_dictionary(tree):
    with pytest.raises(RecipeError) as caught:
        from_dict(tree, "x.safetensors")
    assert str(caught.value).startswith("x.safetensors: ")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text", ["0123", "true", "1e-4", "1.5", "2026-01-31", "null", "~", "1:30", "a: b", "", " x", "#"]
)
def test_a_text_that_looks_like_something_else_stays_a_text(tmp_path, text):
    recipe = with_overrides(load(TOY), [f"name='{text}'", f"cluster.setup=['{text}']"])
    assert (recipe.name, recipe.cluster.setup) == (text, (text,))
    assert load(write(tmp_path, dump(recipe))) == recipe
    assert yaml.safe_load(dump(recipe))["name"] == text, "other readers agree"
