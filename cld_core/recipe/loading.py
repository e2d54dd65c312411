"""From a YAML file, its ancestors (`extends`) and command-line overrides to a checked `Recipe`."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cld_core.errors import RecipeError

from .build import COMMAND_LINE, VARIANTS, build, check_keys, variant
from .schema import Recipe

_OLD_NUMBER = re.compile(r":|^[-+]?0[0-7_]+$")


def load(path: str | Path, overrides: Sequence[str] = (), profile: Path | None = None) -> Recipe:
    """Read a recipe.

    A section whose `name` stands for another kind than the parent's starts afresh: the keys of another network or
    SDE do not leak.

    Args:
        path: YAML file; its `extends: other.yaml` is looked up beside it.
        overrides: dotted assignments such as ``train.steps=1000``, applied last.
        profile: YAML file with a `cluster` section that goes over the recipe's.

    Raises:
        RecipeError: the file cannot be read, or a key or value is wrong. Names file, line and the nearest key.
    """
    layers = _file_layers(Path(path), ())
    if profile is not None:
        layers.append(_profile_layer(profile))
    layers += [_override_layer(text) for text in overrides]
    return _assemble(layers, Path(path))


def with_overrides(recipe: Recipe, overrides: Sequence[str], source: str = "recipe") -> Recipe:
    """``recipe`` with dotted assignments applied and everything checked again."""
    return _assemble([(source, recipe.to_dict(), {}), *(_override_layer(text) for text in overrides)], Path(source))


def from_dict(tree: Mapping[str, Any], source: str) -> Recipe:
    """The recipe that `Recipe.to_dict` made ``tree`` of, checked; ``source`` stands in messages.

    Raises:
        RecipeError: it does not pass.
    """
    return _assemble([(source, dict(tree), {})], Path(source))


def override(text: str) -> tuple[str, Any]:
    """Split ``KEY=VALUE``; the value is read as YAML."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    name, equals, value = text.partition("=")
    if not equals or not name or any(not part for part in name.split(".")):
        raise RecipeError(
            f"{COMMAND_LINE}: '{text}' is not an override. Write KEY=VALUE, for example train.steps=1000."
        )
    try:
        _refuse_old_numbers(yaml.compose(value), COMMAND_LINE, name)
        parsed: Any = OmegaConf.to_container(
            OmegaConf.create({"value": OmegaConf.create(f"v: {value}")}), resolve=False
        )
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise RecipeError(f"{COMMAND_LINE}: the value of '{text}' is not YAML. Quote it: '{name}=\"...\"'.") from error
    return name, parsed["value"]["v"]


