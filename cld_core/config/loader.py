r"""From YAML files, what they extend, overrides, and arguments of Python functions to a checked
`Recipe`.

A recipe is layers of keys: what it extends, itself, a profile, and each override. OmegaConf merges
them and replaces references: ``${train.steps}`` is the value of that key, and ``\${`` stands for
the text ``${``. There is nothing else that ``${`` can mean: no environment, no files, no code.
Frozen recipes have no references, and are read without OmegaConf.
"""

import functools
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import yaml

from cld_core.errors import RecipeError, did_you_mean
from cld_core.files import passes, read_bytes
from cld_core.registration import import_plugins
from cld_core.sanitize import one_line, printable

from . import shipped
from .eval import ElboSpec
from .keys import MAX_INT, WRONG, Entry, absolute, convert, entries, is_text, shown
from .registry import SECTIONS, SELECTORS, default_specs, known, refusal, spec_of, specs_of
from .sampling import SamplingSpec
from .schema import Recipe, leaves, problems, walk

# Reading a file of this size takes seconds; shipped recipes have 2 KiB.
MAX_BYTES = 256 * 2**10
# A value counts each time that an alias repeats it.
MAX_VALUES = 5000
MAX_DEPTH = 10
# A recipe, what it extends, what that extends, and so on.
MAX_ANCESTORS = 20
# Of a text with references, and of a text that is referred to.
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
    """Reads numbers such as 1e-4, too."""


