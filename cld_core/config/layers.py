"""The files that a recipe is made of: itself, what it extends, and a profile."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cld_core.errors import RecipeError

from . import shipped
from .reading import printed, read
from .values import is_text, shown

# A recipe, what it extends, what that extends, and so on.
MAX_ANCESTORS = 20


@dataclass(frozen=True)
class Layer:
    """Some keys, which go over those of the layers before."""

    source: str
    keys: Mapping[str, Any]
    lines: Mapping[str, int] = field(default_factory=dict)  # the line of each dotted key
    path: Path | None = None

    def place(self, key: str) -> str:
        return f"{self.source}, line {self.lines[key]}" if key in self.lines else self.source


def profile_layer(path: Path) -> Layer:
    """The layer of a profile.

    Raises:
        RecipeError: it cannot be read, or has another section than `cluster`.
    """
    keys, lines = read(path)
    layer = Layer(printed(path), keys, lines, path)
    for key in keys:
        if key != "cluster":
            raise RecipeError(f"{layer.place(key)}: a profile cannot set '{key}'. It has one section, 'cluster'.")
    return layer


def file_layers(path: Path) -> list[Layer]:
    """The layers of a recipe file and all that it extends, the oldest ancestor first.

    Raises:
        RecipeError: one cannot be read, or they extend each other in a circle.
    """
    layers: list[Layer] = []
    known: list[Path] = []
    keys, lines = read(path)
    while True:
        known.append(path.resolve())
        parent = keys.pop("extends", None)
        layers.insert(0, Layer(printed(path), keys, lines, path))
        if parent is None:
            return layers
        place = layers[0].place("extends")
        if not is_text(parent) or not parent:
            text = f"'extends' cannot be {shown(parent)}; expected the name or file name of another recipe"
            raise RecipeError(f"{place}: {text}. Correct it.")
        if len(layers) == MAX_ANCESTORS:
            raise RecipeError(f"{place}: more than {MAX_ANCESTORS} recipes extend each other. Write fewer files.")
        path = shipped.parent(parent, path)
        keys, lines = _read_parent(path, parent, place)
        if path.resolve() in known:
            chain = " -> ".join(printed(file) for file in (*known, path.resolve()))
            raise RecipeError(f"{place}: recipes extend each other in a circle: {chain}. Remove one `extends`.")


def _read_parent(path: Path, name: str, place: str) -> tuple[dict[str, Any], dict[str, int]]:
    try:
        return read(path)
    except RecipeError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            text = f"extends '{name}', but there is no {printed(path)}.{shipped.correction(name)}"
            raise RecipeError(f"{place}: {text}") from error
        raise
