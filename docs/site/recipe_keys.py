"""The page of all recipe keys, from the descriptions of `cldctl explain`."""

from collections.abc import Iterator, Mapping

from cld_core.config import describe
from cld_core.config.describe import Meanings
from cld_core.config.keys import Entry
from cld_core.config.loader import to_yaml_line
from cld_core.config.registry import SECTIONS

_HEAD = """# Recipe keys

A recipe is a YAML file; [The command line](../cli.md#recipes) has its rules. In a file, keys are
nested (`train: {steps: 5}`); on the command line, they are dotted:
`cldctl submit toy train.steps=5`. `cldctl explain KEY` shows one of them, `cldctl render RECIPE`
all with their values. This page is generated from the code that checks recipes.

| section | what it sets |
| -- | -- |
"""


def page() -> str:
    """The Markdown of the page."""
    sections = describe.sections()
    lines = [
        f"| [`{name}`](#{name}) | {_cell(doc)} |"
        for name, doc in sections.items()
        if "." not in name
    ]
    lines += ["", "Outside sections:", *_table(_rows(describe.keys_of("")))]
    for name in sections:
        lines += ["", f"{'###' if '.' in name else '##'} {name}", *_section(name)]
    return _HEAD + "\n".join(lines) + "\n"


def names() -> set[str]:
    """All keys with their sections, of all variants, for example `train.ema`."""
    every = describe.keys()
    return {name for name in every if "." in name}


def _section(name: str) -> Iterator[str]:
    if (section := SECTIONS.get(name)) is None:
        yield from _table(_rows(describe.keys_of(name)))
        return
    yield from _table(((section.selector, section.entry),))
    tables: dict[tuple[tuple[str, Entry], ...], list[str]] = {}
    for variant in section.variants:
        tables.setdefault(_rows(describe.keys_of(name, variant)), []).append(variant)
    for rows, variants in tables.items():
        about = section.docs[variants[0]]
        yield from (
            "",
            f"### {section.selector}: {', '.join(variants)}",
            "",
            f"{about[0].upper()}{about[1:]}.",
        )
        yield from _table(rows)


def _rows(keys: Mapping[str, Meanings]) -> tuple[tuple[str, Entry], ...]:
    return tuple((key, entry) for key, meanings in keys.items() for entry in meanings)


def _table(rows: tuple[tuple[str, Entry], ...]) -> Iterator[str]:
    if rows:
        yield from ("", "| key | default | values | meaning |", "| -- | -- | -- | -- |")
    for key, entry in rows:
        yield (
            f"| `{key}` | `{to_yaml_line(entry.usual)}` | {_cell(entry.expects)} | "
            f"{_cell(entry.doc)} |"
        )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
