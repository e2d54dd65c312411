"""From a YAML file, its ancestors (`extends`) and command-line overrides to a checked `Recipe`."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cld_core.errors import RecipeError

from .build import COMMAND_LINE, build
from .reading import parse, read
from .schema import Recipe
from .tree import check_keys, walk
from .variants import SECTIONS, keys_of


@dataclass(frozen=True)
class _Layer:
    """Some keys, which go over those of the layers before."""

    source: str
    keys: Mapping[str, Any]
    lines: Mapping[str, int] = field(default_factory=dict)  # the line of each dotted key

    def place(self, key: str) -> str:
        return f"{self.source}, line {self.lines[key]}" if key in self.lines else self.source


def load(path: str | Path, overrides: Sequence[str] = (), profile: Path | None = None) -> Recipe:
    """Read a recipe.

    Choosing another sampling method or another set of images keeps the keys that both have. Another network, SDE or
    kind of data starts its section afresh.

    Args:
        path: YAML file; its `extends: other.yaml` is looked up beside it.
        overrides: dotted assignments such as ``train.steps=1000``, applied last.
        profile: YAML file with a `cluster` section, applied over the recipe's.

    Raises:
        RecipeError: the file cannot be read, or a key or value is wrong. Names file, line and the nearest key.
    """
    layers = _file_layers(Path(path), ())
    if profile is not None:
        layers.append(_profile_layer(profile))
    return _assemble(layers, overrides, Path(path))


def with_overrides(
    recipe: Recipe, overrides: Sequence[str], source: str = "recipe", idle: Collection[str] = ()
) -> Recipe:
    """``recipe`` with dotted assignments applied and everything checked again.

    Args:
        source: what messages call the recipe.
        idle: keys whose overrides are ignored if the chosen variant lacks them, such as the axes of a sweep.
    """
    return _assemble([_Layer(source, recipe.to_dict())], overrides, Path(source), idle)


def from_dict(tree: Mapping[str, Any], source: str) -> Recipe:
    """The recipe whose `Recipe.to_dict` is ``tree``, checked; ``source`` is its name in messages.

    Its values are what they are: the tree may come from anybody's file, so ``${...}`` in it is text.

    Raises:
        RecipeError: a key or value is wrong.
    """
    return _assemble([_Layer(source, tree)], (), Path(source), resolve=False)


def override(text: str) -> tuple[str, Any]:
    """Split ``KEY=VALUE``; the value is read as YAML.

    Raises:
        RecipeError: it has another form.
    """
    name, equals, value = text.partition("=")
    if not equals or not name or any(not part for part in name.split(".")):
        raise RecipeError(
            f"{COMMAND_LINE}: '{text}' is not an override. Write KEY=VALUE, for example train.steps=1000."
        )
    try:
        content, _ = parse(f"{name}: {value}", lambda line: COMMAND_LINE)
    except yaml.YAMLError as error:
        raise RecipeError(f"{COMMAND_LINE}: the value of '{text}' is not YAML. Quote it: '{name}=\"...\"'.") from error
    return name, next(iter(content.values())) if isinstance(content, Mapping) else None


def anchored_overrides(overrides: Sequence[str], recipe: Recipe, folder: Path) -> list[str]:
    """Overrides in which the paths that ``recipe``, their result, has are absolute, as `Recipe.anchored` makes them."""
    relative, absolute = (dict(walk(one.to_dict())) for one in (recipe, recipe.anchored(folder)))
    keys = [text.partition("=")[0] for text in overrides]
    moved = {key: value for key, value in absolute.items() if value != relative[key]}
    return [f"{key}={moved[key]}" if key in moved else text for key, text in zip(keys, overrides, strict=True)]


def dump(recipe: Recipe) -> str:
    """The recipe as YAML that `load` reads back to an equal recipe."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(recipe.to_dict()))


def _assemble(
    layers: Sequence[_Layer], overrides: Sequence[str], path: Path, idle: Collection[str] = (), *, resolve: bool = True
) -> Recipe:
    tree: dict[str, Any] = {}
    where: dict[str, str] = {"": str(path)}
    for layer in layers:
        _apply(layer, tree, where)
    for name, value in _in_order([override(text) for text in overrides], tree, idle):
        _apply(_Layer(COMMAND_LINE, _nest(name, value)), tree, where)
    resolved = _resolve(tree, path) if resolve else tree
    resolved.setdefault("name", path.stem)
    return build(resolved, where)


