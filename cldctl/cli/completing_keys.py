"""The keys and values of overrides, for the shell: `train.st` becomes `train.steps=`."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cld_core.recipe import described
from cld_core.recipe.reading import to_yaml_line
from cld_core.recipe.variants import SECTIONS

# Values of somebody's recipe that a shell takes as they are: others could be commands.
_WORD = re.compile(r"[\w./+:\[\],-]+")


def complete(given: Sequence[str], incomplete: str, sections: Sequence[str] | None = None) -> Iterator[str]:
    """What may be in the place of ``incomplete``, with the words before it; ``sections`` are those with the keys.

    bash treats ``=`` as a word of its own: after it, only the value is completed.
    """
    key, equals, value = incomplete.partition("=")
    if not key and equals:
        yield from _values(given[-1] if given else "", value)
    elif not incomplete and given and described.keys().get(given[-1]) is not None:
        # Of a word that is "=" alone, typer leaves nothing.
        yield from _values(given[-1], "")
    elif not equals and given[-1:] == ["="]:
        yield from _values(given[-2] if len(given) > 1 else "", incomplete)
    elif equals:
        yield from (f"{key}={text}" for text in _values(key, value))
    else:
        yield from _keys(given, incomplete, sections)


def _keys(given: Sequence[str], incomplete: str, sections: Sequence[str] | None) -> Iterator[str]:
    known = [name for name in sections or described.sections() if name and "." not in name]
    if "." not in incomplete:
        matching = [f"{name}." for name in known if name.startswith(incomplete)]
        if len(matching) != 1:
            # With one beginning for all of them, the shell goes on by itself.
            yield from matching
            return
        incomplete = matching[0]
    tree = _recipe(given)
    chosen = _chosen(given, tree)
    names = [key for key in described.keys().values() if key.name.startswith(incomplete) and _has(key, chosen)]
    names = [key for key in names if key.name.partition(".")[0] in known]
    yield from (f"{key.name}=" for key in names)
    if len(names) == 1:
        # A second one, the value so far, keeps the shell from writing a space behind the only one.
        yield f"{names[0].name}={_value(names[0], tree, chosen)}"


def _values(key: str, incomplete: str) -> Iterator[str]:
    found = described.keys().get(key)
    if found is None:
        return
    values = [*found.options, *(meaning.default for meaning in found.meanings)]
    if any("null" in meaning.expects.split() for meaning in found.meanings):
        values.append("null")
    plain = dict.fromkeys(map(_as_word, values))
    yield from (value for value in plain if value.startswith(incomplete) and " " not in value)


def _recipe(given: Sequence[str]) -> Mapping[str, Any]:
    """The first recipe, or recipe of a run, among the words before; empty if there is none."""
    return next(filter(None, map(_tree, given)), {})


def _chosen(given: Sequence[str], tree: Mapping[str, Any]) -> dict[str, str]:
    """The variant that each section has by the words before: a recipe or a run, and overrides."""
    chosen = {}
    text = "\n".join(given).replace("\n=\n", "=").split("\n")
    typed = dict(word.partition("=")[::2] for word in text if "=" in word)
    for name, section in SECTIONS.items():
        selector = f"{name}.{section.selector}"
        value = typed.get(selector) or (tree.get(name) or {}).get(section.selector)
        if value in section.variants:
            chosen[name] = str(value)
    return chosen


def _tree(word: str) -> Mapping[str, Any]:
    """The recipe of a name or file; empty if it is something else."""
    if "=" in word:
        return {}
    from cld_core.recipe import load
    from cld_core.run.lookup import meant
    from cldctl import config
    from cldctl.lookup import recipe_files

    try:
        file = recipe_files().get(word)
        if file is not None or word.endswith((".yaml", ".yml")):
            return load(file or word).to_dict()
        run = meant(word, config.runs_dir())
        return run.recipe().to_dict() if run.exists else {}
    except Exception:  # nobody who completes a word wants to hear of it
        return {}


def _has(key: described.Key, chosen: Mapping[str, str]) -> bool:
    variant = chosen.get(key.name.partition(".")[0])
    return variant is None or any(not meaning.variants or variant in meaning.variants for meaning in key.meanings)


def _value(key: described.Key, tree: Mapping[str, Any], chosen: Mapping[str, str]) -> str:
    """The value that the recipe gives a key; the default without one, or if the words before choose another variant."""
    section, *names = key.name.split(".")
    found: Any = tree.get(section)
    if section in SECTIONS and (found or {}).get(SECTIONS[section].selector) != chosen.get(section):
        found = None
    for name in names:
        if not isinstance(found, Mapping) or name not in found:
            return _default(key, chosen)
        found = found[name]
    text = _as_word(to_yaml_line(found))
    return text if _WORD.fullmatch(text) else _default(key, chosen)


def _default(key: described.Key, chosen: Mapping[str, str]) -> str:
    variant = chosen.get(key.name.partition(".")[0])
    mine = [meaning for meaning in key.meanings if not meaning.variants or variant in meaning.variants]
    return _as_word((mine or list(key.meanings))[0].default)


def _as_word(text: str) -> str:
    """A list without the blanks between its entries; another value as it is."""
    return text.replace(", ", ",") if text.startswith("[") else text
