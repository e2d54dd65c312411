"""YAML text -> nested dictionaries, and the line of each key. Recipes are plain data: no tags, and few values."""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cld_core.errors import RecipeError
from cld_core.files import passes, read_bytes
from cld_core.sanitize import has_control, printable

from .values import shown

# Reading a file of this size takes seconds; shipped recipes have 2 KiB.
MAX_BYTES = 256 * 2**10
# A value counts each time that an alias repeats it.
MAX_VALUES = 5000
MAX_DEPTH = 10
MAX_KEY = 100

# A command reads the same few files several times, and YAML is most of what reading a recipe takes.
_MOST_PARSED = 64
_parsed: dict[tuple[str, str], tuple[Any, dict[str, int]]] = {}

_OLD_NUMBER = re.compile(r":|^[-+]?0[0-7_]+$")
# YAML 1.1 takes 1e-4 for text: it wants 1.0e-4.
_EXPONENT = re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$", re.ASCII)
_KINDS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map"))
_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):  # type: ignore[misc] # PyYAML has no types
    """Reads numbers such as 1e-4, too, and leaves dates as text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as in the base class
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Dumper(yaml.SafeDumper):  # type: ignore[misc] # PyYAML has no types
    """Quotes every text that `_Loader` or another reader would take for something else, and writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    return dumper.represent_scalar(_TEXT, text, style=None if text.isprintable() else '"')


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))
_Dumper.add_representer(str, _represent_text)


def to_yaml(content: Any) -> str:
    """Plain values as YAML, a line for each key, which `parse` reads back."""
    text: str = yaml.dump(content, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)
    return text


def to_yaml_line(value: Any) -> str:
    """A plain value as YAML on one line, as in an override."""
    text: str = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=2**31)
    return text.removesuffix("...\n").rstrip("\n")


def parse(text: str, place: Callable[[int], str], root: str = "") -> tuple[Any, dict[str, int]]:
    """The content of a YAML document, None if it is empty, and for each dotted key its line, from 1.

    Args:
        place: what messages call a line.
        root: what messages call the whole; empty for a file, whose keys they name.

    Raises:
        yaml.YAMLError: it is not valid YAML.
        RecipeError: it is YAML that no recipe needs, a key is there twice, or a number is not what it looks like.
    """
    known = _parsed.get((text, root))
    if known is None:
        known = _parse(text, place, root)
        if len(_parsed) >= _MOST_PARSED:
            _parsed.clear()
        _parsed[text, root] = known
    return copy.deepcopy(known)


def _parse(text: str, place: Callable[[int], str], root: str) -> tuple[Any, dict[str, int]]:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}
        inspection = _Inspection(loader, place)
        inspection.visit(node, root, 0)
        return loader.construct_document(node), inspection.lines
    except RecursionError as error:
        raise RecipeError(f"{place(1)}: values are nested too deeply. A recipe has three levels.") from error
    finally:
        loader.dispose()


def printed(path: str | Path) -> str:
    """A path in messages: on one line, whatever its name."""
    return printable(str(path), keep="")


def read(path: Path, *, follow: bool = True) -> tuple[dict[str, Any], dict[str, int]]:
    """The keys of a recipe file and the line of each.

    Args:
        follow: whether the file may be a symbolic link.

    Raises:
        RecipeError: there is no such file, this user may not read it, or it is not a mapping in YAML.
        OSError: it cannot be read at this moment, which is no mistake in it.
    """
    name = printed(path)
    try:
        text = read_bytes(path, limit=MAX_BYTES, follow=follow).decode("utf-8-sig")
        content, lines = parse(text, lambda line: f"{name}, line {line}")
    except UnicodeDecodeError as error:
        problem = f"not a text file (byte {error.start} is not UTF-8). Pass a recipe in YAML"
        raise RecipeError(f"{name}: {problem}.") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        if passes(error):
            raise
        fix = "`cldctl recipes` lists the available recipes"
        problem = getattr(error, "strerror", None) or str(error)
        raise RecipeError(f"{name}: cannot read the recipe ({problem}); {fix}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(f"{name}{line}: not valid YAML ({problem}). Fix the indentation or the quotes.") from error
    if not content:
        raise RecipeError(f"{name}: the recipe is empty. `cldctl render toy` shows an example.")
    if not isinstance(content, dict):
        raise RecipeError(f"{name}: a recipe is a mapping of sections. See `cldctl render toy`.")
    return content, lines


@dataclass
class _Inspection:
    """Notes the line of each key, and refuses what YAML accepts but nobody means, before anything is built of it."""

    loader: _Loader
    place: Callable[[int], str]
    lines: dict[str, int] = field(default_factory=dict)
    values: int = 0

    def visit(self, node: yaml.Node, path: str, depth: int) -> None:
        """All of ``node``, which is the value of the dotted key ``path``."""
        self.values += 1
        if depth > MAX_DEPTH or self.values > MAX_VALUES:
            deep = f"is nested more than {MAX_DEPTH} levels deep"
            limit = deep if depth > MAX_DEPTH else f"has more than {MAX_VALUES} values"
            self._refuse(node, f"{_named(path)} {limit}, aliases included. Write plain values")
        if node.tag not in _KINDS:
            self._refuse(node, f"{_named(path)} has the YAML tag {shown(node.tag)}. Write a plain value, or quote it")
        if isinstance(node, yaml.MappingNode):
            self._visit_keys(node, path, depth)
        elif isinstance(node, yaml.SequenceNode):
            known, self.lines = self.lines, {}
            for item in node.value:
                self.lines.clear()
                self.visit(item, path, depth + 1)
            self.lines = known
        elif node.tag != _TEXT:
            self._visit_plain(node, path)

    def _visit_keys(self, node: yaml.MappingNode, path: str, depth: int) -> None:
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                known, self.lines = self.lines, {}
                self.visit(value_node, path, depth + 1)
                self.lines = self.lines | known
                continue
            name = key_node.value
            if key_node.tag != _TEXT:
                self._refuse(key_node, f"a key of {_named(path)} is not a text. Write the name of a key")
            if has_control(name) or len(name) > MAX_KEY:
                self._refuse(key_node, f"{_named(path)} has no key {shown(name)}. Correct its name")
            inner = f"{path}.{name}" if path else name
            if inner in self.lines:
                text = f"not valid YAML (duplicate key '{inner}', first on line {self.lines[inner]}). Remove one"
                self._refuse(key_node, text)
            self.lines[inner] = key_node.start_mark.line + 1
            self.visit(value_node, inner, depth + 1)

    def _visit_plain(self, node: yaml.ScalarNode, path: str) -> None:
        if node.tag.endswith((":int", ":float")) and _OLD_NUMBER.search(node.value):
            # YAML 1.1 reads numbers in base 60 (1:30 is 90) and 8 (0123 is 83).
            text = f"'{path}' cannot be {node.value}, which YAML reads as another number"
            self._refuse(node, f"{text}. Write a plain number (times are in minutes), or quote a name")
        try:
            self.loader.construct_object(node)
        except (ValueError, LookupError, OverflowError):
            self._refuse(node, f"'{path}' cannot be {shown(node.value)}, which is not a number. Write one, or quote it")

    def _refuse(self, node: yaml.Node, problem: str) -> None:
        raise RecipeError(f"{self.place(node.start_mark.line + 1)}: {problem}.")


def _named(path: str) -> str:
    return f"'{path}'" if path else "the recipe"
