"""The variants of a section: by name, the spec that holds its keys and the code that implements it. Loads no torch.

A further variant is a spec, an implementation and one line here. A test, or a user's own file, registers both::

    @dataclass(frozen=True, kw_only=True)
    class HeunSpec(FixedStepSpec):
        method: Literal["heun"] = key("heun", "Heun's method")

    register("sampling", "heun", Variant(HeunSpec, f"{__name__}:sample"))
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cld_core.errors import RecipeError, UsageError
from cld_core.imports import resolve

from .data import CelebaHq256Spec, Cifar10Spec, ImageDataSpec, ToyDataSpec
from .ncsnpp import NcsnppSpec
from .network import MlpSpec, ResnetSpec
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
from .sde import CldSpec, HoldSpec, PsldSpec, VpsdeSpec


@dataclass(frozen=True)
class Variant:
    """A spec (a frozen dataclass), and what implements it as "module:attribute", imported when it is needed."""

    spec: type
    implementation: str


@dataclass(frozen=True)
class Section:
    """A section whose keys depend on one of them, the selector; its first variant is the default.

    Attributes:
        family: variants that derive from it keep the keys that they have in common when the selector changes.
            Otherwise a section starts afresh with another spec.
    """

    selector: str
    variants: dict[str, Variant]
    family: type | None = None

    def find(self, name: Any) -> Variant:
        """The variant of this name; the default if there is none, so that messages can list its keys."""
        default = next(iter(self.variants.values()))
        return self.variants.get(name, default) if isinstance(name, str) else default

    def chosen(self, node: Any) -> Variant:
        """The variant that the keys of a section choose, with the fallback of `find`."""
        return self.find(node.get(self.selector) if isinstance(node, Mapping) else None)

    def exact(self, keys: Mapping[str, Any]) -> Variant:
        """The variant that these keys choose; a plug-in may know other names of the default one.

        Raises:
            RecipeError: it is not registered.
        """
        name = keys[self.selector]
        if name not in self.variants and keys.get("plugin") is None:
            raise RecipeError(f"no {self.selector} is called {name!r}; there are {', '.join(self.variants)}.")
        return self.find(name)

    def kept(self, old: type, new: type) -> frozenset[str]:
        """The keys that survive a change from one spec to another."""
        related = old is new or (self.family is not None and all(issubclass(spec, self.family) for spec in (old, new)))
        return keys_of(old) & keys_of(new) if related else frozenset()

    def having(self, key: str) -> list[str]:
        """The names of the variants that have a key."""
        return [name for name, variant in self.variants.items() if key in keys_of(variant.spec)]


_TOY = Variant(ToyDataSpec, "cld_core.data.toy_source:ToySource")
_IMAGES = "cld_core.data.image_source:ImageSource"

SECTIONS = {
    "data": Section(
        selector="name",
        family=ImageDataSpec,
        variants={
            "multimodal_swissroll": _TOY,
            "diamond": _TOY,
            "gaussian": _TOY,
            "cifar10": Variant(Cifar10Spec, _IMAGES),
            "celebahq256": Variant(CelebaHq256Spec, _IMAGES),
            "folder": Variant(ImageDataSpec, _IMAGES),
        },
    ),
    "sde": Section(
        selector="name",
        variants={
            "cld": Variant(CldSpec, "cld_core.sde.cld:CLD"),
            "vpsde": Variant(VpsdeSpec, "cld_core.sde.vpsde:VPSDE"),
            "psld": Variant(PsldSpec, "cld_core.sde.psld:PSLD"),
            "hold": Variant(HoldSpec, "cld_core.sde.hold:HOLD"),
        },
    ),
    "network": Section(
        selector="name",
        variants={
            "mlp": Variant(MlpSpec, "cld_core.nets.mlp:build"),
            "resnet": Variant(ResnetSpec, "cld_core.nets.resnet:build"),
            "ncsnpp": Variant(NcsnppSpec, "cld_core.nets.ncsnpp:build"),
        },
    ),
    "sampling": Section(
        selector="method",
        family=SamplingSpec,
        variants={
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
}


def register(section: str, name: str, variant: Variant) -> None:
    """Add a variant to a section.

    Raises:
        RecipeError: the name belongs to another variant.
    """
    taken = SECTIONS[section].variants.setdefault(name, variant)
    if taken.implementation != variant.implementation:
        text = f"{section} {name!r} is already registered, with {taken.implementation}"
        raise RecipeError(f"{text}. Choose another name.")


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
