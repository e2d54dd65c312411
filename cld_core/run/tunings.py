"""A tuning in its folder, `tuned/ID` of a run: what is asked, how far it is, what came of it. Loads
no torch or numpy.

Which of its solutions a model follows, is decided here, too (`Solutions`).

request.json      what is asked (`TuneRequest`)
jobs.jsonl        the ledger: which jobs were started, crashed or were cancelled
state.json        the rows of the fit so far (`State`), replaced after each of them
solution.json     the result (`Solution`)

Beside it, `tuned/flow-ID.npz` has ends of the network's flow, the targets of the fit, for all
tunings to the same flow.

A fit has stages, and each of its rows follows from those before it:

untuned        every candidate over every spacing: the starting points, and the baseline of a fit
grid           times, for each candidate, and then for the best of them
coefficients   times and coefficients, from the best grids, and then from the best of them
"""

import contextlib
import functools
import itertools
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from cld_core.codec import find_record, from_plain, real, to_plain
from cld_core.config import Recipe
from cld_core.config.network import UnetSpec
from cld_core.config.sampling import SamplingSpec, TunedSpec
from cld_core.digests import digest
from cld_core.errors import UsageError
from cld_core.files import parse_json, read_object

from .checkpoints import weights_digest
from .folder import RunFolder
from .work import Request, Work

# Exponential samplers without noise: the order, and whether there is a corrector.
CANDIDATES = tuple(itertools.product((1, 2, 3), (False, True)))
SPACINGS = ("power 6", "power 3", "quadratic")
# Iterations of each candidate's grid, then of only the best grids, and how many of the best there
# are.
EACH, BEST, KEPT = 3, 6, 2
# Iterations of the coefficients: on the mean square from this many starts; then, from the best of
# these, on the robust sum of squares, and on the mean square again.
STARTS, PLAIN, ROBUST, AGAIN = 3, 8, 16, 8
STAGES = {
    "untuned": len(CANDIDATES) * len(SPACINGS),
    "grid": EACH * len(CANDIDATES) + BEST * KEPT,
    "coefficients": STARTS * PLAIN + ROBUST + AGAIN,
}
STATE, SOLUTION = "state.json", "solution.json"
# What stands for an infinite distance, which JSON has not.
FAR = 1e18

POINTS_OF_TOYS, POINTS_OF_IMAGES = 4000, 16
LEAST_POINTS, MOST_POINTS, MOST_NFE = 8, 100_000, 50
MOST_MINUTES = 1_000_000

# The key of the metadata of exported files that contains solutions (docs/math.md section 7.5).
_CARRIED = "solutions"
_log = logging.getLogger(__name__)

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Flow:
    """A network's probability flow.

    Attributes:
        eps: time at which it ends.
        denoise: whether its end is denoised.
        labels: whether it is conditional on labels.
        guidance, guidance_from, guidance_to: as in `sampling`; the defaults if guidance has no
            effect, so equal flows are equal.
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
        names = (
            ("guidance", "guidance_from", "guidance_to") if labels and spec.guidance != 1 else ()
        )
        keys = {name: float(getattr(spec, name)) for name in names}
        return cls(eps=spec.eps, denoise=spec.denoise, labels=labels, **keys)


@dataclass(frozen=True)
class Coefficients:
    """A sampler whose step i evaluates alpha_i at ``times[i]``, and replaces u by a linear
    combination.

    Attributes:
        times: (N,), decreasing from 1.
        matrices: of each step, (n, n + k m): times the halves of u and of the k newest alphas, the
            newest first. The last step includes denoising and results in the sample.
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
        kept: the stage that was closest on held-out noise, one of `STAGES`.
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
        """Digest of everything that samples depend on: solutions with equal digests draw equal
        samples."""
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


