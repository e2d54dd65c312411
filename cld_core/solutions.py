"""Solutions of `cldctl tune`: the times and coefficients of a sampler that was fitted to one network. Loads no torch.

A run keeps each in ``tuned/ID/solution.json``; exported files contain them (docs/math.md section 7.5).
"""

import contextlib
import functools
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cld_core.codec import from_plain, real, to_plain
from cld_core.config.sampling import SamplingSpec, TunedSpec
from cld_core.digests import digest
from cld_core.errors import UsageError
from cld_core.files import parse_json, read_object
from cld_core.run import RunFolder

_log = logging.getLogger(__name__)
FILE = "solution.json"
# The key of the metadata of exported files that contains them.
_CARRIED = "solutions"
Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Flow:
    """A network's probability flow.

    Attributes:
        eps: time at which it ends.
        denoise: whether its end is denoised.
        labels: whether it is conditional on labels.
        guidance, guidance_from, guidance_to: as in `sampling`; the defaults if guidance has no effect, so equal flows
            are equal.
    """

    eps: float
    denoise: bool
    labels: bool = False
    guidance: float = SamplingSpec.guidance
    guidance_from: float = SamplingSpec.guidance_from
    guidance_to: float = SamplingSpec.guidance_to

    @classmethod
    def of(cls, spec: SamplingSpec, *, labels: bool) -> Self:
        """The flow that the keys of ``spec`` are of."""
        names = ("guidance", "guidance_from", "guidance_to") if labels and spec.guidance != 1 else ()
        keys = {name: float(getattr(spec, name)) for name in names}
        return cls(eps=spec.eps, denoise=spec.denoise, labels=labels, **keys)


@dataclass(frozen=True)
class Coefficients:
    """A sampler whose step i evaluates alpha_i at ``times[i]``, and replaces u by a linear combination.

    Attributes:
        times: (N,), decreasing from 1.
        matrices: of each step, (n, n + k m): times the halves of u and of the k newest alphas, the newest first. The
            last step includes denoising and results in the sample.
    """

    times: tuple[float, ...]
    matrices: tuple[Matrix, ...]


@dataclass(frozen=True, kw_only=True)
class Solution:
    """A sampler, and where it comes from.

    Attributes:
        flow: what it was fitted to.
        step: the optimiser step of the network.
        checkpoint: checksum of the checkpoint; empty if it was tuned to no checkpoint.
        ema_length: which average of the weights, as `ema.length`.
        kept: the stage that was closest on held-out noise, one of `cld_core.tune.tuning.STAGES`.
        cut_off: whether the budget ended the fit before its last iteration.
        rms: root-mean-square distance from the flow, per coordinate, on held-out noise, by stage.
        about: how it was found: initial settings, points, seed, evaluations, seconds, and date.
    """

    coefficients: Coefficients
    flow: Flow
    step: int = 0
    checkpoint: str = ""
    ema_length: float | None = None
    kept: str = "untuned"
    cut_off: bool = False
    rms: dict[str, float]
    about: dict[str, Any]

    @property
    def nfe(self) -> int:
        """Evaluations of the network, denoising included."""
        return len(self.coefficients.times)

    @property
    def digest(self) -> str:
        """Digest of everything that samples depend on: solutions with equal digests draw equal samples."""
        return digest([to_plain(self.coefficients), self.flow.eps, self.flow.denoise])[:16]

    @property
    def distance(self) -> float:
        """The distance from the flow of the stage that was kept; infinite if it is not known."""
        return self.rms.get(self.kept, float("inf"))

    def content(self) -> dict[str, Any]:
        """The content of its file: floats with all their digits."""
        return {"digest": self.digest, **to_plain(self)}

    @classmethod
    def of_content(cls, content: Mapping[str, Any]) -> Self:
        """A solution from the content of its file.

        Raises:
            ValueError: it is damaged, or of another version of cldctl.
        """
        solution = from_plain(cls, content)
        if solution.digest != content.get("digest"):
            raise ValueError("its numbers are not those that were written")
        return solution


def read(file: Path) -> Solution | None:
    """The solution in a file; None if there is none, or a damaged one."""
    with contextlib.suppress(ValueError):
        return Solution.of_content(read_object(file))
    return None


def in_run(run: RunFolder) -> list[Solution]:
    """The solutions in a run's folder; damaged ones are left out."""
    found = (read(run.tuned / name / FILE) for name in run.tuning_names())
    return [solution for solution in found if solution is not None]


@dataclass(frozen=True, kw_only=True)
class Network:
    """The network for which a solution is requested.

    Attributes:
        step: the optimiser step of its weights.
        checkpoint: checksum of the checkpoint that contains them; empty if it is not known.
        ema_length: which average they are, as `ema.length`.
        labels: whether it takes labels.
    """

    step: int
    checkpoint: str = ""
    ema_length: float | None = None
    labels: bool = False


