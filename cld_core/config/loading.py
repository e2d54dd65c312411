"""From a YAML file, its ancestors (`extends`) and command-line overrides to a checked `Recipe`."""

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cld_core.errors import RecipeError
from cld_core.sanitize import has_control

from .build import COMMAND_LINE, build
from .layers import Layer, file_layers, profile_layer
from .reading import MAX_BYTES, MAX_DEPTH, parse, printed, read, to_yaml, to_yaml_line
from .references import literal, resolved
from .schema import Recipe
from .tree import check_keys, walk
from .values import shown
from .variants import SECTIONS, keys_of

# A dotted key.
MAX_NAME = 200
_OVERRIDE = re.compile(r"[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*){0,9}", re.ASCII)


def load(path: str | Path, overrides: Sequence[str] = (), profile: Path | None = None) -> Recipe:
    """Read a recipe.

    Choosing another sampling method or another set of images keeps the keys that both have. Another network, SDE or
    kind of data starts its section afresh.

    Args:
        path: YAML file; its `extends: other.yaml` is looked up beside it, `extends: other` as `shipped.parent` does.
        overrides: dotted assignments such as ``train.steps=1000``, applied last.
        profile: YAML file with a `cluster` section, applied over the recipe's.

    Raises:
        RecipeError: the file cannot be read, or a key or value is wrong. Names file, line and the nearest key.
    """
    return load_with_places(path, overrides, profile)[0]


def load_with_places(
    path: str | Path, overrides: Sequence[str] = (), profile: Path | None = None
) -> tuple[Recipe, dict[str, str]]:
    """As `load`, and what set each dotted key: a file with its line, or the command line; "" is the recipe itself."""
    layers = file_layers(Path(path))
    if profile is not None:
        layers.append(profile_layer(profile))
    where: dict[str, str] = {}
    return _assemble(layers, overrides, Path(path), where=where), where


