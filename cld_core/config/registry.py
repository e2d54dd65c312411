"""What names in a recipe stand for: the variants of a section, each a spec and the code that
implements it.

A further variant is a spec, an implementation and one line here. A plug-in registers it, with
`cld_core.register`::

    @dataclass(frozen=True, kw_only=True)
    class HeunSpec(FixedStepSpec):
        method: Literal["heun"] = key("heun", "Heun's method")

    def method(score, sde, spec, u, draws) -> FixedSteps: ...

    register("sampling", "heun", method, HeunSpec)

Loads no torch.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from cld_core.errors import RecipeError, UsageError, nearest
from cld_core.registration import Variant, resolve, table

from .data import ArraysSpec, CelebaHq256Spec, Cifar10Spec, IdxSpec, ImageDataSpec, ToyDataSpec
from .keys import Entry, entries, key
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
        selector: the dotted key.
        base: what all its specs derive from.
        variants: by their names.
        family: variants that derive from it keep the keys that they have in common when the
            selector changes. Otherwise a section starts afresh with another spec.
        carried: of these keys, those that are kept; None: all. The others start at the defaults of
            the new spec.
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
        """What there is to say about the selector."""
        names: Any = tuple(self.variants)
        return Entry(Literal[names], names[0], "selects the other keys of the section")

    @property
    def docs(self) -> dict[str, str]:
        """What each variant is."""
        return {
            name: entries(variant.spec)[self.key].doc for name, variant in self.variants.items()
        }

    def find(self, name: Any) -> Variant:
        """The variant of this name; the default if there is none, so that messages can list its
        keys."""
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
    """Refuse a method that chooses its own steps for what needs fixed ones, conditioning by
    replacement.

    Raises:
        UsageError: names those that can be chosen.
    """
    if sampling.adaptive:
        specs: dict[str, Any] = {
            name: variant.spec for name, variant in SECTIONS["sampling"].variants.items()
        }
        *some, last = (
            name for name, it in specs.items() if not it.adaptive and not it.needs_solution
        )
        text = (
            f"sampling.method={sampling.method} chooses its own steps, and replacement needs "
            f"fixed ones"
        )
        raise UsageError(f"{text}. Choose {', '.join(some)} or {last}, or condition by gradient.")


def implementation_of(section: str, spec: Any) -> Any:
    """What implements a spec: its string, imported.

    Raises:
        RecipeError: the spec's name is not registered.
    """
    key, variants = SECTIONS[section].key, SECTIONS[section].variants
    if (name := getattr(spec, key)) not in variants:
        there = f"no {key} is called {name!r}; there are {', '.join(variants)}"
        raise RecipeError(f"{there}. `plugins` in a recipe names files that register others.")
    return resolve(variants[name].implementation)


def build(section: str, spec: Any, *args: Any, **keywords: Any) -> Any:
    """Call what implements ``spec`` with the spec and further arguments."""
    return implementation_of(section, spec)(spec, *args, **keywords)


def default_specs() -> dict[str, type]:
    """The spec of each section with variants, where nothing chooses another one."""
    return {name: section.find(None).spec for name, section in SECTIONS.items()}


def specs_of(recipe: Recipe) -> dict[str, type]:
    """The spec of each section with variants in a recipe."""
    return {name: type(getattr(recipe, name)) for name in SECTIONS}


def spec_of(section: str, keys: Mapping[str, Any]) -> type:
    """The spec of the keys of a section; of a plug-in that has not been imported, one with these
    very keys.

    Commands that only look run no code of plug-ins.
    """
    name, variants = keys.get(SECTIONS[section].key), SECTIONS[section].variants
    if name in variants:
        return variants[name].spec
    base = ImageDataSpec if section == "data" and "path" in keys else SECTIONS[section].base
    values = {
        name: tuple(value) if isinstance(value, list) else value for name, value in keys.items()
    }
    fields = [
        (name, Any, key(values.get(name), "of a plug-in"))
        for name in dict.fromkeys([*entries(base), *keys])
    ]
    return dataclasses.make_dataclass(
        "UnregisteredSpec", fields, bases=(base,), frozen=True, kw_only=True
    )


def known(specs: Specs) -> dict[str, Entry]:
    """Every dotted key and section that a recipe may have, given the variants that it chooses."""
    found = dict(_below(Recipe, "", specs))
    # A plug-in that is not imported has variants that nothing lists.
    return found | {
        it.selector: it.entry for it in SECTIONS.values() if found[it.selector].hint is not Any
    }


def _below(spec: type, prefix: str, specs: Specs) -> Iterator[tuple[str, Entry]]:
    for name, entry in entries(spec).items():
        path = f"{prefix}{name}"
        own = replace(entry, hint=specs[path]) if path in specs else entry
        yield path, own
        if own.is_section:
            yield from _below(own.hint, f"{path}.", {})


def refusal(path: str, value: Any, keys: Mapping[str, Entry], specs: Specs) -> str | None:
    """Why a recipe cannot have a key, and what to write; None if it can.

    An unknown key is answered with the nearest one, or with the variant that has it. A section has
    to be a mapping.

    Args:
        keys: those that are `known` with ``specs``.
    """
    if path in keys and (not keys[path].is_section or isinstance(value, Mapping)):
        return None
    if path in keys:
        return f"'{path}' is a section, not a value. {_list(path, keys)}"
    if path in _REPLACED:
        fix = "at the top of the recipe (on the command line: plugins=FILE.py)"
        return f"'{path}' has become '{_REPLACED[path]}'. Write `plugins: [FILE.py]` {fix}."
    if isinstance(value, Mapping):
        # The keys in a section that does not exist tell which section is meant.
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
    about = (
        f"{keys[guess].expects}: {keys[guess].doc}" if guess in keys else f"with {others[guess]}"
    )
    return f"Did you mean '{guess}' ({about})?"


def _others(section: str) -> dict[str, str]:
    """Every dotted key that some variant of a section has, with how to choose those, as
    "sampling.method=ode or em"."""
    owners: dict[str, list[str]] = {}
    for variant, choice in SECTIONS[section].variants.items():
        for name in entries(choice.spec):
            owners.setdefault(f"{section}.{name}", []).append(variant)
    selector = SECTIONS[section].selector
    return {
        key: f"{selector}={' or '.join(filter(None, (', '.join(it[:-1]), it[-1])))}"
        for key, it in owners.items()
    }


def _list(section: str, keys: Mapping[str, Entry]) -> str:
    """The keys of a section, or of the nearest one above it."""
    if section in keys and not keys[section].is_section:
        return f"'{section}' is a key, not a section."
    if section and section not in keys:
        return _list(section.rpartition(".")[0], keys)
    names = [name.rpartition(".")[2] for name in keys if name.rpartition(".")[0] == section]
    return f"Keys of {section or 'a recipe'}: {', '.join(names)}."
