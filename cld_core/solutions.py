"""The solutions of `cldctl tune` (`cld_core.run.tunings`) that belong to a model, and which of them it follows.

Exported files contain them (docs/math.md section 7.5). Loads no torch.
"""

import contextlib
import functools
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from cld_core.codec import from_plain, real
from cld_core.config.sampling import SamplingSpec, TunedSpec
from cld_core.errors import UsageError
from cld_core.files import parse_json
from cld_core.run import RunFolder
from cld_core.run.tunings import Flow, Solution, solutions_of

_log = logging.getLogger(__name__)
# The key of the metadata of exported files that contains them.
_CARRIED = "solutions"


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
        return cls(lambda: solutions_of(run), run.name)

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