class _Dumper(yaml.SafeDumper):  # type: ignore[misc] # PyYAML has no types
    """Quotes every text that `_Loader` or another reader would take for something else."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    return dumper.represent_scalar(_TEXT, text, style=None if text.isprintable() else '"')


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))
_Dumper.add_representer(str, _represent_text)


@dataclass(frozen=True)
class Layer:
    """Some keys, which go over those of the layers before.

    Attributes:
        lines: the line of each dotted key.
        path: the file; None if there is none.
    """

    source: str
    keys: Mapping[str, Any]
    lines: Mapping[str, int] = field(default_factory=dict)
    path: Path | None = None

    def place(self, key: str) -> str:
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
    return load_with_places(path, overrides, profile, with_plugins=with_plugins)[0]


def load_with_places(
    path: str | Path,
    overrides: Sequence[str] = (),
    profile: Path | None = None,
    *,
    with_plugins: bool = True,
) -> tuple[Recipe, dict[str, str]]:
    """As `load`, and what set each dotted key: a file with its line, or the command line; "" is the
    recipe itself."""
    layers = file_layers(Path(path))
    if profile is not None:
        layers.append(_profile(profile))
    assembly = _Assembly(Path(path), with_plugins=with_plugins)
    return assembly.recipe(layers, _in_order(overrides)), assembly.where


def load_frozen(
    path: str | Path, overrides: Sequence[str] = (), *, with_plugins: bool = False
) -> Recipe:
    """Read the recipe of a run folder, as `dump` wrote it: without references.

    Args:
        overrides: those that the ledger has, as `anchored_overrides` wrote them.
        with_plugins: as in `load`.

    Raises:
        RecipeError: the file cannot be read, or a key or value is wrong.
    """
    layer = read(Path(path), follow=False)
    return _Assembly(Path(path), with_plugins=with_plugins, frozen=True).recipe([layer], overrides)


def with_overrides(
    recipe: Recipe, overrides: Sequence[str], source: str = "recipe", idle: Collection[str] = ()
) -> Recipe:
    """``recipe`` with dotted assignments applied and everything checked again. Imports only
    plug-ins that these name.

    Args:
        source: what messages call the recipe.
        idle: keys whose overrides are ignored if the chosen variant lacks them, such as the axes of
            a sweep.
    """
    assembly = _Assembly(
        Path(source), idle, with_plugins=any(text.startswith("plugins=") for text in overrides)
    )
    return assembly.recipe([Layer(source, literal(recipe.to_dict()))], _in_order(overrides))


def from_dict(tree: Mapping[str, Any], source: str, *, with_plugins: bool = False) -> Recipe:
    """The recipe whose `Recipe.to_dict` is ``tree``, checked; ``source`` is its name in messages.

    Raises:
        RecipeError: a key or value is wrong.
    """
    content, _ = parse(to_yaml(literal(tree)), source, "")
    if not isinstance(content, dict):
        raise RecipeError(
            f"{source}: a recipe is a mapping of sections, not {shown(content)}. Use another file."
        )
    return _Assembly(Path(source), with_plugins=with_plugins, frozen=True).recipe(
        [Layer(source, content)], ()
    )


def from_arguments(
    name: str, keys: Mapping[str, Any], arguments: Mapping[str, Any], caller: str
) -> Recipe:
    """The recipe of nested keys, and over them arguments of the function ``caller`` by dotted key
    or section.

    Plug-ins are imported.

    Raises:
        RecipeError: a key or value is wrong; names it.
    """
    given = sorted(arguments.items(), key=lambda item: not _chooses(*item))
    trees = [keys, *(_nested({key: _plain(value)}) for key, value in given)]
    return _Assembly(Path(name), frozen=True).recipe(
        [Layer(caller, literal(tree)) for tree in trees], ()
    )


def sampling_spec(recipe: Recipe, arguments: Mapping[str, Any], caller: str) -> SamplingSpec:
    """The `sampling` section of a recipe, changed by arguments of the function ``caller``. None
    changes nothing.

    Another method keeps the keys that every method has, and nfe. Errors name the arguments.

    Raises:
        RecipeError: there is no such argument with the method, its value is wrong, or it does not
            go with another.
    """
    with _changed(recipe, "sampling", arguments, caller) as changed:
        if changed is not recipe:
            changed.sampling.require_usable()
        return changed.sampling


def elbo_spec(recipe: Recipe, arguments: Mapping[str, Any], caller: str) -> ElboSpec:
    """The `eval.elbo` section of a recipe, changed by arguments; as `sampling_spec`.

    Its ``eps`` is never before `objective.loss_eps`: the network has seen no smaller t.
    """
    with _changed(recipe, "eval.elbo", arguments, caller) as changed:
        spec = changed.eval.elbo
    return replace(spec, eps=max(spec.eps, recipe.objective.loss_eps))


@contextmanager
def _changed(
    recipe: Recipe, section: str, arguments: Mapping[str, Any], caller: str
) -> Iterator[Recipe]:
    """The recipe with arguments in a section, checked as those of a file are; in the block, errors
    are about arguments.

    In messages, sampling.corrector=true is corrector=True.
    """
    given = {name: _plain(value) for name, value in arguments.items() if value is not None}
    layers = [
        Layer("recipe", literal(recipe.to_dict())),
        Layer(caller, _nested({section: literal(given)})),
    ]
    try:
        yield (
            _Assembly(Path("recipe"), with_plugins=False, frozen=True).recipe(layers, ())
            if given
            else recipe
        )
    except RecipeError as error:
        named = re.sub(rf"\b{re.escape(section)}\.(?=\w)", "", str(error))
        named = re.sub(r"=(true|false)\b", lambda found: f"={found[1].title()}", named)
        raise RecipeError(named if named.startswith(caller) else f"{caller}: {named}") from error


def whole_number(value: Any, name: str, least: int, caller: str) -> int:
    """An argument that counts something.

    Raises:
        RecipeError: it is not a whole number, or less than ``least``.
    """
    count = convert(_plain(value), int)
    if count is WRONG or count < least:
        is_large = isinstance(value, int) and value > MAX_INT
        most = f" and at most {MAX_INT}" if is_large else ""
        raise RecipeError(
            f"{caller}: {name}={shown(value)}: expected a whole number of at least {least}{most}."
        )
    return int(count)


def path_of(value: Any, name: str, caller: str) -> Path:
    """An argument that is the path of something, which may be missing; "~" is the home folder.

    Raises:
        RecipeError: it is not a path, or one that no file can have.
    """
    try:
        found = Path(value).expanduser()
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            found.lstat()
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        reason = one_line(getattr(error, "strerror", None) or error)
        raise RecipeError(
            f"{caller}: {name}={shown(value)} is not a path ({reason}). "
            "Pass the path of a file or folder, as a text or a pathlib.Path."
        ) from error
    return found


def _plain(value: Any) -> Any:
    """A number of numpy or torch as one of Python."""
    return value.item() if getattr(value, "shape", None) == () else value


def override(text: str) -> tuple[str, Any]:
    """Split ``KEY=VALUE``; the value is read as YAML.

    Raises:
        RecipeError: it has another form.
    """
    name, equals, value = text.partition("=")
    if not equals or not _OVERRIDE.fullmatch(name):
        raise RecipeError(
            f"{COMMAND_LINE}: {shown(text)} is not an override. Write KEY=VALUE, for example "
            f"train.steps=1000."
        )
    section, _, last = name.rpartition(".")
    fix = f"Quote it: '{name}=\"...\"'"
    content, _ = parse(f"{last}: {value}", COMMAND_LINE, section, fix)
    if list(content) != [last]:
        raise RecipeError(
            f"{COMMAND_LINE}: the value of {shown(text)} is not YAML on one line. {fix}."
        )
    return name, content[last]


def anchored_overrides(overrides: Sequence[str], recipe: Recipe, folder: Path) -> list[str]:
    """Overrides for a ledger: in order, without references, and with absolute paths as
    `Recipe.anchored` makes them.

    Args:
        recipe: their result.
        folder: what relative paths are taken from.
    """
    values, settled = leaves(recipe.anchored(folder).to_dict()), []
    for text in overrides:
        name, typed = override(text)
        for key, value in leaves({name: typed}).items():
            if key in values:
                stays = key == name and value == values[key]
                settled.append(text if stays else f"{key}={to_yaml_line(literal(values[key]))}")
    return _in_order(settled)


def as_overrides(profile: Path) -> tuple[str, ...]:
    """The settings of a profile, one override for each key, for a run whose recipe is frozen.

    Raises:
        RecipeError: it cannot be read, or has another section than `cluster`.
    """
    cluster = _profile(profile).keys.get("cluster") or {}
    return tuple(f"cluster.{name}={to_yaml_line(value)}" for name, value in cluster.items())


def dump(recipe: Recipe) -> str:
    """The recipe as YAML that `load` and `load_frozen` read back to an equal recipe."""
    return to_yaml(literal(recipe.to_dict()))


def dump_changed(recipe: Recipe) -> str:
    """As `dump`, with those keys alone that differ from their defaults, and what selects
    variants."""
    keys = known(specs_of(recipe))
    changed = {
        key: value for key, value in leaves(recipe.to_dict()).items() if value != keys[key].usual
    }
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
    """``value`` (nested mappings, lists and plain values) with ``${`` escaped: it refers to
    nothing."""
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
    return (
        [_on_texts(inner, function) for inner in value]
        if isinstance(value, list | tuple)
        else value
    )


def printed(path: str | Path) -> str:
    """A path in messages: on one line, whatever its name."""
    return printable(str(path), keep="")


# A command reads the same few files several times, and YAML is most of what reading a recipe takes.
@functools.lru_cache(maxsize=64)
def parse(
    text: str,
    source: str,
    section: str | None = None,
    fix: str = "Fix the indentation or the quotes",
) -> tuple[Any, Mapping[str, int]]:
    """The content of a YAML document, None if it is empty, and for each dotted key its line, from
    1.

    Both are kept for the next reader, so nobody may change them.

    Args:
        source: what messages call the document.
        section: what the keys are in, of texts without lines that people know.
        fix: how to make YAML of it.

    Raises:
        RecipeError: it is not YAML, nested too deeply, too long with its aliases, or has what no
            recipe can have.
    """
    try:
        content = _Content(_Loader(text))
        node = content.loader.get_single_node()
        return None if node is None else content.value(node, section or "", 0), content.lines
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        if not isinstance(error, _Refused):
            problem = f"not valid YAML ({problem or str(error).splitlines()[0]}). {fix}"
        line = f", line {mark.line + 1}" if mark is not None and section is None else ""
        raise RecipeError(f"{source}{line}: {problem}.") from error
    except RecursionError as error:
        raise RecipeError(
            f"{source}: values are nested too deeply. A recipe has three levels."
        ) from error


class _Refused(yaml.MarkedYAMLError):  # type: ignore[misc] # PyYAML has no types
    """It is YAML, but not for a recipe."""


@dataclass
class _Content:
    """Makes plain values of YAML, notes the line of each key, and refuses what YAML accepts but
    nobody means."""

    loader: _Loader
    lines: dict[str, int] = field(default_factory=dict)
    values: int = 0

    def value(self, node: yaml.Node, path: str, depth: int) -> Any:
        """That of ``node``, which is the value of the dotted key ``path``."""
        self.values += 1
        named = f"'{path.partition('[')[0]}'" if path else "the recipe"
        if depth > MAX_DEPTH or self.values > MAX_VALUES:
            deep = f"is nested more than {MAX_DEPTH} levels deep"
            limit = deep if depth > MAX_DEPTH else f"has more than {MAX_VALUES} values"
            self._refuse(node, f"{named} {limit}, aliases included. Write plain values")
        if node.tag not in _KINDS:
            self._refuse(
                node,
                f"{named} has the YAML tag {shown(node.tag)}. Write a plain value, or quote it",
            )
        if isinstance(node, yaml.SequenceNode):
            return [
                self.value(item, f"{path}[{number}]", depth + 1)
                for number, item in enumerate(node.value)
            ]
        if not isinstance(node, yaml.MappingNode):
            return node.value if node.tag in _TEXT_TAGS else self._number(node, path)
        found = {}
        for key, value in node.value:
            if key.tag != _TEXT or not _NAME.fullmatch(key.value):
                other = shown(key.value if isinstance(key, yaml.ScalarNode) else key.tag)
                fix = "Write the name of a key, nested as in `train: {steps: 9}`"
                self._refuse(key, f"{named} has no key {other}. {fix}")
            inner = f"{path}.{key.value}" if path else key.value
            if inner in self.lines:
                text = (
                    f"not valid YAML (duplicate key {shown(inner)}, first on line "
                    f"{self.lines[inner]})"
                )
                self._refuse(key, f"{text}. Remove one")
            self.lines[inner] = key.start_mark.line + 1
            found[key.value] = self.value(value, inner, depth + 1)
        return found

    def _number(self, node: yaml.ScalarNode, path: str) -> Any:
        """The value of what is not a text: a number, true, false or null."""
        if node.tag.endswith((":int", ":float")) and _OLD_NUMBER.search(node.value):
            # YAML 1.1 reads numbers in base 60 (1:30 is 90) and 8 (0123 is 83).
            text = f"'{path}' cannot be {node.value}, which YAML reads as another number"
            self._refuse(
                node, f"{text}. Write a plain number (times are in minutes), or quote a name"
            )
        try:
            return self.loader.construct_object(node)
        except (ValueError, LookupError, OverflowError):
            self._refuse(
                node,
                (
                    f"'{path}' cannot be {shown(node.value)}, which is not a number. Write one, or "
                    f"quote it"
                ),
            )

    def _refuse(self, node: yaml.Node, problem: str) -> NoReturn:
        raise _Refused(problem=problem, problem_mark=node.start_mark)


def read(path: Path, *, follow: bool = True) -> Layer:
    """The keys of a recipe file.

    Args:
        follow: whether the file may be a symbolic link.

    Raises:
        RecipeError: there is no such file, this user may not read it, or it is not a mapping in
            YAML.
        OSError: it cannot be read at this moment, which is no mistake in it.
    """
    name = printed(path)
    try:
        text = read_bytes(path, limit=MAX_BYTES, follow=follow).decode("utf-8-sig")
        content, lines = parse(text, name)
    except UnicodeDecodeError as error:
        problem = f"not a text file (byte {error.start} is not UTF-8). Pass a recipe in YAML"
        raise RecipeError(f"{name}: {problem}.") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        if passes(error):
            raise
        fix = "`cldctl recipes` lists the available recipes"
        problem = getattr(error, "strerror", None) or str(error)
        raise RecipeError(f"{name}: cannot read the recipe ({problem}); {fix}.") from error
    if not content or not isinstance(content, dict):
        what = "a recipe is a mapping of sections" if content else "the recipe is empty"
        raise RecipeError(f"{name}: {what}. `cldctl render toy` shows an example.")
    return Layer(name, _anchored(content, path.absolute().parent), lines, path)


def _anchored(keys: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The keys of a recipe with `plugins` as a list, of one if it is a text, and paths taken from
    ``folder``."""
    found = keys.get("plugins")
    names = [found] if isinstance(found, str) else found
    if not isinstance(names, list):
        return keys
    return keys | {
        "plugins": [
            absolute("plugins", name, folder) if str(name).endswith(".py") else name
            for name in names
        ]
    }


def file_layers(path: Path, below: tuple[str, ...] = ()) -> list[Layer]:
    """The layers of a recipe file and all that it extends, the oldest ancestor first.

    Args:
        below: the files that extend it.

    Raises:
        RecipeError: one cannot be read, or they extend each other in a circle.
    """
    layer = read(path)
    place, parent = layer.place("extends"), layer.keys.get("extends")
    layer = replace(
        layer, keys={name: value for name, value in layer.keys.items() if name != "extends"}
    )
    if parent is None:
        return [layer]
    if not is_text(parent) or not parent:
        text = (
            f"'extends' cannot be {shown(parent)}; expected the name or file name of another recipe"
        )
        raise RecipeError(f"{place}: {text}. Correct it.")
    chain, file = (*below, os.path.realpath(path)), shipped.parent(parent, path)
    if len(chain) == MAX_ANCESTORS:
        raise RecipeError(
            f"{place}: more than {MAX_ANCESTORS} recipes extend each other. Write fewer files."
        )
    try:
        if (real := os.path.realpath(file)) in chain:
            circle = " -> ".join(map(printed, (*chain, real)))
            raise RecipeError(
                f"{place}: recipes extend each other in a circle: {circle}. Remove one `extends`."
            )
        return [*file_layers(file, chain), layer]
    except RecipeError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            there = ", ".join(recipes := shipped.recipes())
            fix = (
                did_you_mean(Path(parent).stem, recipes)
                or f" Correct the name in 'extends'; recipes: {there}."
            )
            named = f"{parent}.yaml in {printed(path.parent)}, {shipped.OWN} or {shipped.folder()}"
            missing = printed(file) if shipped.is_path(parent) else named
            raise RecipeError(
                f"{place}: extends '{parent}', but there is no {missing}.{fix}"
            ) from error
        raise


def _profile(path: Path) -> Layer:
    """The layer of a profile, which has one section."""
    layer = read(path)
    for key in layer.keys:
        if key != "cluster":
            raise RecipeError(
                f"{layer.place(key)}: a profile cannot set '{key}'. It has one section, 'cluster'."
            )
    return replace(layer, source=f"profile {layer.source}")


def origin(key: str, where: Mapping[str, str]) -> str:
    """The place that set ``key``, or the nearest section above it that was set."""
    while key and key not in where:
        key = key.rpartition(".")[0]
    return where.get(key, where.get("", "recipe"))


@dataclass
class _Assembly:
    """From layers to a recipe.

    Attributes:
        idle: keys whose overrides are ignored if the chosen variant lacks them.
        frozen: the layers have no references.
        where: for each dotted key, the place that has set it.
        specs: of the sections with variants, as chosen by the layers so far; ``known``: the keys
            that there are.
        layers: the dotted keys of the layers so far, without those that later choices of variants
            have dropped.
        is_lenient: plug-ins are named and not imported; ``unchecked``: one of them registers what
            is chosen.
    """

    path: Path
    idle: Collection[str] = ()
    with_plugins: bool = True
    frozen: bool = False
    where: dict[str, str] = field(default_factory=dict)
    specs: dict[str, type] = field(default_factory=default_specs)
    known: dict[str, Entry] = field(default_factory=dict)
    layers: list[dict[str, Any]] = field(default_factory=list)
    is_lenient: bool = False
    unchecked: bool = False

    def recipe(self, layers: Sequence[Layer], overrides: Sequence[str]) -> Recipe:
        """The recipe that layers and overrides give.

        Raises:
            RecipeError: a key or value is wrong; names its place.
        """
        self.where[""] = printed(self.path)
        typed = [(text.partition("=")[0], _typed(text)) for text in overrides]
        self._find_plugins([*layers, *(layer for _, layer in typed)])
        for layer in layers:
            self._add(layer)
        for name, layer in typed:
            if name not in self.idle or name in self.known:
                self._add(layer)
        made: Recipe = self._build(Recipe, "", {"name": self.path.stem, **self._resolved()})
        for key, other, problem in () if self.unchecked else problems(made):
            raise RecipeError(f"{self._origin_of_pair(key, other)}: '{key}' {problem}")
        return made

    def _find_plugins(self, layers: Sequence[Layer]) -> None:
        """Import the plug-ins, which the last layer that names any has, or be content without what
        they register."""
        layer = next((layer for layer in reversed(layers) if "plugins" in layer.keys), None)
        named = None if layer is None else layer.keys["plugins"]
        if layer is None or not isinstance(named, list | tuple) or not all(map(is_text, named)):
            return  # Refused with all other values, if it is wrong.
        if self.with_plugins:
            import_plugins(named, layer.place("plugins"))
        self.is_lenient = bool(named) and not self.with_plugins

    def _add(self, layer: Layer) -> None:
        """Check a layer, and put it over the others."""
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
        self.layers.append(
            {path: value for path, value in walk(layer.keys) if not self.known[path].is_section}
        )

    def _choose(self, section: str, node: Mapping[str, Any]) -> None:
        """Of what is there so far, keep what the variant has that a layer chooses."""
        variants, name = SECTIONS[section], node[SECTIONS[section].key]
        spec = variants.find(name).spec
        if self.is_lenient and isinstance(name, str) and name not in variants.variants:
            spec, self.unchecked = spec_of(section, node), True
        kept = variants.kept(self.specs[section], spec)
        self.specs[section] = spec
        for keys in self.layers:
            for key in list(keys):
                if key.startswith(f"{section}.") and key.split(".")[1] not in kept:
                    del keys[key]
                    self.where.pop(key, None)

    def _check_references(self, key: str, value: Any) -> None:
        """Refuse what OmegaConf would take for something else than the name of another key."""
        for text in _texts(value):
            if text == "???":
                self._refuse(
                    key, "cannot be '???', which means a missing value. Write another text."
                )
            for match in _REFERENCE.finditer(text):
                if len(match[1]) % 2 or (match[2] is not None and not self.frozen):
                    continue
                there = shown(text[match.end(1) :][:40])[1:-1]
                rule = (
                    "a frozen recipe has no references"
                    if self.frozen
                    else "only other keys can be referred to"
                )
                fix = r"Write ${train.steps}, for example, or \${ for the text ${."
                self._refuse(key, f"has {there}; {rule}. {fix}")

    def _resolved(self) -> dict[str, Any]:
        """The values of the layers as one, with those of the keys that they refer to."""
        values = {key: value for layer in self.layers for key, value in layer.items()}
        texts = [(key, text) for key, value in values.items() for text in _texts(value)]
        references = [(key, text, name) for key, text in texts for name in _references(text)]
        # Who only looks, or changes a recipe that is read, waits for OmegaConf only where there are
        # references.
        if self.frozen or not (self.with_plugins or references):
            return {key: _unescaped(value) for key, value in values.items()}
        for key, text, name in references:
            self._check_target(values, key, text, name)
        from omegaconf import OmegaConf

        tree: Any = OmegaConf.to_container(
            OmegaConf.unsafe_merge(*map(_nested, self.layers)), resolve=True
        )
        return {key: value for key, value in walk(tree) if key in values}

    def _check_target(self, values: Mapping[str, Any], key: str, text: str, name: str) -> None:
        """Refuse a reference of a text to what has no value, or refers to something itself."""
        target = values.get(name)
        if target is None:
            found = (
                "is a section"
                if any(other.startswith(f"{name}.") for other in values)
                else "is not set"
            )
            self._refuse(
                key, f"has ${{{name}}}, but {name} {found} in the recipe. Check the ${{...}} in it."
            )
        if isinstance(target, list) and _REFERENCE.fullmatch(text) is None:
            self._refuse(key, f"has ${{{name}}}, a list, within a text. Write the reference alone.")
        if any(map(_references, _texts(target))):
            self._refuse(
                key,
                f"refers to {name}, which refers to another key itself. Write one of the values.",
            )
        if max(map(len, (text, *_texts(target)))) > MAX_REFERENCE:
            self._refuse(
                key,
                f"would be a text of more than {MAX_REFERENCE} characters. Write a shorter one.",
            )

    def _build(self, spec: type, prefix: str, given: Mapping[str, Any]) -> Any:
        """The recipe, or a section of it, with checked values."""
        values = {}
        for name in entries(spec):
            entry = self.known[key := f"{prefix}{name}"]
            if entry.is_section:
                values[name] = self._build(entry.hint, f"{key}.", given)
            elif key in given:
                values[name] = self._value(key, entry, given[key])
        return spec(**values)

    def _value(self, key: str, entry: Entry, value: Any) -> Any:
        if (converted := entry.convert(value)) is not WRONG:
            return converted
        more = (
            ", or set plugins to the file that registers it"
            if key in SELECTORS
            else f": {entry.doc}"
        )
        guess = (
            did_you_mean(value, entry.options)
            if isinstance(value, str) and len(value) < 100
            else ""
        )
        if isinstance(value, str) and not entry.options and not is_text(value):
            guess = " Leave out control characters, and shorten it."
        self._refuse(key, f"cannot be {shown(value)}; expected {entry.expects}{more}.{guess}")

    def _refuse(self, key: str, problem: str) -> NoReturn:
        raise RecipeError(f"{origin(key, self.where)}: '{key}' {problem}")

    def _origin_of_pair(self, key: str, other: str) -> str:
        """The place that set ``key``; if only ``other`` was typed, the command line comes first."""
        place, place_of_other = origin(key, self.where), origin(other, self.where)
        typed = place_of_other == COMMAND_LINE != place
        return f"{place_of_other}, and {place}" if typed else place


def _in_order(overrides: Sequence[str]) -> list[str]:
    """Overrides as typed, except that those which choose a variant come first: the others are keys
    of it."""
    return sorted(overrides, key=lambda text: not _chooses(*override(text)))


def _chooses(name: str, value: Any) -> bool:
    """Whether a key, or a section with several of them, chooses a variant."""
    return not SELECTORS.isdisjoint(leaves({name: value}))


def _typed(text: str) -> Layer:
    """The layer of an override."""
    return Layer(COMMAND_LINE, _anchored(_nested(dict([override(text)])), Path.cwd()))


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
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
    """All texts in a value."""
    if isinstance(value, str):
        return [value]
    inner = (
        value.values()
        if isinstance(value, Mapping)
        else value
        if isinstance(value, list | tuple)
        else ()
    )
    return [text for it in inner for text in _texts(it)]
