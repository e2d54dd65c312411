"""What a picture of samples says about itself: how they were drawn, in its name and in its own text."""

import re
from dataclasses import dataclass

# As `cld_core.evaluation.pictures` names pictures, and as it writes their titles.
_NAME = re.compile(r"step_(\d{1,18})(?:_(.{1,80}))?")
_TITLE = re.compile(
    r".{0,200}step ([\d,]{1,24}): ([\d,]{1,24}) samples(?: \([^()]{1,60}\))?,(?: (\w{1,40}),)? (\d{1,18}) NFE"
)
# Parts of a name that the title tells, too: number of samples, network evaluations.
_TOLD = re.compile(r"n\d+|nfe\d+")
# An adaptive sampler needs a different number of network evaluations for each sample, so its mean varies.
_CLOSE = 0.05


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the samples of a picture were drawn.

    Attributes:
        method: the sampler; None if the picture does not tell.
        others: settings in its name that are not defaults.
    """

    step: int
    samples: int
    method: str | None
    nfe: int
    others: tuple[str, ...] = ()

    def is_like(self, other: "Settings") -> bool:
        """Whether the same sampler drew from the same weights, be it more or fewer samples."""
        is_same_method = self.method == other.method or None in (self.method, other.method)
        is_close = abs(self.nfe - other.nfe) <= _CLOSE * max(self.nfe, other.nfe)
        return self.step == other.step and self.others == other.others and is_same_method and is_close

    @property
    def caption(self) -> str:
        parts = [
            f"{self.samples:,} samples",
            *([self.method] if self.method else []),
            f"{self.nfe:,} NFE",
            *self.others,
        ]
        return f"step {self.step:,}: {', '.join(parts)}"


def settings_of(name: str, title: object) -> Settings | None:
    """What the name of a file, without its ending, and the title of the picture tell; None if the title is another."""
    found = _TITLE.fullmatch(title) if isinstance(title, str) else None
    if found is None:
        return None
    step, samples, method, nfe = found.groups()
    named = _NAME.fullmatch(name)
    rest = (named[2] or "").split("_") if named is not None else []
    return Settings(
        step=_number(step),
        samples=_number(samples),
        method=method,
        nfe=int(nfe),
        others=tuple(part for part in rest if part and part != method and not _TOLD.fullmatch(part)),
    )


def caption_of(name: str) -> str:
    """A caption from a name alone."""
    found = _NAME.fullmatch(name)
    if found is None:
        return name
    return f"step {int(found[1]):,}" + (f", {found[2]}" if found[2] else "")


def _number(text: str) -> int:
    return int(text.replace(",", "") or 0)
