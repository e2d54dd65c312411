"""A recipe as YAML with what each key means behind it."""

from collections.abc import Iterator, Mapping
from typing import Any

from . import described
from .reading import to_yaml
from .references import literal
from .schema import Recipe

_COLUMN = 36  # where comments begin, if the line is not longer
_WIDTH = 120


def dump_with_comments(recipe: Recipe) -> str:
    """The recipe as `dump` writes it for `load`, with a comment on each key and section."""
    return "\n".join(_lines(literal(recipe.to_dict()), "", recipe.to_dict(), described.sections())) + "\n"


def _lines(
    node: Mapping[str, Any], path: str, tree: Mapping[str, Any], sections: Mapping[str, described.Section]
) -> Iterator[str]:
    indent = "  " * (path.count(".") + 1 if path else 0)
    for name, value in node.items():
        key = f"{path}.{name}" if path else name
        if isinstance(value, Mapping):
            yield _beside(f"{indent}{name}:", sections[key].doc)
            yield from _lines(value, key, tree, sections)
            continue
        comment = _comment(described.of(key, tree))
        if path and sections[path].selector == name:
            comment = _choice(described.of(key, tree), sections[path].variants)
        lines = [f"{indent}{line}" for line in to_yaml({name: value}).rstrip("\n").split("\n")]
        beside = _beside(lines[0], comment)
        if len(lines) == 1 and len(beside) <= _WIDTH:
            yield beside
        else:
            # Nothing can be behind the first line of a list, or of a text that goes on.
            yield f"{indent}# {comment}"
            yield from lines


def _comment(meaning: described.Meaning) -> str:
    is_choice = meaning.options not in ((), ("true", "false"))
    return f"{meaning.doc} ({meaning.expects})" if is_choice else meaning.doc


def _choice(meaning: described.Meaning, variants: Mapping[str, str]) -> str:
    """What the key that selects a variant is: its other values, apart from those that are of another kind."""
    alike = [name for name, doc in variants.items() if doc == meaning.doc]
    others = [name for name, doc in variants.items() if doc != meaning.doc]
    same = f" (one of {', '.join(alike)})" if len(alike) > 1 else ""
    return f"{meaning.doc}{same}" + (f"; others: {', '.join(others)}" if others else "")


def _beside(line: str, comment: str) -> str:
    return f"{line:<{_COLUMN}}  # {comment}"
