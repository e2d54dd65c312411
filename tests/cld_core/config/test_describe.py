"""Descriptions of keys: they are complete, and agree with what recipes accept."""

import pytest

from cld_core.config import describe, load, shipped
from cld_core.config.describe import dump_with_comments, from_base
from cld_core.config.loader import to_yaml_line
from cld_core.config.registry import SECTIONS
from cld_core.errors import RecipeError
from tests.support.paths import RECIPES
from tests.support.recipes import shipped_recipe


def test_every_section_and_key_has_a_line():
    assert all(describe.sections().values())
    for entry in (entry for meanings in describe.keys().values() for entry in meanings):
        assert entry.doc
        assert "a value" not in entry.expects
        assert "\n" not in entry.doc + to_yaml_line(entry.usual)


@pytest.mark.parametrize("key", list(describe.keys()))
def test_what_is_expected_is_what_recipes_take(key):
    """The defaults and all listed values are accepted, with the variant that has the key."""
    section = key.partition(".")[0]
    for entry, variants in describe.keys()[key].items():
        variant = variants[0] if variants else None
        chosen = [] if variant is None else [f"{SECTIONS[section].selector}={variant}"]
        base = "cifar10" if variant in ("cifar10", "celebahq256", "folder", "ncsnpp") else "toy"
        for value in (to_yaml_line(entry.usual), *entry.options):
            # A pair of keys may not go together; the value itself is accepted.
            assert "; expected" not in problem_of(base, [*chosen, f"{key}={value}"])


def problem_of(base, overrides):
    try:
        shipped_recipe(base, *overrides)
    except RecipeError as error:
        return str(error)
    return ""


def test_names_are_found():
    assert describe.find("train.ema") == ("train", "train.ema")
    assert describe.find("eval.fid") == ("eval.fid", "")
    assert describe.find("sde.cld") == ("sde", "cld")
    # A key of this name comes before the variant.
    assert describe.find("sampling.conjugate") == ("sampling", "sampling.conjugate")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("train.emma", "'train.ema'"),
        ("steps", "'train.steps'"),
        ("sde.vpsd", "'sde.vpsde'"),
        ("xyzzy", "explain` lists"),
    ],
)
def test_a_message_about_a_wrong_name_has_the_nearest(name, words):
    with pytest.raises(RecipeError, match=words):
        describe.find(name)


@pytest.mark.parametrize("name", [file.stem for file in RECIPES.glob("*.yaml")])
def test_yaml_with_comments_is_read_back(tmp_path, name):
    odd = [
        "cluster.setup=['a # b','c']",
        "cluster.container='a: # \"b\"'",
        r"hooks.on_change='echo \${x}'",
    ]
    recipe = shipped_recipe(name, *odd)
    text = dump_with_comments(recipe)
    (tmp_path / f"{name}.yaml").write_text(text)
    assert load(tmp_path / f"{name}.yaml") == recipe
    lines = text.splitlines()
    assert all(len(line) <= 120 for line in lines if "#" in line.lstrip()[1:])
    (ema,) = (line for line in lines if line.startswith("  ema: "))
    assert ema.endswith("# decay of the moving average of the weights")


def test_changes_from_the_base_and_the_places_that_set_them(tmp_path):
    (tmp_path / "base.yaml").write_text("extends: toy\nname: base\ntrain: {steps: 10}\n")
    (tmp_path / "mine.yaml").write_text(
        "extends: base.yaml\ntrain:\n  ema: 0.5\n  seed: 3\nsde: {name: vpsde}\n"
    )
    (tmp_path / "site.yaml").write_text("cluster: {partition: gpu}\n")
    overrides = ["train.seed=4", "objective.name=dsm"]
    base, found = from_base(tmp_path / "mine.yaml", overrides, tmp_path / "site.yaml")
    assert base.samefile(shipped.find("toy"))
    assert {*list(found)[:2]} == {"train.seed", "objective.name"}, "the command line comes first"
    assert found["train.steps"] == f"10 instead of 800000  ({tmp_path}/base.yaml, line 3)"
    assert found["train.ema"].endswith(f"({tmp_path}/mine.yaml, line 3)")
    assert found["train.seed"].endswith("(command line)")
    assert found["cluster.partition"].endswith(f"(profile {tmp_path}/site.yaml, line 1)")
    assert found["sde.name"].startswith("vpsde ")
    assert found["sde.beta0"] == "0.1 instead of 4.0  (default)", "of the new diffusion"
    assert "sde.m_inv" not in found, "the new diffusion has no mass"
