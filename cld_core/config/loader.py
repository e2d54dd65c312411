r"""From YAML files, overrides and arguments of Python functions to a checked `Recipe`.

A recipe is layers of keys: the files that it extends, itself, a profile, and each override; later
ones win. OmegaConf replaces references: ``${train.steps}`` is the value of that key, and ``\${``
stands for the text ``${``. ``${`` has no other meaning: no environment, no files, no code. Frozen
recipes have no references.
"""

import functools
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import yaml

from cld_core.errors import RecipeError, did_you_mean
from cld_core.files import passes, read_bytes
from cld_core.plugins import import_plugins
from cld_core.sanitize import one_line, printable

from . import shipped
from .eval import ElboSpec
from .keys import WRONG, Entry, Values, absolute, convert, entries, is_text, shown
from .registry import SECTIONS, SELECTORS, default_specs, known, refusal, spec_of, specs_of
from .sampling import SamplingSpec
from .schema import Recipe, leaves, problems, walk

# Reading a file of this size takes seconds; shipped recipes have 2 KiB.
MAX_BYTES = 256 * 2**10
# A value counts each time that an alias repeats it.
MAX_VALUES = 5000
MAX_DEPTH = 10
# The longest chain of recipes that extend each other.
MAX_ANCESTORS = 20
# Characters of a text with references, and of a text that is referred to.
MAX_REFERENCE = 1000
# The place of an override, in messages.
COMMAND_LINE = "command line"

_OVERRIDE = re.compile(r"[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*){0,9}", re.ASCII)
_NAME = re.compile(r"[\w-]{1,100}", re.ASCII)
_OPENING = re.compile(r"(\\*)\$\{")
_REFERENCE = re.compile(r"(\\*)\$\{(?: *([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*) *\})?", re.ASCII)
_OLD_NUMBER = re.compile(r":|^[-+]?0[0-7_]+$")
# YAML 1.1 takes 1e-4 for text: it wants 1.0e-4.
_EXPONENT = re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$", re.ASCII)
_TEXT = "tag:yaml.org,2002:str"
_TEXT_TAGS = (_TEXT, "tag:yaml.org,2002:timestamp")
_KINDS = (
    *_TEXT_TAGS,
    *(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "null", "seq", "map")),
)


class _Loader(yaml.SafeLoader):  # type: ignore[misc] # PyYAML has no types
    """Also reads numbers such as 1e-4."""


