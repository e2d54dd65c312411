"""What is known of a picture of samples: how they were drawn, from its name, its own text, and its run's files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from cld_core.recipe.sampling import SamplingSpec
from cld_core.recipe.variants import SECTIONS, keys_of

# As `cld_core.evaluation.pictures` names pictures, and as it writes their titles.
_NAME = re.compile(r"step_(\d{1,18})(?:_(.{1,200}))?")
_DRAW = re.compile(r"([a-z0-9_]{1,40}?)(?:_nfe(\d{1,18}))?_n\d{1,18}(?:_seed(\d{1,19}))?(_.+?)?(?:_ema-[\d.e-]{1,24})?")
_TITLE = re.compile(
    r".{0,200}step ([\d,]{1,24})(?:, (EMA length [\d.e-]{1,24}))?: "
    r"([\d,]{1,24}) samples(?: \([^()]{1,60}\))?,(?: (\w{1,40}),)?"
    r"(?: label [^,]{1,40},)?(?: guidance [\d.]{1,20},)? (\d{1,18}) NFE"
)
# An adaptive sampler needs a different number of network evaluations for each sample, so its mean varies.
_ADAPTIVE, _CLOSE = "ode", 0.05
_UNGUIDED = str(SamplingSpec.guidance)


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What samples depend on besides the weights.

    Attributes:
        keys: all keys of the sampler, with their values as text.
        seed: the key of the noise.
    """

    keys: Mapping[str, str]
    seed: int

    @classmethod
    def of(cls, spec: SamplingSpec, seed: int) -> "Draw":
        return cls(keys=_texts(spec), seed=seed)

    @classmethod
    def named(cls, name: str) -> "Draw | None":
        """What the name of a file, without its ending, tells; None if `cldctl sample` makes no such name."""
        found = _NAME.fullmatch(name)
        parts = _DRAW.fullmatch(found[2] or "") if found is not None else None
        variant = SECTIONS["sampling"].variants.get(parts[1]) if parts is not None else None
        if parts is None or variant is None:
            return None
        # The method and the number of network evaluations stand in front.
        rest = [key for key in keys_of(variant.spec) if key not in ("method", "nfe")]
        known = sorted(map(re.escape, rest), key=len, reverse=True)
        # A key may hold "_", a value does not.
        one = f"_({'|'.join(known)})-([^_]+)"
        others = parts[4] or ""
        if re.fullmatch(f"(?:{one})*", others) is None:
            return None
        told = {"nfe": parts[2]} if parts[2] is not None else {}
        keys = _texts(variant.spec()) | told | dict(re.findall(one, others))
        return cls(keys=keys, seed=int(parts[3] or 0))

    @property
    def unusual(self) -> list[str]:
        """What is not the default, besides the method and the number of network evaluations."""
        usual = _texts(SECTIONS["sampling"].find(self.keys["method"]).spec())
        keys = [f"{key}={value}" for key, value in self.keys.items() if key != "nfe" and value != usual.get(key)]
        return [*([f"seed {self.seed}"] if self.seed else []), *keys]

    def fits(self, method: str | None, nfe: int) -> bool:
        """Whether a picture whose title tells this may have been drawn so."""
        # With guidance, steps take one evaluation of the network or two.
        guided = self.keys.get("guidance", _UNGUIDED) != _UNGUIDED
        return method in (None, self.keys["method"]) and (guided or self.keys.get("nfe", str(nfe)) == str(nfe))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the samples of a picture were drawn.

    Attributes:
        method: the sampler; None if nothing tells.
        nfe: the mean number of network evaluations of a sample.
        average: which average of the weights, in words; empty for the usual one.
        draw: None if not everything is known.
    """

    step: int
    samples: int
    method: str | None
    nfe: int
    average: str = ""
    draw: Draw | None = None

    def is_like(self, other: "Settings") -> bool:
        """Whether it is known that both were drawn in the same way from the same weights, be it more or fewer."""
        if self.draw is None or (self.draw, self.step, self.average) != (other.draw, other.step, other.average):
            return False
        tolerance = _CLOSE * max(self.nfe, other.nfe) if self.method == _ADAPTIVE else 0
        return abs(self.nfe - other.nfe) <= tolerance

    @property
    def caption(self) -> str:
        parts = [
            *([self.average] if self.average else []),
            f"{self.samples:,} samples",
            *([self.method] if self.method else []),
            f"{self.nfe:,} NFE",
            *(self.draw.unusual if self.draw is not None else []),
        ]
        return f"step {self.step:,}: {', '.join(parts)}"


def settings_of(title: object, draw: Draw | None) -> Settings | None:
    """What the title of a picture tells; None if it is another one.

    Args:
        draw: how its samples were drawn, by its name or the files of its run; it counts if the title agrees.
    """
    found = _TITLE.fullmatch(title) if isinstance(title, str) else None
    if found is None:
        return None
    step, average, samples, method, nfe = found.groups()
    agreed = draw if draw is not None and draw.fits(method, int(nfe)) else None
    return Settings(
        step=_number(step),
        samples=_number(samples),
        method=agreed.keys["method"] if agreed is not None else method,
        nfe=int(nfe),
        average=average or "",
        draw=agreed,
    )


def caption_of(name: str) -> str:
    """A caption from a name alone."""
    found = _NAME.fullmatch(name)
    if found is None:
        return name
    return f"step {int(found[1]):,}" + (f", {found[2]}" if found[2] else "")


def _texts(spec: SamplingSpec) -> dict[str, str]:
    """The keys of a sampler as names of pictures spell their values; the same if the samples are the same."""
    canonical = spec.canonical()
    return {entry.name: str(getattr(canonical, entry.name)).lower() for entry in fields(canonical)}


def _number(text: str) -> int:
    return int(text.replace(",", "") or 0)