def solutions_of(run: RunFolder) -> list[Solution]:
    """The solutions in a run's folder; damaged ones are left out."""
    found = []
    for name in run.tuning_names():
        with contextlib.suppress(ValueError):
            found.append(Solution.of_content(read_object(run.tuned / name / SOLUTION)))
    return found


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
        run: the name of the run, for messages; None: the model is of none.
    """

    read: Callable[[], Sequence[Solution]] = tuple
    run: str | None = None

    @classmethod
    def of_run(cls, run: RunFolder) -> Self:
        """Those in a run's folder."""
        return cls(lambda: solutions_of(run), run.name)

    @classmethod
    def of_file(cls, about: Mapping[str, str]) -> Self:
        """Those in the metadata of an exported file; damaged ones are left out."""
        found: list[Solution] = []
        with contextlib.suppress(ValueError):
            for content in from_plain(
                tuple[dict[str, Any], ...], parse_json(about.get(_CARRIED, "[]"))
            ):
                with contextlib.suppress(ValueError):
                    found.append(Solution.of_content(content))
        return cls(lambda: found)

    def carried(self, network: Network) -> dict[str, str]:
        """The metadata for an exported file of a network; empty if no solution was tuned to it."""
        contents = [
            solution.content() for solution in self.read() if moved_on(solution, network) is None
        ]
        return {_CARRIED: json.dumps(contents)} if contents else {}

    def chosen(self, spec: SamplingSpec, network: Network) -> Solution:
        """The solution that ``spec`` selects for a network: for its own weights or the nearest
        step, and the newest.

        Raises:
            UsageError: there is none; names the command that makes one, and the numbers of
                evaluations that exist.
        """
        assert isinstance(spec, TunedSpec), "only a tuned sampler has a solution"
        found = self.read()
        fitting = [
            one for one in found if one.nfe == spec.nfe and spec.solution in (None, one.digest)
        ]
        tune = self._tune(spec.nfe)
        if not fitting:
            which = (
                f"{spec.nfe} evaluations"
                if spec.solution is None
                else f"sampling.solution={spec.solution}"
            )
            there = ", ".join(map(str, sorted({one.nfe for one in found}))) or "none"
            text = f"{self.run or 'the model'} has no tuned sampler of {which}"
            raise UsageError(f"{text} (sampling.nfe; there are: {there}). Make one: `{tune}`.")
        best = min(
            fitting, key=lambda one: (any(_unlike(spec, network, one)), _distance(one, network))
        )
        for name, asked, has in _unlike(spec, network, best):
            text = f"the tuned sampler of {spec.nfe} evaluations was fitted"
            if name == "labels":
                raise UsageError(
                    f"{text} {'with' if has else 'without'} labels. Tune again: `{tune}`."
                )
            again = f"{tune} sampling.{name}={asked}" if self.run else tune
            fix = f"Leave that key alone, or tune again with it: `{again}`"
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
            average = (
                ""
                if network.ema_length is None or self.run is None
                else f" ema.length={network.ema_length:g}"
            )
            _warn(f"{how}. Tune again: `{self._tune(solution.nfe)}{average}`.")
        return solution

    def _tune(self, nfe: int) -> str:
        """What makes a solution."""
        return (
            f"model.fit_sampler({nfe})"
            if self.run is None
            else f"cldctl tune {self.run} --nfe {nfe}"
        )


def _unlike(
    spec: TunedSpec, network: Network, solution: Solution
) -> Iterator[tuple[str, Any, Any]]:
    """The keys in which the requested flow differs from that of a solution: name, requested value,
    its value."""
    asked, has = Flow.of(spec, labels=network.labels), solution.flow
    # Labels first: without them, guidance has no effect.
    for name in ("labels", "eps", "denoise", "guidance", "guidance_from", "guidance_to"):
        if getattr(asked, name) != getattr(has, name):
            yield name, getattr(asked, name), getattr(has, name)


def _distance(solution: Solution, network: Network) -> tuple[bool, bool, int, float]:
    """A sort key: how far a network is from the one that a solution was fitted to; among equals,
    the newest first."""
    created = real(solution.about.get("created")) or 0.0
    apart = abs(solution.step - network.step)
    return (
        solution.ema_length != network.ema_length,
        not _same_checkpoint(solution, network),
        apart,
        -created,
    )


def moved_on(solution: Solution, network: Network) -> str | None:
    """A description of how a network differs from the one that a solution was fitted to; None if it
    does not."""
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


