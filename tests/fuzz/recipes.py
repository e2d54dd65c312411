"""Recipes, profiles and overrides: refused in one line, or frozen and read again to the same
values."""

import functools
import json

import yaml

from cld_core.config import dump, from_dict, load, load_frozen, with_overrides
from cld_core.config.loader import anchored_overrides
from cld_core.config.registry import known, specs_of
from tests.support.paths import RECIPES

from .campaign import Target
from .mutations import ODD_VALUES, changed, damaged

# Texts of YAML and of references that once did harm, or might.
SNIPPETS = (
    # aliases and tags
    *("&a [*a]", "&a {b: *a}", "*nowhere", "<<: *a"),
    *("!!python/object/apply:os.system [true]", "!x y", "!!binary aGk="),
    # references
    *("${", "${}", "${train.steps}", "${oc.env:HOME}", "${${a}}", r"\${HOME}", "${.x}"),
    *("${oc.decode:x}", "$", "}", "${name}${name}${name}"),
    # syntax
    *("[" * 500, "{a: " * 200, "'", '"', "|", ">-", "? ", "- ", ": ", "---", "...", "%YAML 9"),
    # numbers
    *("9" * 400, "9" * 5000, "0x" + "f" * 5000, "1e999", "-.inf", ".nan", "1_0", "0o17", "1:30"),
    *("012", "=", "+1"),
    # keys
    *("null: 1", "~: 1", "3: 1", "[a]: 1", "true: 1", "train.steps: 5", "a.b.c: 1", "'': 1"),
    "extends: mine.yaml",
    # characters
    *('"\\0"', '"\\e[31m"', '"\\uD800"', '"\\u202e"', "\t", "\u0085", "\u2028", "\ufeff", "on"),
    *("2026-01-31", "\u0967"),
)

# Keys whose values are texts, and pieces of such texts.
_KEYS_OF_TEXTS = (
    "name",
    "monitor.mlflow.experiment",
    "cluster.account",
    "cluster.partition",
    "eval.fid.stats",
)
_PIECES = (
    *("a", "\\", "\\${", "}", "${train.steps}", " ", ": ", "#", "1e3", "\u00e9", "true", '"', "["),
    *("&b", "*b"),
)


@functools.cache
def _shipped():
    found = [load(file) for file in sorted(RECIPES.glob("*.yaml"))]
    return tuple((recipe.name, dump(recipe), recipe.to_dict()) for recipe in found)


@functools.cache
def _keys():
    files = sorted(RECIPES.glob("*.yaml"))
    return tuple(
        key
        for file in files
        for key, entry in known(specs_of(load(file))).items()
        if not entry.is_section
    )


def text_of(rng):
    """A recipe, or a part of one, with something wrong in it."""
    _, text, tree = rng.choice(_shipped())
    match rng.randrange(5):
        case 0:
            return damaged(rng, text.encode())
        case 1:
            content = changed(rng, json.loads(json.dumps(tree)))
            try:
                return yaml.safe_dump(content, sort_keys=False).encode("utf-8", "surrogatepass")
            except (yaml.YAMLError, RecursionError, ValueError):
                return b"train: " + b"[" * 5000
        case 2 | 3:
            lines = text.splitlines()
            for _ in range(rng.randint(1, 3)):
                place = rng.randrange(len(lines))
                before = rng.choice((lines[place].partition(":")[0] + ": ", "    ", ""))
                lines[place] = before + rng.choice(SNIPPETS)
            return "\n".join(lines).encode("utf-8", "surrogatepass")
        case _:
            return text.encode()


def literal_of(rng):
    """An assignment of a text that a recipe accepts, with syntax of YAML and of references."""
    name = rng.choice(_KEYS_OF_TEXTS)
    text = "".join(rng.choice(_PIECES) for _ in range(rng.randint(1, 5)))
    return f"{name}='{text}'"


def _value(rng):
    return rng.choice(SNIPPETS) if rng.random() < 0.5 else str(rng.choice(ODD_VALUES))


def override_of(rng):
    """An assignment of one key, mostly an odd one."""
    key = rng.choice(_keys())
    match rng.randrange(6):
        case 0:
            content = damaged(rng, f"{key}=1".encode())
            return content.decode(errors="surrogateescape").replace("\0", "")
        case 1:
            return f"{rng.choice(SNIPPETS)}={_value(rng)}"
        case 2:
            return f"{key}=${{{rng.choice(_keys())}}}"
        case 3:
            return literal_of(rng)
        case 4:
            return f"{key}={rng.choice((1, 2, 3, 10, 1e3, 0.5, 'true', 'null', 'em', 'ncsnpp', 'folder', 'vpsde'))}"
        case _:
            return f"{key}={_value(rng)}"


def _make(rng, folder):
    mine, parent, profile = (folder / name for name in ("mine.yaml", "parent.yaml", "profile.yaml"))
    overrides = [override_of(rng) for _ in range(rng.choice((0, 0, 1, 2, 4)))]
    content = text_of(rng)
    if rng.random() < 0.3:
        content = rng.choice(_shipped())[1].encode()
        overrides = [literal_of(rng) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.2:
        parent.write_bytes(text_of(rng))
        content = b"extends: parent.yaml\n" + content
    mine.write_bytes(content)
    profile.write_bytes(b"cluster:\n  nodes: " + _value(rng).encode("utf-8", "surrogatepass"))
    with_profile = profile if rng.random() < 0.1 else None
    is_frozen = rng.random() < 0.2

    def case():
        recipe = load_frozen(mine, overrides) if is_frozen else load(mine, overrides, with_profile)
        frozen = folder / "frozen.yaml"
        frozen.write_text(dump(recipe))
        assert load_frozen(frozen) == recipe
        assert from_dict(json.loads(json.dumps(recipe.to_dict())), "x") == recipe
        assert with_overrides(recipe, []) == recipe
        frozen.write_text(dump(recipe))
        assert load(frozen) == recipe
        if not is_frozen:
            # As `resume` does: the run exists, and overrides come later.
            before = load(mine, (), with_profile)
            frozen.write_text(dump(before))
            later = with_overrides(before, overrides)
            settled = anchored_overrides(overrides, later, folder)
            assert load_frozen(frozen, settled).anchored(folder) == later.anchored(folder)

    return case


TARGET = Target("recipes", _make, prepare=_keys)
