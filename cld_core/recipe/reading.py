"""YAML text -> nested dictionaries, and the line of each key."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from cld_core.errors import RecipeError

_OLD_NUMBER = re.compile(r":|^[-+]?0[0-7_]+$")
# YAML 1.1 takes 1e-4 for text: it wants 1.0e-4.
_EXPONENT = re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$")


class _Loader(yaml.SafeLoader):  # type: ignore[misc] # PyYAML has no types
    """Reads numbers such as 1e-4, too, and leaves dates as text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as in the base class
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def parse(text: str, place: Callable[[int], str]) -> tuple[Any, dict[str, int]]:
    """The content of a YAML document, None if it is empty, and for each dotted key its line, from 1.

    Args:
        place: what messages call a line.

    Raises:
        yaml.YAMLError: it is not valid YAML.
        RecipeError: a key is there twice, or a number is not what it looks like.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        lines: dict[str, int] = {}
        if node is None:
            return None, lines
        _inspect(node, "", place, lines)
        return loader.construct_document(node), lines
    finally:
        loader.dispose()


def read(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The keys of a recipe file and the line of each.

    Raises:
        RecipeError: the file cannot be read, or is not a mapping in YAML.
    """
    try:
        content, lines = parse(path.read_text(encoding="utf-8"), lambda line: f"{path}, line {line}")
    except OSError as error:
        fix = "`cldctl recipes` lists the available recipes"
        raise RecipeError(f"{path}: cannot read the recipe ({error.strerror or error}); {fix}.") from error
    except UnicodeDecodeError as error:
        text = f"not a text file (byte {error.start} is not UTF-8). Pass a recipe in YAML"
        raise RecipeError(f"{path}: {text}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(f"{path}{line}: not valid YAML ({problem}). Fix the indentation or the quotes.") from error
    if not content:
        raise RecipeError(f"{path}: the recipe is empty. `cldctl render recipes/toy.yaml` shows an example.")
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of sections. See `cldctl render recipes/toy.yaml`.")
    return content, lines


def _inspect(node: yaml.Node, prefix: str, place: Callable[[int], str], lines: dict[str, int]) -> None:
    """Note the line of each key below ``node``, and refuse what YAML accepts but nobody means."""
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            path = f"{prefix}.{key_node.value}" if prefix else str(key_node.value)
            line = key_node.start_mark.line + 1
            if path in lines:
                text = f"not valid YAML (duplicate key '{path}', first on line {lines[path]}). Remove one."
                raise RecipeError(f"{place(line)}: {text}")
            lines[path] = line
            _inspect(value_node, path, place, lines)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _inspect(item, prefix, place, {})
    elif node.tag.endswith((":int", ":float")) and _OLD_NUMBER.search(node.value):
        # YAML 1.1 reads numbers in base 60 (1:30 is 90) and 8 (0123 is 83).
        text = f"'{prefix}' cannot be {node.value}, which YAML reads as another number"
        fix = "Write a plain number (times are in minutes), or quote a name."
        raise RecipeError(f"{place(node.start_mark.line + 1)}: {text}. {fix}")