def _apply(layer: _Layer, tree: dict[str, Any], where: dict[str, str]) -> None:
    """Merge a layer into the tree and check its keys."""
    for section, variants in SECTIONS.items():
        node = layer.keys.get(section)
        if isinstance(node, Mapping) and variants.selector in node:
            before = tree.get(section, {})
            kept = variants.kept(variants.chosen(before).spec, variants.chosen(node).spec)
            tree[section] = {name: value for name, value in before.items() if name in kept}
    _merge(tree, layer.keys, "", layer, where)
    check_keys(layer.keys, tree, where)


def _in_order(
    overrides: Sequence[tuple[str, Any]], tree: Mapping[str, Any], idle: Collection[str]
) -> list[tuple[str, Any]]:
    """The overrides as typed, except that a key which only a variant chosen later has comes after that choice."""
    chosen = {section: variants.chosen(tree.get(section)) for section, variants in SECTIONS.items()}
    ordered: list[tuple[str, Any]] = []
    waiting: list[tuple[str, Any]] = []

    def is_early(entry: tuple[str, Any]) -> bool:
        section, _, name = entry[0].partition(".")
        if section not in SECTIONS or name in keys_of(chosen[section].spec):
            return False
        return bool(SECTIONS[section].having(name))

    for key, value in overrides:
        (waiting if is_early((key, value)) else ordered).append((key, value))
        section, _, name = key.partition(".")
        if section in SECTIONS and name == SECTIONS[section].selector:
            chosen[section] = SECTIONS[section].find(value)
            ordered += [entry for entry in waiting if not is_early(entry)]
            waiting = [entry for entry in waiting if is_early(entry)]
    return ordered + [entry for entry in waiting if entry[0] not in idle]


def _resolve(tree: dict[str, Any], path: Path) -> dict[str, Any]:
    """The tree with interpolations such as ${train.steps} replaced by their values."""
    if "${" not in repr(tree):
        return tree
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        resolved: Any = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    except OmegaConfBaseException as error:
        raise RecipeError(f"{path}: {str(error).splitlines()[0]}. Check the ${{...}} in it.") from error
    assert isinstance(resolved, dict)
    return resolved


def _merge(tree: dict[str, Any], keys: Mapping[str, Any], prefix: str, layer: _Layer, where: dict[str, str]) -> None:
    for name, value in keys.items():
        path = f"{prefix}.{name}" if prefix else str(name)
        where[path] = layer.place(path)
        if isinstance(value, Mapping):
            inner = tree.get(name)
            inner = tree[name] = inner if isinstance(inner, dict) else {}
            _merge(inner, value, path, layer, where)
        else:
            tree[name] = value


def _nest(path: str, value: Any) -> dict[str, Any]:
    first, _, rest = path.partition(".")
    return {first: _nest(rest, value) if rest else value}


def _profile_layer(path: Path) -> _Layer:
    keys, lines = read(path)
    layer = _Layer(str(path), keys, lines)
    for key in keys:
        if key != "cluster":
            raise RecipeError(f"{layer.place(key)}: a profile cannot set '{key}'. It has one section, 'cluster'.")
    return layer


def _file_layers(path: Path, children: tuple[Path, ...]) -> list[_Layer]:
    """The layers of a recipe file and all that it extends, the oldest ancestor first."""
    if path.resolve() in children:
        chain = " -> ".join(str(child) for child in (*children, path.resolve()))
        raise RecipeError(f"{path}: recipes extend each other in a circle: {chain}. Remove one `extends`.")
    keys, lines = read(path)
    parent = keys.pop("extends", None)
    layer = _Layer(str(path), keys, lines)
    if parent is None:
        return [layer]
    if not isinstance(parent, str):
        raise RecipeError(f"{path}: 'extends' cannot be {parent!r}; expected the file name of another recipe.")
    parent_path = path.parent / parent
    if not parent_path.is_file():
        raise RecipeError(f"{path}: extends '{parent}', but there is no {parent_path}. Correct the name in 'extends'.")
    return [*_file_layers(parent_path, (*children, path.resolve())), layer]
