"""What names in a recipe stand for: the variants of a section, each a spec and the code that implements it.

A further variant is a spec, an implementation and one line here. A plug-in registers it, with `cld_core.register`::

    @dataclass(frozen=True, kw_only=True)
    class HeunSpec(FixedStepSpec):
        method: Literal["heun"] = key("heun", "Heun's method")

    def sample(score, sde, spec, u, draws): ...

    register("sampling", "heun", sample, HeunSpec)

Loads no torch.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cld_core.errors import RecipeError, UsageError
from cld_core.imports import resolve
from cld_core.registration import Variant, table

from .data import CelebaHq256Spec, Cifar10Spec, ImageDataSpec, ToyDataSpec
from .keys import key
from .network import MlpSpec, NcsnppSpec, NetworkSpec, ResnetSpec
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
from .sde import CldSpec, HoldSpec, PsldSpec, SdeSpec, VpsdeSpec
from .train import ObjectiveSpec


@dataclass(frozen=True)
class Section:
    """A section whose keys depend on one of them, the selector; its first variant is the default.

    Attributes:
        base: what all its specs derive from.
        family: variants that derive from it keep the keys that they have in common when the selector changes.
            Otherwise a section starts afresh with another spec.
    """

    selector: str
    variants: dict[str, Variant]
    base: type
    family: type | None = None

    def find(self, name: Any) -> Variant:
        """The variant of this name; the default if there is none, so that messages can list its keys."""
        default = next(iter(self.variants.values()))
        return self.variants.get(name, default) if isinstance(name, str) else default

    def exact(self, keys: Mapping[str, Any]) -> Variant:
        """The variant that these keys choose.

        Raises:
            RecipeError: it is not registered.
        """
        name = keys[self.selector]
        if name not in self.variants:
            there = f"no {self.selector} is called {name!r}; there are {', '.join(self.variants)}"
            raise RecipeError(f"{there}. `plugins` in a recipe names files that register others.")
        return self.variants[name]

    def kept(self, old: type, new: type) -> frozenset[str]:
        """The keys that survive a change from one spec to another."""
        related = old is new or (self.family is not None and all(issubclass(spec, self.family) for spec in (old, new)))
        return keys_of(old) & keys_of(new) if related else frozenset()

    def having(self, key: str) -> list[str]:
        """The names of the variants that have a key."""
        return [name for name, variant in self.variants.items() if key in keys_of(variant.spec)]


_TOY = Variant(ToyDataSpec, "cld_core.data.toy:ToySource")
_IMAGES = "cld_core.data.image_source:ImageSource"

SECTIONS = {
    "data": Section(
        selector="name",
        base=ToyDataSpec,
        family=ImageDataSpec,
        variants=table(
            "data",
            {
                "multimodal_swissroll": _TOY,
                "diamond": _TOY,
                "gaussian": _TOY,
                "cifar10": Variant(Cifar10Spec, _IMAGES),
                "celebahq256": Variant(CelebaHq256Spec, _IMAGES),
                "folder": Variant(ImageDataSpec, _IMAGES),
            },
        ),
    ),
    "sde": Section(
        selector="name",
        base=SdeSpec,
        variants=table(
            "sde",
            {
                "cld": Variant(CldSpec, "cld_core.sde.cld:CLD"),
                "vpsde": Variant(VpsdeSpec, "cld_core.sde.vpsde:VPSDE"),
                "psld": Variant(PsldSpec, "cld_core.sde.psld:PSLD"),
                "hold": Variant(HoldSpec, "cld_core.sde.hold:HOLD"),
            },
        ),
    ),
    "network": Section(
        selector="name",
        base=NetworkSpec,
        variants=table(
            "network",
            {
                "mlp": Variant(MlpSpec, "cld_core.nets.mlp:MLP"),
                "resnet": Variant(ResnetSpec, "cld_core.nets.resnet:ResNet"),
                "ncsnpp": Variant(NcsnppSpec, "cld_core.nets.ncsnpp:Ncsnpp"),
            },
        ),
    ),
    "objective": Section(
        selector="name",
        base=ObjectiveSpec,
        family=ObjectiveSpec,
        variants=table(
            "objective", dict.fromkeys(("hsm", "dsm"), Variant(ObjectiveSpec, "cld_core.loss:ScoreMatching"))
        ),
    ),
    "sampling": Section(
        selector="method",
        base=SamplingSpec,
        family=SamplingSpec,
        variants=table(
            "sampling",
            {
                "ode": Variant(OdeSpec, "cld_core.samplers.ode:sample"),
                "em": Variant(EmSpec, "cld_core.samplers.euler_maruyama:sample"),
                "sscs": Variant(SscsSpec, "cld_core.samplers.sscs:sample"),
                "exponential": Variant(ExponentialSpec, "cld_core.samplers.exponential:sample"),
                "gddim": Variant(GddimSpec, "cld_core.samplers.gddim:sample"),
                "conjugate": Variant(ConjugateSpec, "cld_core.samplers.splitting:conjugate"),
                "splitting": Variant(SplittingSpec, "cld_core.samplers.splitting:sample"),
                "tuned": Variant(TunedSpec, "cld_core.samplers.tuned:sample"),
            },
        ),
    ),
}


def names(section: str) -> tuple[str, ...]:
    """The names of all variants of a section, the default first."""
    return tuple(SECTIONS[section].variants)


def require_fixed_steps(sampling: SamplingSpec) -> None:
    """Refuse a method that chooses its own steps for what needs fixed ones, conditioning by replacement.

    Raises:
        UsageError: names those that can be chosen.
    """
    if sampling.adaptive:
        specs = {name: variant.spec for name, variant in SECTIONS["sampling"].variants.items()}
        usable = [
            name
            for name, it in specs.items()
            if issubclass(it, SamplingSpec) and not it.adaptive and not it.needs_solution
        ]
        *some, last = usable
        text = f"sampling.method={sampling.method} chooses its own steps, and replacement needs fixed ones"
        raise UsageError(f"{text}. Choose {', '.join(some)} or {last}, or condition by gradient.")


def implementation_of(section: str, spec: Any) -> Any:
    """What implements a spec: its string, imported.

    Raises:
        RecipeError: the spec's name is not registered.
    """
    return resolve(SECTIONS[section].exact(vars(spec)).implementation)


def build(section: str, spec: Any, *args: Any, **keywords: Any) -> Any:
    """Call what implements ``spec`` with the spec and further arguments."""
    return implementation_of(section, spec)(spec, *args, **keywords)


def keys_of(spec: type) -> frozenset[str]:
    """The keys of a section with this spec."""
    return frozenset(entry.name for entry in dataclasses.fields(spec))


def default_specs() -> dict[str, type]:
    """The spec of each section with variants, where nothing chooses another one."""
    return {name: section.find(None).spec for name, section in SECTIONS.items()}


def specs_of(recipe: Any) -> dict[str, type]:
    """The spec of each section with variants in a recipe."""
    return {name: type(getattr(recipe, name)) for name in SECTIONS}


def spec_of(section: str, keys: Mapping[str, Any]) -> type:
    """The spec of the keys of a section; of a plug-in that has not been imported, one with these very keys."""
    variants, name = SECTIONS[section], keys.get(SECTIONS[section].selector)
    return variants.variants[name].spec if name in variants.variants else unregistered(section, keys)


def unregistered(section: str, node: Mapping[str, Any]) -> type:
    """A spec with the keys of a section whose plug-in is not imported: commands that only look run no code of it."""
    base = ImageDataSpec if section == "data" and "path" in node else SECTIONS[section].base
    names = dict.fromkeys([*(entry.name for entry in dataclasses.fields(base)), *node])
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in node.items()}
    keys = [(name, Any, key(values.get(name), "of a plug-in")) for name in names]
    return dataclasses.make_dataclass("UnregisteredSpec", keys, bases=(base,), frozen=True, kw_only=True)
