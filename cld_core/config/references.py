r"""References of a recipe to its own keys: ``${train.steps}`` is replaced by the value of that key.

There is nothing else that ``${`` can mean: no environment, no files, no code. ``\${`` stands for the text ``${``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cld_core.errors import RecipeError

from .tree import origin
from .values import shown

# References may lead to references.
MAX_CHAIN = 20
MAX_TEXT = 10_000

_OPENING = re.compile(r"(\\*)\$\{")
_KEY = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", re.ASCII)


def literal(value: Any) -> Any:
    """``value`` (nested mappings, lists and plain values) with ``${`` escaped: `resolved` returns it unchanged."""
    if isinstance(value, str):
        return _OPENING.sub(lambda match: match[1] * 2 + r"\${", value)
    if isinstance(value, Mapping):
        return {name: literal(inner) for name, inner in value.items()}
    return [literal(inner) for inner in value] if isinstance(value, list | tuple) else value


def resolved(tree: Mapping[str, Any], where: Mapping[str, str]) -> dict[str, Any]:
    """The tree with its references replaced.

    Args:
        where: for each dotted key, the file or command line that set it.

    Raises:
        RecipeError: names the key and its place.
    """
    return _References(tree, where).section("", tree)


class _Unresolved(Exception):
    """Why a reference has no value, and the fix."""


@dataclass
class _References:
    tree: Mapping[str, Any]
    where: Mapping[str, str]
    known: dict[str, Any] = field(default_factory=dict)
    chain: list[str] = field(default_factory=list)

    def section(self, path: str, node: Mapping[str, Any]) -> dict[str, Any]:
        values = {}
        for name, value in node.items():
            key = f"{path}.{name}" if path else name
            values[name] = self.section(key, value) if isinstance(value, Mapping) else self.value(key, value)
        return values

    def value(self, key: str, value: Any) -> Any:
        """The value of ``key``, which is not a section."""
        if isinstance(value, list):
            return [self.value(key, item) for item in value]
        if not isinstance(value, str) or "${" not in value:
            return value
        try:
            return self._text(value)
        except _Unresolved as problem:
            if self.chain:
                raise  # The key that was asked for is named.
            raise RecipeError(f"{origin(key, self.where)}: '{key}' {problem}") from problem

    def _text(self, text: str) -> Any:
        pieces: list[str] = []
        place = 0
        while (opening := _OPENING.search(text, place)) is not None:
            backslashes, start = len(opening[1]), opening.end()
            end = text.find("}", start)
            pieces += [text[place : opening.start()], "\\" * (backslashes // 2)]
            place = start
            if backslashes % 2:
                pieces.append("${")
                continue
            alone = not backslashes and opening.start() == 0 and end == len(text) - 1
            value = self._between(text, start, end, alone=alone)
            if alone:
                return value
            place = end + 1
            pieces.append(str(value))
        whole = "".join([*pieces, text[place:]])
        if len(whole) > MAX_TEXT:
            raise _Unresolved(f"would be a text of more than {MAX_TEXT} characters. Write a shorter one.")
        return whole

    def _between(self, text: str, start: int, end: int, *, alone: bool) -> Any:
        """The value of the reference whose key is at these places of a text; ``end`` is -1 if nothing closes it."""
        if end < 0:
            written = shown("${" + text[start:])[1:-1]
            raise _Unresolved(rf"has {written}, which is not closed. Write }} after the key, or \${{ for the text ${{.")
        value = self._lookup(text[start:end].strip())
        if isinstance(value, list) and not alone:
            raise _Unresolved(f"has ${{{text[start:end]}}}, a list, within a text. Write the reference alone.")
        return value

    def _lookup(self, name: str) -> Any:
        if not _KEY.fullmatch(name):
            text = rf"has {shown('${' + name)[1:-1]}}}; only other keys of the recipe can be referred to"
            raise _Unresolved(rf"{text}. Write ${{train.steps}}, for example, or \${{ for the text ${{.")
        if name in self.known:
            return self.known[name]
        if name in self.chain or len(self.chain) >= MAX_CHAIN:
            chain = " -> ".join([*self.chain[:3], "...", name] if len(self.chain) > 3 else [*self.chain, name])
            what = "never ends" if name in self.chain else f"has more than {MAX_CHAIN} steps"
            raise _Unresolved(f"refers to {chain}, which {what}. Write one of the values.")
        node: Any = self.tree
        for part in name.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        if node is None or isinstance(node, Mapping):
            found = "is not set" if node is None else "is a section"
            raise _Unresolved(f"has ${{{name}}}, but {name} {found} in the recipe. Check the ${{...}} in it.")
        self.chain.append(name)
        try:
            value = self.known[name] = self.value(name, node)
        finally:
            self.chain.pop()
        return value
