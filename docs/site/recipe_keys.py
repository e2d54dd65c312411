"""The page of all recipe keys, from what `cldctl explain` says about them."""

import dataclasses
from collections.abc import Iterator

from cld_core.config import describe
from cld_core.config.describe import Key, Section

_HEAD = """# Recipe keys

A recipe is a YAML file; [The command line](../cli.md#recipes) has its rules. In a file, keys are
nested (`train: {steps: 5}`); on the command line, they are dotted: `cldctl submit toy train.steps=5`.
`cldctl explain KEY` shows one of them, `cldctl render RECIPE` all with their values. This page is
generated from the code that checks recipes.

| section | what it sets |
| -- | -- |
"""


def page() -> str:
    """The Markdown of the page."""
    sections = describe.sections()
    whole = sections.pop("")
    lines = [f"| [`{name}`](#{name}) | {_cell(section.doc)} |" for name, section in sections.items() if "." not in name]
    lines += ["", "Outside sections:", *_table(whole.keys)]
    for section in sections.values():
        lines += ["", f"{'###' if '.' in section.name else '##'} {section.name}", *_section(section)]
    return _HEAD + "\n".join(lines) + "\n"


def names() -> set[str]:
    """All keys with their sections, of all variants, for example `train.ema`."""
    known = describe.keys()
    return {name for name in known if "." in name}


def _section(section: Section) -> Iterator[str]:
    if section.selector is None:
        yield from _table(section.keys)
        return
    selector = section.keys[0]
    yield from _table((selector,))
    tables: dict[tuple[Key, ...], list[str]] = {}
    for variant in section.variants:
        keys = tuple(Key(name=key.name, meanings=(_alone(key),)) for key in section.keys_of(variant))
        tables.setdefault(keys, []).append(variant)
    for keys, variants in tables.items():
        about = section.variants[variants[0]]
        yield from ("", f"### {selector.name}: {', '.join(variants)}", "", f"{about[0].upper()}{about[1:]}.")
        yield from _table(keys)


def _table(keys: tuple[Key, ...]) -> Iterator[str]:
    if keys:
        yield from ("", "| key | default | values | meaning |", "| -- | -- | -- | -- |")
    for key in keys:
        for meaning in key.meanings:
            yield f"| `{key.name}` | `{meaning.default}` | {_cell(meaning.expects)} | {_cell(meaning.doc)} |"


def _alone(key: Key) -> describe.Meaning:
    """What a key means in one variant, without the variants that it means the same in."""
    return dataclasses.replace(key.meanings[0], variants=())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