def dump(recipe: Recipe) -> str:
    """The recipe as YAML that `load` reads back to an equal recipe."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(recipe.to_dict()))


Layer = tuple[str, dict[str, Any], dict[str, int]]  # where it is written, its keys, the line of each dotted key


def _assemble(layers: Sequence[Layer], path: Path) -> Recipe:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    tree: dict[str, Any] = {}
    where: dict[str, str] = {"": str(path)}
    for source, layer, lines in layers:
        for section in VARIANTS:
            chosen = _name_of(layer.get(section))
            if chosen is not None and variant(section, chosen) is not variant(section, _name_of(tree.get(section))):
                tree.pop(section, None)
        places = {key: f"{source}, line {line}" for key, line in lines.items()}
        _merge(tree, layer, "", source, places, where)
        for top in layer:
            check_keys({top: layer[top]}, tree, _place_of_unknown(layer[top], str(top), places, source, tree))
    try:
        resolved: Any = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    except OmegaConfBaseException as error:
        raise RecipeError(f"{path}: {str(error).splitlines()[0]}. Check the ${{...}} in it.") from error
    assert isinstance(resolved, dict)
    resolved.setdefault("name", path.stem)
    return build(resolved, where)


def _place_of_unknown(value: Any, key: str, places: dict[str, str], source: str, tree: dict[str, Any]) -> str:
    """Where the first key that is not in the schema stands, so that the message can give its line."""
    for path in [key, *_paths(value, key)]:
        try:
            check_keys(_nest(path, {} if isinstance(_get(value, path, key), Mapping) else 0), tree, "")
        except RecipeError:
            return places.get(path, source)
    return places.get(key, source)


def _paths(value: Any, prefix: str) -> list[str]:
    if not isinstance(value, Mapping):
        return []
    found = []
    for name, inner in value.items():
        found += [f"{prefix}.{name}", *_paths(inner, f"{prefix}.{name}")]
    return found


def _get(value: Any, path: str, prefix: str) -> Any:
    for name in path[len(prefix) :].lstrip(".").split(".") if path != prefix else []:
        value = next(inner for key, inner in value.items() if str(key) == name)
    return value


def _nest(path: str, value: Any) -> dict[str, Any]:
    first, _, rest = path.partition(".")
    return {first: _nest(rest, value) if rest else value}


def _name_of(section: Any) -> str | None:
    return section.get("name") if isinstance(section, Mapping) else None


def _merge(
    tree: dict[str, Any],
    layer: Mapping[str, Any],
    prefix: str,
    source: str,
    places: dict[str, str],
    where: dict[str, str],
) -> None:
    for name, value in layer.items():
        path = f"{prefix}.{name}" if prefix else str(name)
        where[path] = places.get(path, source)
        if isinstance(value, Mapping):
            inner = tree.setdefault(name, {})
            if not isinstance(inner, dict):
                inner = tree[name] = {}
            _merge(inner, value, path, source, places, where)
        else:
            tree[name] = value


def _override_layer(text: str) -> Layer:
    name, value = override(text)
    return COMMAND_LINE, _nest(name, value), {}


def _profile_layer(path: Path) -> Layer:
    tree, lines = _read(path)
    for key in tree:
        if key != "cluster":
            place = f"{path}, line {lines[key]}" if key in lines else str(path)
            raise RecipeError(f"{place}: a profile cannot set '{key}'. It has one section, 'cluster'.")
    return str(path), tree, lines


def _file_layers(path: Path, children: tuple[Path, ...]) -> list[Layer]:
    if path.resolve() in children:
        chain = " -> ".join(str(child) for child in (*children, path.resolve()))
        raise RecipeError(f"{path}: recipes extend each other in a circle: {chain}. Remove one `extends`.")
    tree, lines = _read(path)
    parent = tree.pop("extends", None)
    layers: list[Layer] = [(str(path), tree, lines)]
    if parent is None:
        return layers
    if not isinstance(parent, str):
        raise RecipeError(f"{path}: 'extends' cannot be {parent!r}; expected the file name of another recipe.")
    parent_path = path.parent / parent
    if not parent_path.is_file():
        raise RecipeError(f"{path}: extends '{parent}', but there is no {parent_path}. Correct the name in 'extends'.")
    return [*_file_layers(parent_path, (*children, path.resolve())), *layers]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    import yaml
    from omegaconf import OmegaConf

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        fix = "`cldctl recipes` lists the recipes there are"
        raise RecipeError(f"{path}: cannot read the recipe ({error.strerror or error}); {fix}.") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not a text file (byte {error.start} is not UTF-8). Name a YAML recipe.") from error
    try:
        tree: Any = OmegaConf.to_container(OmegaConf.create(text), resolve=False) if text.strip() else {}
        composed = yaml.compose(text)
        _refuse_old_numbers(composed, str(path))
        lines = _lines(composed, "")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(f"{path}{line}: not valid YAML ({problem}). Mend the indentation or the quotes.") from error
    if not tree:
        raise RecipeError(f"{path}: there is nothing in it. `cldctl render recipes/toy.yaml` shows what a recipe says.")
    if not isinstance(tree, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of sections. See `cldctl render recipes/toy.yaml`.")
    return tree, lines


def _refuse_old_numbers(node: Any, source: str, key: str = "") -> None:
    """Refuse what YAML 1.1 reads as a number in base 60 (1:30 is 90) or 8 (0123 is 83): nobody means those."""
    kind = type(node).__name__
    if kind == "MappingNode":
        for name, inner in node.value:
            _refuse_old_numbers(inner, source, f"{key}.{name.value}" if key else str(name.value))
    elif kind == "SequenceNode":
        for inner in node.value:
            _refuse_old_numbers(inner, source, key)
    elif kind == "ScalarNode" and node.tag.endswith((":int", ":float")) and _OLD_NUMBER.search(node.value):
        line = "" if source == COMMAND_LINE else f", line {node.start_mark.line + 1}"
        text = f"'{key}' cannot be {node.value}, which YAML reads as another number"
        raise RecipeError(f"{source}{line}: {text}. Write a plain number (times are in minutes), or quote a name.")


def _lines(node: Any, prefix: str) -> dict[str, int]:
    """The line, from 1, on which each dotted key of a composed YAML document stands."""
    found: dict[str, int] = {}
    for key_node, value_node in getattr(node, "value", []) if type(node).__name__ == "MappingNode" else []:
        path = f"{prefix}.{key_node.value}" if prefix else str(key_node.value)
        found[path] = key_node.start_mark.line + 1
        found.update(_lines(value_node, path))
    return found
