"""Solutions of `cldctl tune`: the times and coefficients of a sampler that was fitted to one network. Loads no torch.

A run keeps each in ``tuned/ID/solution.json``; exported files contain them (docs/math.md section 7.5).
"""

import contextlib
import functools
import itertools
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from cld_core.codec import from_plain, real, to_plain
from cld_core.config.sampling import SamplingSpec, TunedSpec
from cld_core.digests import digest
from cld_core.errors import UsageError
from cld_core.files import parse_json, read_object
from cld_core.run import RunFolder

_log = logging.getLogger(__name__)
FORMAT = 1
FILE = "solution.json"
# The key of the metadata of exported files that contains them.
_CARRIED = "solutions"
# What makes two flows the same, besides the weights.
FLOW = ("eps", "denoise", "labels", "guidance", "guidance_from", "guidance_to")
Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Solution:
    """A sampler of ``nfe`` evaluations, and where it comes from.

    Step i evaluates alpha_i at ``times[i]`` and replaces u by transitions[i] u + sum over j of weights[i][j]
    alpha_(i-j). The last step includes denoising and results in the sample.

    Attributes:
        times: (nfe,), decreasing from 1.
        transitions: (nfe, n, n).
        weights: for each step, matrices (n, m) for the newest alphas, the newest first.
        eps: time at which the flow that it was fitted to ends.
        denoise: whether the end of that flow is denoised.
        labels: whether that flow is conditional on labels.
        guidance, guidance_from, guidance_to: of that flow, as in `sampling`; the defaults if it has no labels.
        step: the optimiser step of the network.
        checkpoint: checksum of the checkpoint; empty if it was tuned to no checkpoint.
        ema_length: which average of the weights, as `ema.length`.
        kept: the stage that was closest on held-out noise, one of `cld_core.tune.tuning.STAGES`.
        cut_off: whether the budget ended the fit before its last iteration.
        rms: root-mean-square distance from the flow, per coordinate, on held-out noise, by stage.
        about: how it was found: initial settings, points, seed, evaluations, seconds, and date.
    """

    nfe: int
    times: tuple[float, ...]
    transitions: tuple[Matrix, ...]
    weights: tuple[tuple[Matrix, ...], ...]
    eps: float
    denoise: bool
    labels: bool = False
    guidance: float = 1.0
    guidance_from: float = 0.0
    guidance_to: float = 1.0
    step: int = 0
    checkpoint: str = ""
    ema_length: float | None = None
    kept: str = "untuned"
    cut_off: bool = False
    rms: dict[str, float]
    about: dict[str, Any]

    @property
    def digest(self) -> str:
        """Digest of everything that samples depend on: solutions with equal digests draw equal samples."""
        return digest([self.nfe, self.times, self.transitions, self.weights, self.eps, self.denoise])[:16]

    @property
    def distance(self) -> float:
        """The distance from the flow of the stage that was kept; infinite if it is not known."""
        return self.rms.get(self.kept, float("inf"))

    def content(self) -> dict[str, Any]:
        """The content of its file: floats with all their digits."""
        return {"format": FORMAT, "digest": self.digest, **to_plain(self)}

    @classmethod
    def of_content(cls, content: Mapping[str, Any]) -> Self:
        """A solution from the content of its file.

        Raises:
            ValueError: it is damaged, or of another version of cldctl.
        """
        if content.get("format") != FORMAT:
            raise ValueError(f"its format is {content.get('format')!r}, this cldctl reads {FORMAT}")
        solution = from_plain(cls, content)
        if solution.digest != content.get("digest"):
            raise ValueError("its numbers are not those that were written")
        if not solution.fits_a_sampler:
            raise ValueError("it is not that of a sampler: its times or matrices do not go together")
        return solution

    @property
    def fits_a_sampler(self) -> bool:
        """Whether times fall, matrices are (n, n) and (n, m) with 1 <= m <= n, and step i has 1 to i + 1 weights."""
        times, each = (1.0 + 1e-9, *self.times, 0.0), list(itertools.chain(*self.weights))
        if not 0 < self.eps < 1 or not all(later < earlier for earlier, later in itertools.pairwise(times)):
            return False
        if not self.nfe == len(self.times) == len(self.transitions) == len(self.weights) >= 1:
            return False
        if not all(1 <= len(step) <= number for number, step in enumerate(self.weights, 1)):
            return False
        n, m = len(self.transitions[0]), len(each[0][0]) if each[0] else 0
        shapes = [({n}, self.transitions), ({m}, each)]
        return 1 <= m <= n and all(
            len(matrix) == n and set(map(len, matrix)) == columns for columns, some in shapes for matrix in some
        )


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
            content = parse_json(about.get(_CARRIED, ""))
            for one in content if isinstance(content, list) else ():
                with contextlib.suppress(ValueError):
                    found.append(Solution.of_content(one if isinstance(one, dict) else {}))
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
        if not spec.needs_solution:
            return None
        solution = self.chosen(spec, network)
        if (how := moved_on(solution, network)) is not None:
            average = "" if network.ema_length is None else f" ema.length={network.ema_length:g}"
            _warn(f"{how}. Tune again: `cldctl tune {self.name} --nfe {solution.nfe}{average}`.")
        return solution