def load_frozen(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    r"""Read the recipe of a run folder, as `dump` wrote it. Its texts are what they are: ``${`` means nothing in them.

    Args:
        overrides: those that the ledger has, as `anchored_overrides` wrote them.

    Raises:
        RecipeError: the file cannot be read, or a key or value is wrong.
    """
    keys, lines = read(Path(path), follow=False)
    return _assemble([_frozen(Layer(printed(path), keys, lines))], overrides, Path(path))


def with_overrides(
    recipe: Recipe, overrides: Sequence[str], source: str = "recipe", idle: Collection[str] = ()
) -> Recipe:
    """``recipe`` with dotted assignments applied and everything checked again.

    Args:
        source: what messages call the recipe.
        idle: keys whose overrides are ignored if the chosen variant lacks them, such as the axes of a sweep.
    """
    return _assemble([_frozen(Layer(source, recipe.to_dict()))], overrides, Path(source), idle)


def from_dict(tree: Mapping[str, Any], source: str) -> Recipe:
    """The recipe whose `Recipe.to_dict` is ``tree``, checked; ``source`` is its name in messages.

    Raises:
        RecipeError: a key or value is wrong.
    """
    if not isinstance(tree, Mapping):
        raise RecipeError(f"{source}: a recipe is a mapping of sections, not {shown(tree)}. Use another file.")
    return _assemble([_frozen(Layer(source, tree))], (), Path(source))


def override(text: str) -> tuple[str, Any]:
    """Split ``KEY=VALUE``; the value is read as YAML.

    Raises:
        RecipeError: it has another form.
    """
    name, equals, value = text.partition("=")
    if not equals or len(name) > MAX_NAME or not _OVERRIDE.fullmatch(name):
        raise RecipeError(
            f"{COMMAND_LINE}: {shown(text)} is not an override. Write KEY=VALUE, for example train.steps=1000."
        )
    problem = f"{COMMAND_LINE}: the value of {shown(text)} is not YAML"
    if len(value) > MAX_BYTES:
        raise RecipeError(f"{problem} of at most {MAX_BYTES} bytes. Write it into a file.")
    try:
        content, _ = parse(f"{name}: {value}", lambda line: COMMAND_LINE)
    except yaml.YAMLError as error:
        raise RecipeError(f"{problem}. Quote it: '{name}=\"...\"'.") from error
    if not isinstance(content, dict) or list(content) != [name]:
        raise RecipeError(f"{problem} on one line. Quote it: '{name}=\"...\"'.")
    return name, content[name]


def anchored_overrides(overrides: Sequence[str], recipe: Recipe, folder: Path) -> list[str]:
    """Overrides for a ledger: without references, and with absolute paths as `Recipe.anchored` makes them.

    Args:
        recipe: their result.
        folder: what relative paths are taken from.
    """
    relative, absolute = (dict(walk(one.to_dict())) for one in (recipe, recipe.anchored(folder)))
    moved = {key for key, value in absolute.items() if value != relative[key]}
    return [written for text in overrides for written in _settled(text, absolute, moved)]


def _settled(text: str, values: Mapping[str, Any], moved: Collection[str]) -> Iterator[str]:
    """One override, or one for each key of a section, with the values that ``moved`` keys and references have."""
    name, value = override(text)
    keys = [key for key, inner in walk({name: value}) if not isinstance(inner, Mapping) and key in values]
    if "${" not in text and not any(key in moved for key in keys):
        yield text
        return
    yield from (f"{key}={to_yaml_line(literal(values[key]))}" for key in keys)


def dump(recipe: Recipe, *, frozen: bool = True) -> str:
    """The recipe as YAML that `load_frozen`, or else `load`, reads back to an equal recipe.

    Raises:
        RecipeError: it is too long to be read.
    """
    text = to_yaml(recipe.to_dict() if frozen else literal(recipe.to_dict()))
    if len(text.encode()) > MAX_BYTES:
        raise RecipeError(f"{recipe.name}: the recipe has more than {MAX_BYTES} bytes. Shorten its lists and texts.")
    return text


def dump_changed(recipe: Recipe) -> str:
    """As `dump` for `load`, with those keys alone that differ from their defaults, and what selects variants."""
    return to_yaml(literal(_changed(recipe, Recipe())))


def _changed(spec: Any, default: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for entry in dataclasses.fields(spec):
        value, usual = getattr(spec, entry.name), getattr(default, entry.name)
        if not dataclasses.is_dataclass(value):
            found |= {entry.name: value} if value != usual else {}
            continue
        if type(value) is type(usual):
            inner = _changed(value, usual)
        else:
            selector = SECTIONS[entry.name].selector
            kind: Any = type(value)
            inner = {selector: getattr(value, selector), **_changed(value, kind())}
        found |= {entry.name: inner} if inner else {}
    return found


def _frozen(layer: Layer) -> Layer:
    """The layer with values that `_assemble` does not resolve."""
    _check_shape(layer, layer.keys, "", 0)
    return Layer(layer.source, literal(layer.keys), layer.lines)


def _assemble(
    layers: Sequence[Layer],
    overrides: Sequence[str],
    path: Path,
    idle: Collection[str] = (),
    where: dict[str, str] | None = None,
) -> Recipe:
    """The recipe that layers and overrides give.

    Args:
        where: gets what set each key.
    """
    tree: dict[str, Any] = {}
    where = {} if where is None else where
    where[""] = printed(path)
    for layer in layers:
        _apply(layer, tree, where)
    for name, value in _in_order([override(text) for text in overrides], tree, idle):
        _apply(Layer(COMMAND_LINE, _nest(name, value)), tree, where)
    values = resolved(tree, where)
    values.setdefault("name", path.stem)
    return build(values, where)


def _check_shape(layer: Layer, node: Mapping[str, Any], path: str, depth: int) -> None:
    """Refuse names that no key can have, before anything walks down the tree.

    Raises:
        RecipeError: a name has a dot, which only overrides may have, or is not a text; or sections are nested deeply.
    """
    for name, value in node.items():
        key = f"{path}.{name}" if path else str(name)
        is_name = isinstance(name, str) and len(name) <= MAX_NAME and not has_control(name)
        if not is_name or depth > MAX_DEPTH or ("." in name and not _OVERRIDE.fullmatch(name)):
            whose = f"'{path}'" if path else "a recipe"
            raise RecipeError(f"{layer.place(path)}: {whose} has no key {shown(name)}. Write the name of a key.")
        if "." in name:
            *sections, last = name.split(".")
            nested = "".join(f"{section}: {{" for section in sections) + f"{last}: ...{'}' * len(sections)}"
            raise RecipeError(f"{layer.place(key)}: '{key}' is not nested. Write `{nested}`.")
        if isinstance(value, Mapping):
            _check_shape(layer, value, key, depth + 1)


def _apply(layer: Layer, tree: dict[str, Any], where: dict[str, str]) -> None:
    """Merge a layer into the tree and check its keys."""
    _check_shape(layer, layer.keys, "", 0)
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


def _merge(tree: dict[str, Any], keys: Mapping[str, Any], prefix: str, layer: Layer, where: dict[str, str]) -> None:
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