class _Dumper(yaml.SafeDumper):  # type: ignore[misc] # PyYAML has no types
    """Quotes every text that `_Loader` or another reader would take for another type."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    return dumper.represent_scalar(_TEXT, text, style=None if text.isprintable() else '"')


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))
_Dumper.add_representer(str, _represent_text)


@dataclass(frozen=True)
class Layer:
    """Keys that override those of earlier layers.

    Attributes:
        source: the name of the layer in messages.
        lines: the line of each dotted key.
        path: the file; None if there is none.
    """

    source: str
    keys: Values
    lines: Mapping[str, int] = field(default_factory=dict)
    path: Path | None = None

    def place(self, key: str) -> str:
        """The source of a key, with its line if it has one, for messages."""
        return f"{self.source}, line {self.lines[key]}" if key in self.lines else self.source


def load(
    path: str | Path,
    overrides: Sequence[str] = (),
    profile: Path | None = None,
    *,
    with_plugins: bool = True,
) -> Recipe:
    """Read a recipe.

    Choosing another set of images keeps the keys that both have. Another sampling method keeps the
    keys that every method has, and nfe. Another network, SDE or kind of data starts its section
    afresh.

    Args:
        path: YAML file; its `extends: other.yaml` is looked up beside it, `extends: other` as
            `shipped.parent` does.
        overrides: dotted assignments such as ``train.steps=1000``, applied last.
        profile: YAML file with a `cluster` section, applied over the recipe's.
        with_plugins: whether its plug-ins are imported; if not, what they register is not checked.

    Raises:
        RecipeError: the file cannot be read, or a key or value is wrong. Names file, line and the
            nearest key.
    """
    layers = layers_with_profile(file_layers(Path(path)), profile)
    return Assembly(Path(path), with_plugins=with_plugins).recipe(layers, overrides)


def load_frozen(
    path: str | Path, overrides: Sequence[str] = (), *, with_plugins: bool = False
) -> Recipe:
    """Read the recipe of a run folder, as `dump` wrote it: without references.

    Args:
        overrides: the overrides of the ledger, which `anchored_overrides` made.
        with_plugins: whether the recipe's plug-ins are imported; if not, what they register is not
            checked.

    Raises:
        RecipeError: the file cannot be read, or a key or value is wrong.
    """
    layer = read(Path(path), follow=False)
    return Assembly(Path(path), with_plugins=with_plugins, frozen=True).recipe([layer], overrides)


def with_overrides(
    recipe: Recipe, overrides: Sequence[str], source: str = "recipe", optional: Collection[str] = ()
) -> Recipe:
    """``recipe`` with dotted assignments applied, and checked again.

    Imports plug-ins only if the overrides set `plugins`.

    Args:
        source: the name of the recipe in messages.
        optional: keys whose overrides are ignored if the chosen variant lacks them, such as the
            axes of a sweep.
    """
    with_plugins = any(text.startswith("plugins=") for text in overrides)
    assembly = Assembly(Path(source), optional, with_plugins=with_plugins)
    return assembly.recipe([Layer(source, literal(recipe.to_dict()))], overrides)


def from_dict(tree: Values, source: str, *, with_plugins: bool = False) -> Recipe:
    """The recipe whose `Recipe.to_dict` is ``tree``, checked; ``source`` is its name in messages.

    Raises:
        RecipeError: a key or value is wrong.
    """
    content, _ = parse(to_yaml(literal(tree)), source, "")
    if not isinstance(content, dict):
        raise RecipeError(
            f"{source}: a recipe is a mapping of sections, not {shown(content)}. Use another file."
        )
    assembly = Assembly(Path(source), with_plugins=with_plugins, frozen=True)
    return assembly.recipe([Layer(source, content)], ())


def from_arguments(name: str, keys: Values, arguments: Values, caller: str) -> Recipe:
    """The recipe of nested keys, overridden by arguments of the function ``caller``.

    Plug-ins are imported.

    Args:
        arguments: by dotted key, or by section.

    Raises:
        RecipeError: a key or value is wrong; names it.
    """
    in_order = sorted(arguments.items(), key=lambda argument: not _chooses(*argument))
    trees = [keys, *(_nested({key: _plain(value)}) for key, value in in_order)]
    layers = [Layer(caller, literal(tree)) for tree in trees]
    return Assembly(Path(name), frozen=True).recipe(layers, ())


def sampling_spec(recipe: Recipe, arguments: Values, caller: str) -> SamplingSpec:
    """The `sampling` section of a recipe, changed by the arguments that are not None.

    Another method keeps the keys that every method has, and nfe. Errors name the function
    ``caller`` and its arguments.

    Raises:
        RecipeError: there is no such argument with the method, its value is wrong, or it does not
            go with another.
    """
    return _changed(recipe, "sampling", arguments, caller).sampling


def elbo_spec(recipe: Recipe, arguments: Values, caller: str) -> ElboSpec:
    """The `eval.elbo` section of a recipe, changed by the arguments that are not None.

    Its ``eps`` is at least `objective.loss_eps`: the network has seen no smaller t.
    """
    spec = _changed(recipe, "eval.elbo", arguments, caller).eval.elbo
    return replace(spec, eps=max(spec.eps, recipe.objective.loss_eps))


def _changed(recipe: Recipe, section: str, arguments: Values, caller: str) -> Recipe:
    """The recipe with arguments set in a section.

    Errors name the function and its arguments: sampling.corrector=true becomes corrector=True.
    """
    values = {name: _plain(value) for name, value in arguments.items() if value is not None}
    if not values:
        return recipe
    layers = [
        Layer("recipe", literal(recipe.to_dict())),
        Layer(caller, _nested({section: literal(values)})),
    ]
    assembly = Assembly(Path("recipe"), with_plugins=False, frozen=True)
    try:
        changed = assembly.recipe(layers, ())
        if section == "sampling":
            changed.sampling.require_usable()
        return changed
    except RecipeError as error:
        message = re.sub(rf"\b{re.escape(section)}\.(?=\w)", "", str(error))
        message = re.sub(r"=(true|false)\b", lambda match: f"={match[1].title()}", message)
        raise RecipeError(f"{caller}: {message.removeprefix(f'{caller}: ')}") from error


def whole_number(value: Any, name: str, least: int, caller: str) -> int:
    """An argument that is a count.

    Raises:
        RecipeError: the value is not a whole number, or less than ``least``.
    """
    count = convert(_plain(value), int)
    if count is WRONG or count < least:
        raise RecipeError(
            f"{caller}: {name}={shown(value)}: expected a whole number, at least {least} and below "
            "2**63."
        )
    return int(count)


def path_of(value: Any, name: str, caller: str) -> Path:
    """An argument that is a path, of a file or folder that may be missing; "~" is the home folder.

    Raises:
        RecipeError: the value is not a path, or no file can have this path.
    """
    try:
        path = Path(value).expanduser()
        # Raises for a path that no file can have; a file that is missing or hidden is all right.
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            path.lstat()
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        reason = one_line(getattr(error, "strerror", None) or error)
        raise RecipeError(
            f"{caller}: {name}={shown(value)} is not a path ({reason}). "
            "Pass the path of a file or folder, as a string or a pathlib.Path."
        ) from error
    return path


def _plain(value: Any) -> Any:
    """Convert a number of numpy or torch to a number of Python; other values are returned."""
    return value.item() if getattr(value, "shape", None) == () else value


def override(text: str) -> tuple[str, Any]:
    """Split ``KEY=VALUE``; the value is read as YAML.

    Raises:
        RecipeError: the text has another form.
    """
    name, equals, value = text.partition("=")
    if not equals or not _OVERRIDE.fullmatch(name):
        raise RecipeError(
            f"{COMMAND_LINE}: {shown(text)} is not an override. "
            "Write KEY=VALUE, for example train.steps=1000."
        )
    section, _, last = name.rpartition(".")
    content, _ = parse(f"{last}: {value}", COMMAND_LINE, section, f"Quote it: '{name}=\"...\"'")
    if list(content) != [last]:
        raise RecipeError(
            f"{COMMAND_LINE}: the value of {shown(text)} is not YAML on one line. "
            f"Quote it: '{name}=\"...\"'."
        )
    return name, content[last]


def anchored_overrides(overrides: Sequence[str], recipe: Recipe, folder: Path) -> list[str]:
    """Overrides for a ledger: in order, without references, and with absolute paths.

    Args:
        recipe: the recipe that they result in.
        folder: the folder that relative paths are taken from, as in `Recipe.anchored`.
    """
    values = leaves(recipe.anchored(folder).to_dict())
    anchored = []
    for text in overrides:
        name, content = override(text)
        for key, value in leaves({name: content}).items():
            if key in values:
                is_same = key == name and value == values[key]
                anchored.append(text if is_same else f"{key}={to_yaml_line(literal(values[key]))}")
    return _in_order(anchored)


def as_overrides(profile: Path) -> tuple[str, ...]:
    """The settings of a profile, one override for each key, for a run whose recipe is frozen.

    Raises:
        RecipeError: the profile cannot be read, or has another section than `cluster`.
    """
    cluster = _profile(profile).keys.get("cluster") or {}
    return tuple(f"cluster.{name}={to_yaml_line(value)}" for name, value in cluster.items())


def dump(recipe: Recipe) -> str:
    """The recipe as YAML that `load` and `load_frozen` read back to an equal recipe."""
    return to_yaml(literal(recipe.to_dict()))


def dump_changed(recipe: Recipe) -> str:
    """The recipe as YAML, without keys that have their defaults; selectors are always written."""
    keys = known(specs_of(recipe))
    values = leaves(recipe.to_dict())
    changed = {key: value for key, value in values.items() if value != keys[key].usual}
    return to_yaml(literal(_nested(changed)))


def to_yaml(content: Any) -> str:
    """Plain values as YAML, a line for each key, which `parse` reads back."""
    text: str = yaml.dump(
        content, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False
    )
    return text


def to_yaml_line(value: Any) -> str:
    """A plain value as YAML on one line, as in an override."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=2**31
    )
    return text.removesuffix("...\n").rstrip("\n")


