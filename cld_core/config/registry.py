"""The variants of the sections of a recipe, by name: each a spec and the code that implements it.

A further variant is a spec, an implementation and one line here. A plug-in registers it, with
`cld_core.register`::

    @dataclass(frozen=True, kw_only=True)
    class HeunSpec(FixedStepSpec):
        method: Literal["heun"] = key("heun", "Heun's method")

    def method(score, sde, spec, u, draws) -> FixedSteps: ...

    register("sampling", "heun", method, HeunSpec)

Loads no torch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, make_dataclass, replace
from typing import Any, Literal

from cld_core.errors import RecipeError, UsageError, nearest
from cld_core.plugins import Variant, resolve, table

from .data import ArraysSpec, CelebaHq256Spec, Cifar10Spec, IdxSpec, ImageDataSpec, ToyDataSpec
from .keys import Entry, Values, convert, entries, key
from .network import MlpSpec, NcsnppSpec, NetworkSpec, ResnetSpec, Unet1dSpec
from .sampling import (
    ConjugateSpec,
    EmSpec,
    ExponentialSpec,
    GddimSpec,
    OdeSpec,
    SamplingSpec,
    SplittingSpec,
    SscsSpec,
    TunedSpec,
)
from .schema import Recipe, leaves
from .sde import CldSpec, HoldSpec, PsldSpec, SdeSpec, VpsdeSpec
from .train import ObjectiveSpec, OptimSpec

# The spec of each section with variants.
Specs = Mapping[str, type]


@dataclass(frozen=True)
class Section:
    """A section whose keys depend on one of them, the selector; its first variant is the default.

    Attributes:
        selector: the dotted key that chooses a variant.
        base: the base class of all its specs.
        variants: by their names.
        family: a base class. When the selector changes from one of its subclasses to another, the
            section keeps the keys that both have. With other specs it returns to the defaults.
        carried: the keys that are kept then, of those that both have; None: all.
    """

    selector: str
    base: type
    variants: dict[str, Variant]
    family: type | None = None
    carried: frozenset[str] | None = None

    @property
    def key(self) -> str:
        """The name of the selector in the section."""
        return self.selector.rpartition(".")[2]

    @property
    def entry(self) -> Entry:
        """The description of the selector."""
        names: Any = tuple(self.variants)
        return Entry(Literal[names], names[0], "selects the other keys of the section")

    @property
    def docs(self) -> dict[str, str]:
        """The description of each variant."""
        return {
            name: entries(variant.spec)[self.key].doc for name, variant in self.variants.items()
        }

    def find(self, name: Any) -> Variant:
        """The variant of this name; if there is none, the default, whose keys messages can list."""
        default = next(iter(self.variants.values()))
        return self.variants.get(name, default) if isinstance(name, str) else default

    def kept(self, old: type, new: type) -> frozenset[str]:
        """The keys that survive a change from one spec to another."""
        common = frozenset(entries(old)) & frozenset(entries(new))
        if old is new:
            return common
        if self.family is None or not all(issubclass(spec, self.family) for spec in (old, new)):
            return frozenset()
        return common if self.carried is None else common & self.carried


_TOY = Variant(ToyDataSpec, "cld_core.data.toy:ToySource")
_STORED = "cld_core.data.images:StoredSource"
_DATA = {
    "multimodal_swissroll": _TOY,
    "diamond": _TOY,
    "gaussian": _TOY,
    "cifar10": Variant(Cifar10Spec, _STORED),
    "celebahq256": Variant(CelebaHq256Spec, _STORED),
    "folder": Variant(ImageDataSpec, _STORED),
    "idx": Variant(IdxSpec, _STORED),
    "arrays": Variant(ArraysSpec, _STORED),
}
_SDE = {
    "cld": Variant(CldSpec, "cld_core.sde.diffusions:CLD"),
    "vpsde": Variant(VpsdeSpec, "cld_core.sde.diffusions:VPSDE"),
    "psld": Variant(PsldSpec, "cld_core.sde.diffusions:PSLD"),
    "hold": Variant(HoldSpec, "cld_core.sde.diffusions:HOLD"),
}
_NETWORK = {
    "mlp": Variant(MlpSpec, "cld_core.nets.mlp:MLP"),
    "resnet": Variant(ResnetSpec, "cld_core.nets.mlp:ResNet"),
    "ncsnpp": Variant(NcsnppSpec, "cld_core.nets.ncsnpp:Ncsnpp"),
    "unet1d": Variant(Unet1dSpec, "cld_core.nets.ncsnpp:Ncsnpp"),
}
_OBJECTIVE = dict.fromkeys(("hsm", "dsm"), Variant(ObjectiveSpec, "cld_core.loss:ScoreMatching"))
_OPTIM = {
    "adam": Variant(OptimSpec, "cld_core.optim:adam"),
    "adamw": Variant(OptimSpec, "cld_core.optim:adamw"),
    "adamax": Variant(OptimSpec, "cld_core.optim:adamax"),
}
_SAMPLING = {
    "ode": Variant(OdeSpec, "cld_core.samplers.ode:method"),
    "em": Variant(EmSpec, "cld_core.samplers.euler_maruyama:method"),
    "sscs": Variant(SscsSpec, "cld_core.samplers.sscs:method"),
    "exponential": Variant(ExponentialSpec, "cld_core.samplers.exponential:method"),
    "gddim": Variant(GddimSpec, "cld_core.samplers.gddim:method"),
    "conjugate": Variant(ConjugateSpec, "cld_core.samplers.splitting:method"),
    "splitting": Variant(SplittingSpec, "cld_core.samplers.splitting:method"),
    "tuned": Variant(TunedSpec, "cld_core.samplers.tuned:method"),
}
SECTIONS = {
    "data": Section("data.name", ToyDataSpec, table("data", _DATA), family=ImageDataSpec),
    "sde": Section("sde.name", SdeSpec, table("sde", _SDE)),
    "network": Section("network.name", NetworkSpec, table("network", _NETWORK)),
    "objective": Section(
        "objective.name", ObjectiveSpec, table("objective", _OBJECTIVE), family=ObjectiveSpec
    ),
    "optim": Section("optim.name", OptimSpec, table("optim", _OPTIM), family=OptimSpec),
    "sampling": Section(
        "sampling.method",
        SamplingSpec,
        table("sampling", _SAMPLING),
        family=SamplingSpec,
        # Grid, order and corrector are tuned for a method: another one may diverge with them.
        carried=frozenset(entries(SamplingSpec)) | {"nfe"},
    ),
}
SELECTORS = frozenset(section.selector for section in SECTIONS.values())
# Keys of earlier versions, and what took their place.
_REPLACED = {"data.plugin": "plugins", "eval.fid.plugin": "plugins"}


def require_fixed_steps(sampling: SamplingSpec) -> None:
    """Refuse a method that chooses its own steps: conditioning by replacement needs fixed ones.

    Raises:
        UsageError: names the methods with fixed steps.
    """
    if sampling.adaptive:
        methods = [
            name
            for name, variant in SECTIONS["sampling"].variants.items()
            if not variant.spec.adaptive and not variant.spec.needs_solution
        ]
        raise UsageError(
            f"sampling.method={sampling.method} chooses its own steps, "
            f"and replacement needs fixed ones. Choose {_alternatives(methods)}, "
            "or condition by gradient."
        )


def implementation_of(section: str, spec: Any) -> Any:
    """The imported class or function that implements a spec.

    Raises:
        RecipeError: the spec's name is not registered.
    """
    key = SECTIONS[section].key
    variants = SECTIONS[section].variants
    if (name := getattr(spec, key)) not in variants:
        raise RecipeError(
            f"no {key} is called {name!r}; there are {', '.join(variants)}. "
            "`plugins` in a recipe names files that register others."
        )
    return resolve(variants[name].implementation)


def default_specs() -> dict[str, type]:
    """The spec of the default variant of each section with variants."""
    return {name: section.find(None).spec for name, section in SECTIONS.items()}


def specs_of(recipe: Recipe) -> dict[str, type]:
    """The spec of each section with variants in a recipe."""
    return {name: type(getattr(recipe, name)) for name in SECTIONS}


def spec_of(section: str, keys: Values) -> type:
    """The spec that the keys of a section choose.

    The variant may belong to a plug-in that is not imported: commands that only read run no code
    of plug-ins. Its spec is then made of the given keys.
    """
    name = keys.get(SECTIONS[section].key)
    variants = SECTIONS[section].variants
    if name in variants:
        registered: type = variants[name].spec
        return registered
    base = ImageDataSpec if section == "data" and "path" in keys else SECTIONS[section].base
    fields = [
        (name, Any, key(convert(keys.get(name), Any), "of a plug-in"))
        for name in dict.fromkeys([*entries(base), *keys])
    ]
    return make_dataclass("UnregisteredSpec", fields, bases=(base,), frozen=True, kw_only=True)


def known(specs: Specs) -> dict[str, Entry]:
    """Every dotted key and section that a recipe with these specs may have."""
    by_key = dict(_below(Recipe, "", specs))
    for section in SECTIONS.values():
        # The variants of a plug-in that is not imported cannot be listed.
        if by_key[section.selector].hint is not Any:
            by_key[section.selector] = section.entry
    return by_key


def _below(spec: type, prefix: str, specs: Specs) -> Iterator[tuple[str, Entry]]:
    for name, entry in entries(spec).items():
        path = f"{prefix}{name}"
        own = replace(entry, hint=specs[path]) if path in specs else entry
        yield path, own
        if own.is_section:
            yield from _below(own.hint, f"{path}.", {})


def refusal(path: str, value: Any, keys: Mapping[str, Entry], specs: Specs) -> str | None:
    """Why a recipe cannot have a key, and the fix; None if it can.

    For an unknown key, the fix names the nearest one, or the variant that has it. A section must be
    a mapping.

    Args:
        keys: those that are `known` with ``specs``.
    """
    if path in keys and (not keys[path].is_section or isinstance(value, Mapping)):
        return None
    if path in keys:
        return f"'{path}' is a section, not a value. {_list(path, keys)}"
    if path in _REPLACED:
        return (
            f"'{path}' has become '{_REPLACED[path]}'. Write `plugins: [FILE.py]` at the top of "
            "the recipe (on the command line: plugins=FILE.py)."
        )
    if isinstance(value, Mapping):
        # The keys in an unknown section show which section is meant.
        path = next((f"{path}.{name}" for name in leaves(value)), path)
    section = path.rpartition(".")[0]
    if section not in SECTIONS:
        return f"unknown key '{path}'. {_suggestion(path, keys, {})}"
    key = SECTIONS[section].key
    context = f"{section}.{key}={entries(specs[section])[key].usual}"
    others = _others(section)
    if path in others:
        return (
            f"'{path}' is not a key of {context}. Set {others[path]}, or leave it out. "
            f"{_list(section, keys)}"
        )
    return f"unknown key '{path}' (with {context}). {_suggestion(path, keys, others)}"


def _suggestion(path: str, keys: Mapping[str, Entry], others: Mapping[str, str]) -> str:
    names = [name for name, entry in keys.items() if not entry.is_section]
    guess = nearest(path, [*names, *others])
    if guess is None:
        return _list(path.rpartition(".")[0], keys)
    if guess in keys:
        return f"Did you mean '{guess}' ({keys[guess].expects}: {keys[guess].doc})?"
    return f"Did you mean '{guess}' (with {others[guess]})?"


def _others(section: str) -> dict[str, str]:
    """By dotted key of any variant of a section, its variants, as "sampling.method=ode or em"."""
    owners: dict[str, list[str]] = {}
    for variant, choice in SECTIONS[section].variants.items():
        for name in entries(choice.spec):
            owners.setdefault(f"{section}.{name}", []).append(variant)
    selector = SECTIONS[section].selector
    return {key: f"{selector}={_alternatives(names)}" for key, names in owners.items()}


def _alternatives(names: Sequence[str]) -> str:
    """Names in a sentence, as "ode, em or sscs"."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def _list(section: str, keys: Mapping[str, Entry]) -> str:
    """A sentence with the keys of a section, or of the nearest one above it."""
    if section in keys and not keys[section].is_section:
        return f"'{section}' is a key, not a section."
    if section and section not in keys:
        return _list(section.rpartition(".")[0], keys)
    names = [name.rpartition(".")[2] for name in keys if name.rpartition(".")[0] == section]
    return f"Keys of {section or 'a recipe'}: {', '.join(names)}."