def _unlike(spec: TunedSpec, network: Network, solution: Solution) -> Iterator[tuple[str, Any, Any]]:
    """The keys in which the requested flow differs from that of a solution: name, requested value, its value."""
    if network.labels != solution.labels:
        yield "labels", network.labels, solution.labels
    for name in ("eps", "denoise"):
        if getattr(spec, name) != getattr(solution, name):
            yield name, getattr(spec, name), getattr(solution, name)
    asked, has = guidance_of(spec, labels=network.labels), guidance_of(solution, labels=solution.labels)
    for name, value in asked.items():
        if value != has[name]:
            yield name, value, has[name]


def guidance_of(spec: SamplingSpec | Solution, *, labels: bool) -> dict[str, Any]:
    """Scale and interval of guidance, or the defaults if guidance has no effect, so they are equal for equal flows."""
    names = ("guidance", "guidance_from", "guidance_to")
    source = spec if labels and spec.guidance != 1 else SamplingSpec
    return {name: float(getattr(source, name)) for name in names}


def _distance(solution: Solution, network: Network) -> tuple[bool, bool, int, float]:
    """A sort key: how far a network is from the one that a solution was fitted to; among equals, the newest first."""
    created = real(solution.about.get("created")) or 0.0
    apart = abs(solution.step - network.step)
    return not _same_average(solution, network), not _same_checkpoint(solution, network), apart, -created


def moved_on(solution: Solution, network: Network) -> str | None:
    """A description of how a network differs from the one that a solution was fitted to; None if it does not."""
    text = f"the tuned sampler of {solution.nfe} evaluations was fitted to"
    if not _same_average(solution, network):
        fitted, used = (_shown(one.ema_length) for one in (solution, network))
        return f"{text} the weights of ema.length={fitted}, not {used}"
    if solution.step != network.step:
        return f"{text} step {solution.step}, not {network.step}"
    if not _same_checkpoint(solution, network):
        return f"{text} a checkpoint of step {solution.step} that has been replaced"
    return None


def _same_average(solution: Solution, network: Network) -> bool:
    return _shown(solution.ema_length) == _shown(network.ema_length)


def _shown(length: float | None) -> str:
    """The form used in files and messages."""
    return "null" if length is None else f"{length:g}"


def _same_checkpoint(solution: Solution, network: Network) -> bool:
    if solution.checkpoint and network.checkpoint:
        return solution.checkpoint == network.checkpoint
    return solution.step == network.step


@functools.cache
def _warn(text: str) -> None:
    """Log a warning: once, because the call is cached."""
    _log.warning("%s", text)


def following(spec: SamplingSpec, solution: Solution) -> SamplingSpec:
    """A spec that names the solution that it follows, so that it always draws the same samples."""
    assert isinstance(spec, TunedSpec), "only a tuned sampler follows a solution"
    return replace(spec, solution=solution.digest)