@dataclass(frozen=True)
class Solutions:
    """The solutions that belong to a model.

    Attributes:
        read: reads them when they are needed.
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
        """Those in the metadata of an exported file; damaged ones are left out."""
        found: list[Solution] = []
        with contextlib.suppress(ValueError):
            for content in from_plain(tuple[dict[str, Any], ...], parse_json(about.get(_CARRIED, "[]"))):
                with contextlib.suppress(ValueError):
                    found.append(Solution.of_content(content))
        return cls(lambda: found, name)

    def carried(self, network: Network) -> dict[str, str]:
        """The metadata for an exported file of a network; empty if no solution was tuned to it."""
        contents = [solution.content() for solution in self.read() if moved_on(solution, network) is None]
        return {_CARRIED: json.dumps(contents)} if contents else {}

    def chosen(self, spec: SamplingSpec, network: Network) -> Solution:
        """The solution that ``spec`` selects for a network: for its own weights or the nearest step, and the newest.

        Raises:
            UsageError: there is none; names the command that makes one, and the numbers of evaluations that exist.
        """
        assert isinstance(spec, TunedSpec), "only a tuned sampler has a solution"
        found = self.read()
        fitting = [one for one in found if one.nfe == spec.nfe and spec.solution in (None, one.digest)]
        tune = f"cldctl tune {self.name} --nfe {spec.nfe}"
        if not fitting:
            which = f"{spec.nfe} evaluations" if spec.solution is None else f"sampling.solution={spec.solution}"
            there = ", ".join(map(str, sorted({one.nfe for one in found}))) or "none"
            text = f"{self.name} has no tuned sampler of {which}"
            raise UsageError(f"{text} (sampling.nfe; there are: {there}). Make one: `{tune}`.")
        best = min(fitting, key=lambda one: (any(_unlike(spec, network, one)), _distance(one, network)))
        for name, asked, has in _unlike(spec, network, best):
            text = f"the tuned sampler of {spec.nfe} evaluations was fitted"
            if name == "labels":
                raise UsageError(f"{text} {'with' if has else 'without'} labels. Tune again: `{tune}`.")
            fix = f"Leave that key alone, or tune again with it: `{tune} sampling.{name}={asked}`"
            raise UsageError(f"{text} with sampling.{name}={has}, not {asked}. {fix}.")
        return best

    def followed(self, spec: SamplingSpec, network: Network) -> Solution | None:
        """As `chosen`, when samples are drawn; None for a sampler that needs no solution.

        Warns, once, if the network is not the one that the solution was fitted to (`moved_on`).
        """
        if not isinstance(spec, TunedSpec):
            return None
        solution = self.chosen(spec, network)
        if (how := moved_on(solution, network)) is not None:
            average = "" if network.ema_length is None else f" ema.length={network.ema_length:g}"
            _warn(f"{how}. Tune again: `cldctl tune {self.name} --nfe {solution.nfe}{average}`.")
        return solution


def _unlike(spec: TunedSpec, network: Network, solution: Solution) -> Iterator[tuple[str, Any, Any]]:
    """The keys in which the requested flow differs from that of a solution: name, requested value, its value."""
    asked, has = Flow.of(spec, labels=network.labels), solution.flow
    # Labels first: without them, guidance has no effect.
    for name in ("labels", "eps", "denoise", "guidance", "guidance_from", "guidance_to"):
        if getattr(asked, name) != getattr(has, name):
            yield name, getattr(asked, name), getattr(has, name)


def _distance(solution: Solution, network: Network) -> tuple[bool, bool, int, float]:
    """A sort key: how far a network is from the one that a solution was fitted to; among equals, the newest first."""
    created = real(solution.about.get("created")) or 0.0
    apart = abs(solution.step - network.step)
    return solution.ema_length != network.ema_length, not _same_checkpoint(solution, network), apart, -created


def moved_on(solution: Solution, network: Network) -> str | None:
    """A description of how a network differs from the one that a solution was fitted to; None if it does not."""
    text = f"the tuned sampler of {solution.nfe} evaluations was fitted to"
    if solution.ema_length != network.ema_length:
        fitted, used = (_shown(one.ema_length) for one in (solution, network))
        return f"{text} the weights of ema.length={fitted}, not {used}"
    if solution.step != network.step:
        return f"{text} step {solution.step}, not {network.step}"
    if not _same_checkpoint(solution, network):
        return f"{text} a checkpoint of step {solution.step} that has been replaced"
    return None


def _shown(length: float | None) -> str:
    """The form used in messages."""
    return "null" if length is None else f"{length:g}"


def _same_checkpoint(solution: Solution, network: Network) -> bool:
    if solution.checkpoint and network.checkpoint:
        return solution.checkpoint == network.checkpoint
    return solution.step == network.step


@functools.cache
def _warn(text: str) -> None:
    """Log a warning: once, because the call is cached."""
    _log.warning("%s", text)