def literal(value: Any) -> Any:
    """``value`` (nested mappings, lists and plain values) with ``${`` escaped in its texts."""
    return _on_texts(value, lambda text: _OPENING.sub(lambda match: match[1] * 2 + r"\${", text))


def _unescaped(value: Any) -> Any:
    """The inverse of `literal`."""
    return _on_texts(
        value, lambda text: _OPENING.sub(lambda match: match[1][: len(match[1]) // 2] + "${", text)
    )


def _on_texts(value: Any, function: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return function(value)
    if isinstance(value, Mapping):
        return {name: _on_texts(inner, function) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_on_texts(inner, function) for inner in value]
    return value


def printed(path: str | Path) -> str:
    """A path in messages: on one line, without control characters."""
    return printable(str(path), keep="")


# A command reads the same few files several times, and most of that time is spent in YAML.
@functools.lru_cache(maxsize=64)
def parse(
    text: str,
    source: str,
    section: str | None = None,
    fix: str = "Fix the indentation or the quotes",
) -> tuple[Any, Mapping[str, int]]:
    """The content of a YAML document, and the line of each dotted key, from 1.

    The content is None if the document is empty. Both are cached: they must not be changed.

    Args:
        source: the name of the document in messages.
        section: the section that the keys are in, if the document is not a file with lines.
        fix: the fix in messages, if it is not valid YAML.

    Raises:
        RecipeError: the text is not YAML, is nested too deeply or too long with its aliases, or has
            a value that no recipe can have.
    """
    content = _Content(source, has_lines=section is None)
    try:
        content.loader = _Loader(text)
        node = content.loader.get_single_node()
        if node is None:
            return None, content.lines
        return content.value(node, section or "", 0), content.lines
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        where = content.place(getattr(error, "problem_mark", None))
        raise RecipeError(f"{where}: not valid YAML ({problem}). {fix}.") from error
    except RecursionError as error:
        raise RecipeError(
            f"{source}: values are nested too deeply. A recipe has three levels."
        ) from error


@dataclass
class _Content:
    """Turns YAML nodes into plain values, and notes the line of each key.

    Refuses YAML that is valid and never intended, such as tags and numbers in base 60.

    Attributes:
        source: the name of the document in messages.
        has_lines: whether messages name lines.
        values: the number of values so far.
    """

    source: str
    has_lines: bool
    loader: _Loader = field(init=False)
    lines: dict[str, int] = field(default_factory=dict)
    values: int = 0

    def place(self, mark: yaml.Mark | None) -> str:
        """The document, with the line of a mark, for messages."""
        if mark is None or not self.has_lines:
            return self.source
        return f"{self.source}, line {mark.line + 1}"

    def refuse(self, node: yaml.Node, path: str, problem: str) -> NoReturn:
        """Refuse a node at the dotted key ``path``: ``problem`` ends the sentence about the key."""
        place = self.place(node.start_mark)
        if not path:
            raise RecipeError(f"{place}: the recipe {problem}.")
        raise RecipeError(f"{place}: '{path.partition('[')[0]}' {problem}.")

    def value(self, node: yaml.Node, path: str, depth: int) -> Any:
        """The value of ``node``, at the dotted key ``path``."""
        self.values += 1
        if depth > MAX_DEPTH:
            self.refuse(
                node,
                path,
                f"is nested more than {MAX_DEPTH} levels deep, aliases included. "
                "Write plain values",
            )
        if self.values > MAX_VALUES:
            self.refuse(
                node,
                path,
                f"has more than {MAX_VALUES} values, aliases included. Write plain values",
            )
        if node.tag not in _KINDS:
            self.refuse(
                node,
                path,
                f"has the YAML tag {shown(node.tag)}. Write a plain value, or quote it",
            )
        if isinstance(node, yaml.SequenceNode):
            return [
                self.value(item, f"{path}[{number}]", depth + 1)
                for number, item in enumerate(node.value)
            ]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        return node.value if node.tag in _TEXT_TAGS else self._number(node, path)

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, Any]:
        values = {}
        for key, value in node.value:
            if key.tag != _TEXT or not _NAME.fullmatch(key.value):
                name = key.value if isinstance(key, yaml.ScalarNode) else key.tag
                self.refuse(
                    key,
                    path,
                    f"has no key {shown(name)}. "
                    "Write the name of a key, nested as in `train: {steps: 9}`",
                )
            inner = f"{path}.{key.value}" if path else key.value
            if inner in self.lines:
                self.refuse(
                    key, inner, f"is given twice, first on line {self.lines[inner]}. Remove one"
                )
            self.lines[inner] = key.start_mark.line + 1
            values[key.value] = self.value(value, inner, depth + 1)
        return values

    def _number(self, node: yaml.ScalarNode, path: str) -> Any:
        """The value of a node that is not a text: a number, true, false or null."""
        if node.tag.endswith((":int", ":float")) and _OLD_NUMBER.search(node.value):
            # YAML 1.1 reads numbers in base 60 (1:30 is 90) and 8 (0123 is 83).
            self.refuse(
                node,
                path,
                f"cannot be {node.value}, which YAML reads as another number. "
                "Write a plain number (times are in minutes), or quote a name",
            )
        try:
            return self.loader.construct_object(node)
        except (ValueError, LookupError, OverflowError):
            self.refuse(
                node,
                path,
                f"cannot be {shown(node.value)}, which is not a number. Write a number, or quote "
                "the value",
            )


def read(path: Path, *, follow: bool = True) -> Layer:
    """The keys of a recipe file.

    Args:
        follow: whether the file may be a symbolic link.

    Raises:
        RecipeError: there is no such file, this user may not read it, or it is not a mapping in
            YAML.
        OSError: it cannot be read at this moment, which is not a mistake in it.
    """
    name = printed(path)
    try:
        text = read_bytes(path, limit=MAX_BYTES, follow=follow).decode("utf-8-sig")
        content, lines = parse(text, name)
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{name}: not a text file (byte {error.start} is not UTF-8). Pass a recipe in YAML."
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        if passes(error):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise RecipeError(
            f"{name}: cannot read the recipe ({reason}); "
            "`cldctl recipes` lists the available recipes."
        ) from error
    if not content:
        raise RecipeError(f"{name}: the recipe is empty. `cldctl render toy` shows an example.")
    if not isinstance(content, dict):
        raise RecipeError(
            f"{name}: a recipe is a mapping of sections. `cldctl render toy` shows an example."
        )
    return Layer(name, _anchored(content, path.absolute().parent), lines, path)


def _anchored(keys: Values, folder: Path) -> Values:
    """The keys of a recipe with `plugins` as a list, and its paths absolute.

    Args:
        folder: the folder that relative paths are taken from.
    """
    names = keys.get("plugins")
    if isinstance(names, str):
        names = [names]
    if not isinstance(names, list):
        return keys
    plugins = [
        absolute("plugins", name, folder) if str(name).endswith(".py") else name for name in names
    ]
    return {**keys, "plugins": plugins}


def file_layers(path: Path, below: tuple[str, ...] = ()) -> list[Layer]:
    """The layers of a recipe file and of the files that it extends, the oldest ancestor first.

    Args:
        below: the files that extend it.

    Raises:
        RecipeError: a file cannot be read, or they extend each other in a circle.
    """
    layer = read(path)
    place = layer.place("extends")
    keys = dict(layer.keys)
    parent = keys.pop("extends", None)
    layer = replace(layer, keys=keys)
    if parent is None:
        return [layer]
    if not is_text(parent) or not parent:
        raise RecipeError(
            f"{place}: 'extends' cannot be {shown(parent)}; "
            "expected the name or file name of another recipe. Correct it."
        )
    chain = (*below, os.path.realpath(path))
    if len(chain) == MAX_ANCESTORS:
        raise RecipeError(
            f"{place}: more than {MAX_ANCESTORS} recipes extend each other. Write fewer files."
        )
    file = shipped.parent(parent, path)
    if (real := os.path.realpath(file)) in chain:
        circle = " -> ".join(map(printed, (*chain, real)))
        raise RecipeError(
            f"{place}: recipes extend each other in a circle: {circle}. Remove one `extends`."
        )
    if _is_missing(file):
        recipes = shipped.recipes()
        fix = did_you_mean(Path(parent).stem, recipes)
        fix = fix or f" Correct the name in 'extends'; recipes: {', '.join(recipes)}."
        if shipped.is_path(parent):
            raise RecipeError(f"{place}: extends '{parent}', but there is no {printed(file)}.{fix}")
        raise RecipeError(
            f"{place}: extends '{parent}', but there is no {parent}.yaml in "
            f"{printed(path.parent)}, {shipped.OWN} or {shipped.folder()}.{fix}"
        )
    return [*file_layers(file, chain), layer]


def _is_missing(path: Path) -> bool:
    """Whether there is no such file; one that may not be looked at is not missing."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        # Reading the file names the problem.
        return False
    return False


def _profile(path: Path) -> Layer:
    """The layer of a profile, which has one section."""
    layer = read(path)
    for key in layer.keys:
        if key != "cluster":
            raise RecipeError(
                f"{layer.place(key)}: a profile cannot set '{key}'. It has one section, 'cluster'."
            )
    return replace(layer, source=f"profile {layer.source}")


def layers_with_profile(layers: list[Layer], profile: Path | None) -> list[Layer]:
    """The layers of a recipe, and that of a profile if there is one."""
    return layers if profile is None else [*layers, _profile(profile)]


def origin(key: str, where: Mapping[str, str]) -> str:
    """The place that set ``key``, or the nearest section above it that was set."""
    while key and key not in where:
        key = key.rpartition(".")[0]
    return where.get(key, where.get("", "recipe"))


@dataclass
class Assembly:
    """Merges layers into a recipe.

    Attributes:
        path: the recipe file; its stem is the default name of the recipe.
        optional: keys whose overrides are ignored if the chosen variant lacks them.
        with_plugins: whether plug-ins are imported.
        frozen: whether the layers have no references.
        where: for each dotted key, the place that set it: a file and line, or the command line;
            for "", the place of the recipe itself.
        specs: the chosen specs of the sections with variants, from the layers so far.
        known: the keys that a recipe with these specs can have.
        values: the values of the merged layers so far, by dotted key; a choice of another variant
            drops the keys that it does not keep.
        is_lenient: whether the recipe names plug-ins that are not imported.
        unchecked: whether a chosen variant is unknown, and so belongs to one of these plug-ins.
    """

    path: Path
    optional: Collection[str] = ()
    with_plugins: bool = True
    frozen: bool = False
    where: dict[str, str] = field(default_factory=dict)
    specs: dict[str, type] = field(default_factory=default_specs)
    known: dict[str, Entry] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    is_lenient: bool = False
    unchecked: bool = False

    def recipe(self, layers: Sequence[Layer], overrides: Sequence[str]) -> Recipe:
        """The recipe that results from layers and overrides.

        Raises:
            RecipeError: a key or value is wrong; names the place that set it.
        """
        self.where[""] = printed(self.path)
        # Those of a ledger stay in their order: each was right after those before it.
        in_order = overrides if self.frozen else _in_order(overrides)
        changes = [_layer_of_override(text) for text in in_order]
        self._find_plugins([*layers, *changes])
        for layer in layers:
            self._add(layer)
        for text, layer in zip(in_order, changes, strict=True):
            name = text.partition("=")[0]
            if name not in self.optional or name in self.known:
                self._add(layer)
        values = {"name": self.path.stem, **self._resolved()}
        built: Recipe = self._build(Recipe, "", values)
        if not self.unchecked:
            for key, other, problem in problems(built):
                raise RecipeError(f"{self._origin_of_pair(key, other)}: '{key}' {problem}")
        return built

    def _find_plugins(self, layers: Sequence[Layer]) -> None:
        """Import the plug-ins that the last layer with `plugins` names, if they are to be imported.

        Values of another type are refused later, with those of all other keys.
        """
        layer = next((layer for layer in reversed(layers) if "plugins" in layer.keys), None)
        if layer is None:
            return
        plugins = layer.keys["plugins"]
        if not isinstance(plugins, list | tuple) or not all(map(is_text, plugins)):
            return
        if self.with_plugins:
            import_plugins(plugins, layer.place("plugins"))
        self.is_lenient = bool(plugins) and not self.with_plugins

    def _add(self, layer: Layer) -> None:
        """Check a layer, and add it on top of the others."""
        for section, variants in SECTIONS.items():
            node = layer.keys.get(section)
            if isinstance(node, Mapping) and variants.key in node:
                self._choose(section, node)
        self.known = known(self.specs)
        for path, value in walk(layer.keys):
            self.where[path] = layer.place(path)
            if (problem := refusal(path, value, self.known, self.specs)) is not None:
                raise RecipeError(f"{layer.place(path)}: {problem}")
            if not self.known[path].is_section:
                self._check_references(path, value)
                self.values[path] = value

    def _choose(self, section: str, node: Values) -> None:
        """Drop keys of earlier layers that the chosen variant of a section does not keep."""
        variants = SECTIONS[section]
        name = node[variants.key]
        spec = variants.find(name).spec
        if self.is_lenient and isinstance(name, str) and name not in variants.variants:
            spec = spec_of(section, node)
            self.unchecked = True
        kept_keys = variants.kept(self.specs[section], spec)
        self.specs[section] = spec
        for key in list(self.values):
            if key.startswith(f"{section}.") and key.split(".")[1] not in kept_keys:
                del self.values[key]
                del self.where[key]

    def _check_references(self, key: str, value: Any) -> None:
        """Refuse texts that OmegaConf would not read as plain text or the name of another key."""
        for text in _texts(value):
            if text == "???":
                self._refuse(
                    key, "cannot be '???', which means a missing value. Write another text."
                )
            for match in _REFERENCE.finditer(text):
                if len(match[1]) % 2 or (match[2] is not None and not self.frozen):
                    continue
                reference = shown(text[match.end(1) :][:40])[1:-1]
                if self.frozen:
                    rule = "a frozen recipe has no references"
                else:
                    rule = "only other keys can be referred to"
                self._refuse(
                    key,
                    f"has {reference}; {rule}. "
                    r"Write ${train.steps}, for example, or \${ for the text ${.",
                )

    def _resolved(self) -> Values:
        """The values, with references replaced."""
        has_references = False
        if not self.frozen:
            for key, value in self.values.items():
                for text in _texts(value):
                    for name in _references(text):
                        self._check_target(key, text, name)
                        has_references = True
        if not has_references:
            return {key: _unescaped(value) for key, value in self.values.items()}
        from omegaconf import OmegaConf

        tree: Any = OmegaConf.to_container(OmegaConf.create(_nested(self.values)), resolve=True)
        return {key: value for key, value in walk(tree) if key in self.values}

    def _check_target(self, key: str, text: str, name: str) -> None:
        """Refuse a reference to a key without a value, or with a reference of its own."""
        target = self.values.get(name)
        if target is None:
            is_section = any(other.startswith(f"{name}.") for other in self.values)
            reason = "is a section" if is_section else "is not set"
            self._refuse(
                key,
                f"has ${{{name}}}, but {name} {reason} in the recipe. Check the ${{...}} in it.",
            )
        if isinstance(target, list) and _REFERENCE.fullmatch(text) is None:
            self._refuse(
                key, f"has ${{{name}}}, a list, within a string. Write the reference alone."
            )
        if any(map(_references, _texts(target))):
            self._refuse(
                key,
                f"refers to {name}, which refers to another key itself. Write one of the values.",
            )
        if max(map(len, (text, *_texts(target)))) > MAX_REFERENCE:
            self._refuse(
                key,
                f"would be a string of more than {MAX_REFERENCE} characters. Write a shorter one.",
            )

    def _build(self, spec: type, prefix: str, values: Values) -> Any:
        """The recipe, or the section at ``prefix``, of checked values by dotted key."""
        fields = {}
        for name in entries(spec):
            key = f"{prefix}{name}"
            entry = self.known[key]
            if entry.is_section:
                fields[name] = self._build(entry.hint, f"{key}.", values)
            elif key in values:
                fields[name] = self._value(key, entry, values[key])
        return spec(**fields)

    def _value(self, key: str, entry: Entry, value: Any) -> Any:
        if (converted := entry.convert(value)) is not WRONG:
            return converted
        hint = f": {entry.doc}"
        if key in SELECTORS:
            hint = ", or set plugins to the file that registers it"
        guess = ""
        if isinstance(value, str) and not entry.options and not is_text(value):
            guess = " Leave out control characters, and shorten it."
        elif isinstance(value, str) and len(value) < 100:
            guess = did_you_mean(value, entry.options)
        self._refuse(key, f"cannot be {shown(value)}; expected {entry.expects}{hint}.{guess}")

    def _refuse(self, key: str, problem: str) -> NoReturn:
        raise RecipeError(f"{origin(key, self.where)}: '{key}' {problem}")

    def _origin_of_pair(self, key: str, other: str) -> str:
        """The place that set ``key``, after the command line if that set only ``other``."""
        place = origin(key, self.where)
        if origin(other, self.where) == COMMAND_LINE != place:
            return f"{COMMAND_LINE}, and {place}"
        return place


def _in_order(overrides: Sequence[str]) -> list[str]:
    """Overrides in their order, except that those which choose a variant come first."""
    return sorted(overrides, key=lambda text: not _chooses(*override(text)))


def _chooses(name: str, value: Any) -> bool:
    """Whether a key, or a section with several of them, chooses a variant."""
    return not SELECTORS.isdisjoint(leaves({name: value}))


def _layer_of_override(text: str) -> Layer:
    name, value = override(text)
    return Layer(COMMAND_LINE, _anchored(_nested({name: value}), Path.cwd()))


def _nested(values: Values) -> dict[str, Any]:
    """Mappings with values at dotted keys."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return tree


def _references(text: str) -> list[str]:
    """The keys that a text refers to."""
    return [match[2] for match in _REFERENCE.finditer(text) if not len(match[1]) % 2]


def _texts(value: Any) -> list[str]:
    """All texts in a value that is a text, or in a list."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list | tuple):
        return [text for inner in value for text in _texts(inner)]
    return []