@dataclass(frozen=True, kw_only=True)
class TuneRequest(Request):
    """One tuning. It is not divided: it is one shard.

    Attributes:
        model_digest: of the parts of the recipe that the model's tensors depend on.
        nfe: evaluations of the network, denoising included.
        seed: key of the noise.
        points: draws of the prior to fit to, and as many held-out ones.
        budget_min: minutes after which the fit stops with its best result; None for no limit. The
            flow does not count.
        ema_length: which average of the weights, as `ema.length`.
        flow: what the sampler is fitted to. With labels, each draw has one, with the frequencies of
            the data.
        rtol: relative and absolute tolerance of the flow.
    """

    kind: ClassVar[str] = "tuning"

    checkpoint_step: int
    model_digest: str
    nfe: int
    seed: int
    points: int
    budget_min: float | None
    ema_length: float | None = None
    flow: Flow
    rtol: float = 1e-6

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        checkpoint_step: int,
        nfe: int,
        *,
        points: int | None,
        budget_min: float | None,
        seed: int,
    ) -> Self:
        """The request for a checkpoint of a run with this recipe.

        Args:
            points: None for as many as fit the kind of data.

        Raises:
            UsageError: a number is out of bounds.
        """
        if not 2 <= nfe <= MOST_NFE:
            raise UsageError(
                f"--nfe {nfe}: a sampler is tuned for 2 to {MOST_NFE} evaluations. Ask for one of "
                f"those."
            )
        usual = POINTS_OF_IMAGES if isinstance(recipe.network, UnetSpec) else POINTS_OF_TOYS
        wanted = usual if points is None else points
        if not LEAST_POINTS <= wanted <= MOST_POINTS:
            raise UsageError(
                f"--points {wanted}: it takes {LEAST_POINTS} to {MOST_POINTS:,} points. Ask for as "
                f"many."
            )
        if budget_min is not None and not 0 <= budget_min <= MOST_MINUTES:
            text = f"--budget {budget_min:g}: a fit takes 0 to {MOST_MINUTES:,} minutes"
            raise UsageError(f"{text}. Ask for as many, or for none to set no limit.")
        return cls(
            checkpoint_step=checkpoint_step,
            model_digest=recipe.model_digest(),
            nfe=nfe,
            seed=seed,
            points=wanted,
            budget_min=budget_min,
            ema_length=recipe.ema.length,
            flow=Flow.of(recipe.sampling, labels=recipe.data.labels),
            batch_size=recipe.eval.batch_size,
            retries=recipe.train.max_retries,
        )

    @property
    def id(self) -> str:
        """A name made of everything that the rows of the fit depend on: with a larger budget, it
        goes on."""
        content = digest([self.flow_id, self.nfe, self.points])
        return f"nfe{self.nfe:03d}-{self.checkpoint_step:08d}-{content[:8]}"

    @property
    def flow_id(self) -> str:
        """Digest of everything that the ends of the flow depend on; tunings with different NFE
        share these ends."""
        step, model, average = self.checkpoint_step, self.model_digest, self.ema_length
        # The number of points says which label each has.
        points = self.points if self.flow.labels else None
        return digest([step, model, average, self.seed, self.rtol, to_plain(self.flow), points])

    @property
    def cost(self) -> str:
        """What it takes at most, for messages."""
        limit = (
            "no limit of time"
            if self.budget_min is None
            else f"at most {self.budget_min:g} minutes"
        )
        fit = f"at most {sum(STAGES.values())} iterations of a fit to half of them ({limit})"
        return f"the flow of {2 * self.points:,} draws, then {fit}"

    @property
    def sizes(self) -> dict[str, int]:
        """How many batches of the flow there are, and rows of each stage."""
        return {"flow": -(-2 * self.points // self.batch_size), **STAGES}


@dataclass(frozen=True)
class Row:
    """One row of a stage.

    Attributes:
        which: index of the candidate; in the stage "untuned", of the pair of candidate and spacing.
        sampler: its coefficients.
        damping: for the next iteration.
        fit: rms distance per coordinate on the noise of the fit.
        held: the same on held-out noise; `FAR` if samples are not finite.
        evaluations: of the network, for each point.
        seconds: that the row took.
    """

    which: int
    sampler: Coefficients
    damping: float
    fit: float
    held: float
    evaluations: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class State:
    """How far a tuning is.

    Attributes:
        weights: digest of the network's weights: a state of others is not continued.
        flow: how many batches of the flow there are.
        rows: of each stage.
    """

    weights: str
    flow: int = 0
    rows: dict[str, tuple[Row, ...]] = field(default_factory=lambda: dict.fromkeys(STAGES, ()))

    @property
    def seconds(self) -> float:
        """What the rows took, of which a budget is spent; the flow does not count."""
        return sum(row.seconds for rows in self.rows.values() for row in rows)

    def lacks(self, stage: str, budget_min: float | None) -> bool:
        """Whether a further row of a stage is to be computed."""
        done, spent = (
            len(self.rows.get(stage, ())),
            budget_min is not None and self.seconds >= 60.0 * budget_min,
        )
        return done < STAGES[stage] and not (done and spent and stage != "untuned")


class Tuning(Work):
    """One tuning to one checkpoint of ``run``."""

    command = "cldctl tune"
    request_type = TuneRequest
    called, doing, unit = "tuning", "tuning", "steps"
    request: TuneRequest

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.folder.parent.parent)

    @property
    def solution(self) -> Solution | None:
        """The result; None until there is one, of the run's present checkpoint if it still has
        it."""
        found, checksum = find_record(Solution, self.folder / SOLUTION), None
        with contextlib.suppress(OSError):
            checksum = weights_digest(self.run, self.request.checkpoint_step)
        return found if found is not None and checksum in (None, found.checkpoint) else None

    @property
    def is_done(self) -> bool:
        """Whether there is a result that a larger budget would not change."""
        found, budget_min = self.solution, self.request.budget_min
        if found is None or not found.cut_off:
            return found is not None
        return budget_min is not None and budget_min <= (real(found.about.get("budget_min")) or 0.0)

    def to_start(self) -> list[int]:
        """The pieces that are to be started: the one that it is, or none."""
        return [] if self.is_done else [0]

    def rows_done(self) -> tuple[int, int]:
        """How many steps are done, and how many there are in all."""
        total = sum(self.request.sizes.values())
        if self.is_done:
            return total, total
        state = find_record(State, self.folder / STATE)
        return 0 if state is None else min(
            state.flow + sum(map(len, state.rows.values())), total
        ), total

    def moved_at(self) -> float | None:
        try:
            return (self.folder / STATE).stat().st_mtime
        except OSError:
            return None
