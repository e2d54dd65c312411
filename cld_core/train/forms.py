"""The forms in which a network can compute. They give the same numbers except for rounding, at different speeds."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from cld_core.config.train import TrainSpec
from cld_core.nets.resampling import Form

# graphs: compiled, and replayed as CUDA graphs.
Compile = Literal["eager", "compiled", "graphs"]
_WORDS: dict[Compile, tuple[str, ...]] = {
    "eager": (),
    "compiled": ("compiled",),
    "graphs": ("compiled with CUDA graphs",),
}
# A training that takes less time uncompiled is over before compiling pays.
WORTH_COMPILING_S = 600.0


@dataclass(frozen=True)
class Choice:
    """One form: whether it is compiled, how images lie in memory, and how FIR filters double the resolution."""

    compile: Compile = "eager"
    channels_last: bool = False
    upsampling: Form = "transposed"

    @classmethod
    def plain(cls, spec: TrainSpec) -> "Choice":
        """The form that a recipe names; what it leaves to `auto` is plain."""
        return cls("compiled" if spec.compile is True else "eager", spec.channels_last is True)

    def __str__(self) -> str:
        """In a few words, such as "compiled + channels_last"."""
        words = [*_WORDS[self.compile], *["channels_last"] * self.channels_last]
        words += [f"{self.upsampling} upsampling"] * (self.upsampling != "transposed")
        return " + ".join(words) or "eager"


@dataclass(frozen=True)
class Options:
    """The forms that recipe and machine leave to choose among: all combinations of these."""

    compile: tuple[Compile, ...]
    channels_last: tuple[bool, ...]
    upsampling: tuple[Form, ...]

    def uncompiled(self) -> list[Choice]:
        return [Choice("eager", *parts) for parts in itertools.product(self.channels_last, self.upsampling)]


@dataclass
class Timings:
    """By form, the milliseconds of a forward and backward pass, or why it cannot be used."""

    milliseconds: dict[Choice, float] = field(default_factory=dict)
    failed: dict[Choice, str] = field(default_factory=dict)

    def best(self, among: list[Choice]) -> Choice | None:
        """The fastest of those that work."""
        return min((it for it in among if it in self.milliseconds), key=self.milliseconds.__getitem__, default=None)

    def __str__(self) -> str:
        timed = [f"{choice} {ms:.3g} ms" for choice, ms in self.milliseconds.items()]
        return ", ".join(timed + [f"{choice} fails ({reason})" for choice, reason in self.failed.items()])


def compare(options: Options, take: Callable[[Choice, Timings], None], passes: int) -> tuple[Choice, Timings]:
    """The fastest form, and what was measured. If no form works, the plainest, whose error training then meets.

    Args:
        take: measures one form.
        passes: forward and backward passes of the whole training.
    """
    timings, first = Timings(), options.uncompiled()
    if len(first) > 1 or len(options.compile) > 1:
        for choice in first:
            take(choice, timings)
    best = timings.best(first) or first[0]
    second = [replace(best, compile=form) for form in options.compile]
    # What fails uncompiled may work compiled, which needs less memory.
    if len(second) > 1 and timings.milliseconds.get(best, math.inf) * passes >= 1e3 * WORTH_COMPILING_S:
        for choice in second[1:]:
            take(choice, timings)
    return timings.best(second) or second[0], timings


def recalled(
    options: Options, milliseconds: Mapping[str, float], failed: Mapping[str, str], passes: int
) -> Choice | None:
    """What `compare` would choose, from earlier times and failures by form in words; None if they lack one of them.

    If nothing worked, the reason may be gone: that decides nothing.
    """
    if not milliseconds:
        return None

    def take(choice: Choice, timings: Timings) -> None:
        if str(choice) in milliseconds:
            timings.milliseconds[choice] = milliseconds[str(choice)]
        else:
            timings.failed[choice] = failed[str(choice)]

    try:
        return compare(options, take, passes)[0]
    except KeyError:
        return None
