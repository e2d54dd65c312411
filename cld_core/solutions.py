"""Solutions of `cldctl tune`: the times and coefficients of a sampler that was fitted to one network. Loads no torch.

A run keeps each in ``tuned/ID/solution.json``; an exported file carries them (docs/math.md section 7.5).
"""

import contextlib
import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from cld_core.digests import digest
from cld_core.errors import UsageError
from cld_core.recipe.sampling import SamplingSpec, TunedSpec
from cld_core.run import RunFolder
from cld_core.small_files import parse_json, read_object, real, text, whole

_log = logging.getLogger(__name__)
FORMAT = 1
FILE = "solution.json"
# The metadata of an exported file that has them.
_CARRIED = "solutions"
Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Solution:
    """A sampler of ``nfe`` evaluations, and where it comes from.

    Step i evaluates alpha_i at ``times[i]`` and replaces u by transitions[i] u + sum over j of weights[i][j]
    alpha_(i-j). The last step ends with the sample: denoising is part of it.

    Attributes:
        times: (nfe,), decreasing from 1.
        transitions: (nfe, n, n).
        weights: for each step, matrices (n, m) for the newest alphas, the newest first.
        eps: where the flow that it imitates ends.
        denoise: whether that flow is denoised.
        step: the optimiser step of the network.
        checkpoint: checksum of the checkpoint; empty if it was tuned to no checkpoint.
        kept: "untuned", "grid" or "coefficients": what was closest on held-out noise.
        rms: distance from the flow per coordinate, root mean square, on held-out noise, by what was kept.
        about: how it was found: settings that it started from, points, seed, evaluations, seconds, and when.
    """

    nfe: int
    times: tuple[float, ...]
    transitions: tuple[Matrix, ...]
    weights: tuple[tuple[Matrix, ...], ...]
    eps: float
    denoise: bool
    step: int = 0
    checkpoint: str = ""
    kept: str = "untuned"
    rms: Mapping[str, float]
    about: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Of what samples depend on: equal solutions draw equal samples."""
        return digest([self.nfe, self.times, self.transitions, self.weights, self.eps, self.denoise])[:16]

    def content(self) -> dict[str, Any]:
        """What is stored: floats with all their digits."""
        return {"format": FORMAT, "digest": self.digest, **asdict(self)}

    @classmethod
    def of_content(cls, content: Mapping[str, Any]) -> Self:
        """A solution from what was stored.

        Raises:
            ValueError: it is damaged, or of another version of cldctl.
        """
        if content.get("format") != FORMAT:
            raise ValueError(f"its format is {content.get('format')!r}, this cldctl reads {FORMAT}")
        try:
            solution = cls(
                nfe=content["nfe"],
                times=tuple(map(float, content["times"])),
                transitions=tuple(map(_matrix, content["transitions"])),
                weights=tuple(tuple(map(_matrix, step)) for step in content["weights"]),
                eps=float(content["eps"]),
                denoise=bool(content["denoise"]),
                step=content["step"],
                checkpoint=content["checkpoint"],
                kept=content["kept"],
                rms=dict(content["rms"]),
                about=dict(content["about"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"it lacks something ({type(error).__name__}: {error})") from error
        if solution.digest != content.get("digest") or not solution._is_whole:
            raise ValueError("its numbers are not those that were written")
        return solution

    @property
    def _is_whole(self) -> bool:
        counts = {self.nfe, len(self.times), len(self.transitions), len(self.weights)}
        texts = text(self.checkpoint) is not None and text(self.kept) is not None
        numbers = whole(self.step) is not None and all(real(value) is not None for value in self.rms.values())
        return len(counts) == 1 and texts and numbers


def _matrix(rows: Sequence[Sequence[float]]) -> Matrix:
    return tuple(tuple(map(float, row)) for row in rows)


@dataclass(frozen=True)
class Solutions:
    """The solutions that belong to a model.

    Attributes:
        read: finds them, when they are asked for.
        name: of the run, for messages.
    """

    read: Callable[[], Sequence[Solution]] = tuple
    name: str = "RUN"

    @classmethod
    def of_run(cls, run: RunFolder) -> Self:
        """Those in a run's folder."""
        return cls(lambda: in_run(run), run.name)

    @classmethod
    def of_file(cls, about: Mapping[str, str], name: str) -> Self:
        """Those that an exported file carries in its metadata; damaged ones are left out."""
        found: list[Solution] = []
        with contextlib.suppress(ValueError):
            content = parse_json(about.get(_CARRIED, ""))
            for one in content if isinstance(content, list) else ():
                with contextlib.suppress(ValueError):
                    found.append(Solution.of_content(one if isinstance(one, dict) else {}))
        return cls(lambda: found, name)

    def carried(self, step: int) -> dict[str, str]:
        """What an exported file of the network of ``step`` says of them; nothing if none was tuned to it."""
        contents = [solution.content() for solution in self.read() if solution.step == step]
        return {_CARRIED: json.dumps(contents)} if contents else {}

    def chosen(self, spec: SamplingSpec, step: int) -> Solution:
        """The solution that ``spec`` means for the network of ``step``: that of the nearest step, and of the newest.

        Raises:
            UsageError: there is none; names the command that makes one, and the numbers of evaluations that exist.
        """
        assert isinstance(spec, TunedSpec), "only a tuned sampler has a solution"
        found = self.read()
        fitting = [one for one in found if one.nfe == spec.nfe and spec.solution in (None, one.digest)]
        tune = f"`cldctl tune {self.name} --nfe {spec.nfe}`"
        if not fitting:
            which = f"{spec.nfe} evaluations" if spec.solution is None else f"sampling.solution={spec.solution}"
            there = ", ".join(map(str, sorted({one.nfe for one in found}))) or "none"
            text = f"{self.name} has no tuned sampler of {which}"
            raise UsageError(f"{text} (sampling.nfe; there are: {there}). Make one: {tune}.")
        best = min(fitting, key=lambda one: (abs(one.step - step), -(real(one.about.get("created")) or 0.0)))
        for name, asked, has in (("eps", spec.eps, best.eps), ("denoise", spec.denoise, best.denoise)):
            if asked != has:
                text = f"the tuned sampler of {spec.nfe} evaluations was fitted with sampling.{name}={has}"
                raise UsageError(f"{text}, not {asked}. Leave that key alone, or tune again with it: {tune}.")
        return best

    def followed(self, spec: SamplingSpec, step: int) -> Solution | None:
        """As `chosen`, for a sampler that draws; None for one that needs no solution.

        Warns, once, if the network has moved on: if it is of another step than the one that was tuned to.
        """
        if not spec.needs_solution:
            return None
        solution = self.chosen(spec, step)
        if solution.step != step:
            text = f"the tuned sampler of {solution.nfe} evaluations was fitted to step {solution.step}, not {step}"
            _warn(f"{text}. Tune again: `cldctl tune {self.name} --nfe {solution.nfe}`.")
        return solution


@functools.cache
def _warn(text: str) -> None:
    """Log a warning: once, because the call is cached."""
    _log.warning("%s", text)


def following(spec: SamplingSpec, solution: Solution) -> SamplingSpec:
    """A spec that names the solution that it follows: what it draws is the same whenever it is asked for."""
    assert isinstance(spec, TunedSpec), "only a tuned sampler follows a solution"
    return replace(spec, solution=solution.digest)


def read(file: Path) -> Solution | None:
    """The solution in a file; None if there is none, or a damaged one."""
    with contextlib.suppress(ValueError):
        return Solution.of_content(read_object(file))
    return None


def in_run(run: RunFolder) -> list[Solution]:
    """The solutions in a run's folder; damaged ones are left out."""
    found = (read(run.tuned / name / FILE) for name in run.tuning_names())
    return [solution for solution in found if solution is not None]
