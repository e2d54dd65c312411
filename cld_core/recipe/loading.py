"""From a YAML file, its ancestors (`extends`) and command-line overrides to a checked `Recipe`."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from cld_core.errors import RecipeError
from cld_core.texts import has_control

from . import shipped
from .build import COMMAND_LINE, build
from .reading import MAX_BYTES, MAX_DEPTH, parse, printed, read, to_yaml, to_yaml_line
from .references import literal, resolved
from .schema import Recipe
from .tree import check_keys, walk
from .values import is_text, shown
from .variants import SECTIONS, keys_of

# A recipe, what it extends, what that extends, and so on.
MAX_ANCESTORS = 20
# A dotted key.
MAX_NAME = 200
_OVERRIDE = re.compile(r"[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*){0,9}", re.ASCII)


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
        path: YAML file; its `extends: other.yaml` is looked up beside it, `extends: other` as `shipped.parent` does.
        overrides: dotted assignments such as ``train.steps=1000``, applied last.
        profile: YAML file with a `cluster` section, applied over the recipe's.

    Raises:
        RecipeError: the file cannot be read, or a key or value is wrong. Names file, line and the nearest key.
    """
    layers = _file_layers(Path(path))
    if profile is not None:
        layers.append(profile_layer(profile))
    return _assemble(layers, overrides, Path(path))


def load_frozen(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    r"""Read the recipe of a run folder, as `dump` wrote it. Its texts are what they are: ``${`` means nothing in them.

    Args:
        overrides: those that the ledger has, as `anchored_overrides` wrote them. A ``${...}`` in them that is not a
            reference to a key is a text as well, so that a run can be read whatever was typed.

    Raises:
        RecipeError: the file cannot be read, or a key or value is wrong.
    """
    keys, lines = read(Path(path), follow=False)
    return _assemble([_frozen(_Layer(printed(path), keys, lines))], overrides, Path(path), new="none")


def with_overrides(
    recipe: Recipe, overrides: Sequence[str], source: str = "recipe", idle: Collection[str] = ()
) -> Recipe:
    """``recipe`` with dotted assignments applied and everything checked again.

    Args:
        source: what messages call the recipe.
        idle: keys whose overrides are ignored if the chosen variant lacks them, such as the axes of a sweep.
    """
    return _assemble([_frozen(_Layer(source, recipe.to_dict()))], overrides, Path(source), idle, new="typed")


def from_dict(tree: Mapping[str, Any], source: str) -> Recipe:
    """The recipe whose `Recipe.to_dict` is ``tree``, checked; ``source`` is its name in messages.

    Raises:
        RecipeError: a key or value is wrong.
    """
    if not isinstance(tree, Mapping):
        raise RecipeError(f"{source}: a recipe is a mapping of sections, not {shown(tree)}. Use another file.")
    return _assemble([_frozen(_Layer(source, tree))], (), Path(source), new="none")


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


def _frozen(layer: _Layer) -> _Layer:
    """The layer with values that `_assemble` does not resolve."""
    _check_shape(layer, layer.keys, "", 0)
    return _Layer(layer.source, literal(layer.keys), layer.lines)


def _assemble(
    layers: Sequence[_Layer],
    overrides: Sequence[str],
    path: Path,
    idle: Collection[str] = (),
    new: Literal["all", "typed", "none"] = "all",
) -> Recipe:
    """The recipe that layers and overrides give.

    Args:
        new: which values must keep to what has been decided since older runs were made: all, the overrides alone, or
            none, if everything was accepted before.
    """
    tree: dict[str, Any] = {}
    where: dict[str, str] = {"": printed(path)}
    for layer in layers:
        _apply(layer, tree, where)
    for name, value in _in_order([override(text) for text in overrides], tree, idle):
        _apply(_Layer(COMMAND_LINE, _nest(name, value)), tree, where)
    values = resolved(tree, where, strict=new != "none")
    values.setdefault("name", path.stem)
    return build(values, where, lambda key: new == "all" or (new == "typed" and where.get(key) == COMMAND_LINE))


def _check_shape(layer: _Layer, node: Mapping[str, Any], path: str, depth: int) -> None:
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


def _apply(layer: _Layer, tree: dict[str, Any], where: dict[str, str]) -> None:
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


def profile_layer(path: Path) -> _Layer:
    keys, lines = read(path)
    layer = _Layer(printed(path), keys, lines)
    for key in keys:
        if key != "cluster":
            raise RecipeError(f"{layer.place(key)}: a profile cannot set '{key}'. It has one section, 'cluster'.")
    return layer


def _file_layers(path: Path) -> list[_Layer]:
    """The layers of a recipe file and all that it extends, the oldest ancestor first."""
    layers: list[_Layer] = []
    known: list[Path] = []
    keys, lines = read(path)
    while True:
        known.append(path.resolve())
        parent = keys.pop("extends", None)
        layers.insert(0, _Layer(printed(path), keys, lines))
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
