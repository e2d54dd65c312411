"""The page of all recipe keys, from the dataclasses of `cld_core.recipe`."""

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

from cld_core.recipe import Recipe
from cld_core.recipe.reading import to_yaml_line
from cld_core.recipe.values import expectation
from cld_core.recipe.variants import SECTIONS

_HEAD = """# Recipe keys

A recipe is a YAML file; [The command line](../cli.md#recipes) has its rules. In a file, keys are
nested (`train: {steps: 5}`); on the command line, they are dotted: `cldctl submit toy train.steps=5`.
`cldctl render RECIPE` prints all keys of a recipe with their values. This page is generated from the
code that checks recipes.

| section | what it sets |
| -- | -- |
"""
_ABOUT = {
    "data": "the training data",
    "sde": "the diffusion",
    "network": "the network",
    "objective": "the loss",
    "optim": "the optimiser",
    "train": "length, precision and checkpoints of the training",
    "periodic": "what is computed during the training",
    "sampling": "how samples are drawn",
    "eval": "the settings of evaluations",
    "cluster": "what a job asks for",
    "hooks": "commands of yours that a run calls",
}


def page() -> str:
    """The Markdown of the page."""
    sections = _sections()
    lines = [f"| [`{entry.name}`](#{entry.name}) | {_ABOUT.get(entry.name, '')} |" for entry in sections]
    top = next(entry for entry in dataclasses.fields(Recipe) if entry.name == "name")
    lines += ["", f"`name` is the only key outside sections: {top.metadata['doc']}."]
    for entry in sections:
        lines += ["", f"## {entry.name}", *_section(entry)]
    return _HEAD + "\n".join(lines) + "\n"


def _sections() -> "list[dataclasses.Field[Any]]":
    return [entry for entry in dataclasses.fields(Recipe) if entry.name != "name"]


def _section(entry: "dataclasses.Field[Any]") -> Iterator[str]:
    section = SECTIONS.get(entry.name)
    if section is None:
        yield from _table(entry.name, typing.get_type_hints(Recipe)[entry.name])
        return
    selector = f"{entry.name}.{section.selector}"
    yield from ("", f"`{selector}` chooses the keys of the section. The default is `{next(iter(section.variants))}`.")
    names: dict[type, list[str]] = {}
    for name, variant in section.variants.items():
        names.setdefault(variant.spec, []).append(name)
    for spec, own in names.items():
        yield from ("", f"### {selector}: {', '.join(own)}")
        yield from _table(entry.name, spec)


def _table(prefix: str, spec: type) -> Iterator[str]:
    yield from ("", "| key | default | values | meaning |", "| -- | -- | -- | -- |")
    hints = typing.get_type_hints(spec)
    nested = []
    for entry in dataclasses.fields(spec):
        if dataclasses.is_dataclass(hints[entry.name]):
            nested.append((f"{prefix}.{entry.name}", hints[entry.name]))
        else:
            default = list(entry.default) if isinstance(entry.default, tuple) else entry.default
            values = expectation(hints[entry.name], entry.metadata["bounds"])
            doc = entry.metadata["doc"]
            cells = f"`{prefix}.{entry.name}`", f"`{to_yaml_line(default)}`", values, doc
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    for name, inner in nested:
        yield from ("", f"### {name}", *_table(name, inner))


def names() -> set[str]:
    """All keys with their sections, of all variants, for example `train.ema`."""
    found: set[str] = set()
    for entry in _sections():
        section = SECTIONS.get(entry.name)
        hint = typing.get_type_hints(Recipe)[entry.name]
        specs = [variant.spec for variant in section.variants.values()] if section else [hint]
        for spec in specs:
            found.update(_names(entry.name, spec))
    return found


def _names(prefix: str, spec: Any) -> Iterator[str]:
    if not dataclasses.is_dataclass(spec):
        yield prefix
        return
    hints = typing.get_type_hints(spec)
    for entry in dataclasses.fields(spec):
        yield from _names(f"{prefix}.{entry.name}", hints[entry.name])
