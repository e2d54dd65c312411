"""A tuning in its folder, `tuned/ID` of a run: request, progress, result. Loads no torch or numpy.

`Solutions` also decides which of the results a model follows.

    request.json      the request (`TuneRequest`)
    jobs.jsonl        the ledger: jobs that were started, crashed or were cancelled
    state.json        the rows of the fit so far (`TuningState`), replaced after each of them
    solution.json     the result (`TunedSampler`)

Beside it, `tuned/flow-ID.npz` has ends of the network's flow, the targets of the fit, for all
tunings to the same flow.

A fit has stages, and each of its rows follows from those before it:

    untuned         every candidate over every spacing: the starting points and the baseline
    grid            times, for each candidate, and then for the best of them
    coefficients    times and coefficients, from the best grids, and then from the best result
"""

import contextlib
import functools
import itertools
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from cld_core.config import Recipe
from cld_core.config.network import UnetSpec
from cld_core.config.sampling import SamplingSpec, TunedSpec
from cld_core.digests import digest
from cld_core.errors import UsageError
from cld_core.files import parse_json, read_object
from cld_core.records import find_record, from_plain, real, record, to_plain

from .checkpoints import is_replaced
from .folder import RunFolder
from .work import Request, RequestedWork

# Exponential samplers without noise: the order, and whether there is a corrector.
CANDIDATES = tuple(itertools.product((1, 2, 3), (False, True)))
SPACINGS = ("power 6", "power 3", "quadratic")
# Iterations of each candidate's grid, then of only the best grids, and the number of the best.
EACH = 3
BEST = 6
KEPT = 2
# Iterations of the coefficients: on the mean square, from this many starts; then, from the best of
# these, on the robust sum of squares, and on the mean square again.
STARTS = 3
PLAIN = 8
ROBUST = 16
AGAIN = 8
STAGES = {
    "untuned": len(CANDIDATES) * len(SPACINGS),
    "grid": EACH * len(CANDIDATES) + BEST * KEPT,
    "coefficients": STARTS * PLAIN + ROBUST + AGAIN,
}
STATE = "state.json"
SOLUTION = "solution.json"
# Stands for an infinite distance, which JSON does not have.
FAR = 1e18

POINTS_OF_TOYS = 4000
POINTS_OF_IMAGES = 16
LEAST_POINTS = 8
MOST_POINTS = 100_000
MOST_NFE = 50
MOST_MINUTES = 1_000_000

# The key of the metadata of exported files that contains solutions (docs/math.md section 7.5).
_CARRIED = "solutions"
_log = logging.getLogger(__name__)

Matrix = tuple[tuple[float, ...], ...]


@record
class Flow:
    """A network's probability flow.

    Attributes:
        eps: time at which it ends.
        denoise: whether its end is denoised.
        labels: whether it is conditional on labels.
        guidance, guidance_from, guidance_to: the keys of `sampling`; their defaults if guidance has
            no effect, so that equal flows have equal fields.
    """

    eps: float
    denoise: bool
    labels: bool = False
    guidance: float = SamplingSpec.guidance
    guidance_from: float = SamplingSpec.guidance_from
    guidance_to: float = SamplingSpec.guidance_to

    @classmethod
    def of(cls, spec: SamplingSpec, *, labels: bool) -> Self:
        """The flow with the keys of ``spec``."""
        guidance = {}
        if labels and spec.guidance != 1:
            for name in ("guidance", "guidance_from", "guidance_to"):
                guidance[name] = float(getattr(spec, name))
        return cls(eps=spec.eps, denoise=spec.denoise, labels=labels, **guidance)


@dataclass(frozen=True)
class SamplerCoefficients:
    """A sampler of linear combinations: step i evaluates alpha_i at ``times[i]``, and replaces u.

    Attributes:
        times: (N,), decreasing from 1.
        matrices: for each step, the matrix (n, n + k m) that acts on the halves of u and of the k
            newest alphas, the newest first. The last step includes denoising and results in the
            sample.
    """

    times: tuple[float, ...]
    matrices: tuple[Matrix, ...]


@record
class TunedSampler:
    """A sampler that was fitted to a network, and a description of the fit.

    Attributes:
        flow: the flow that it was fitted to.
        step: the optimiser step of the network.
        checkpoint: checksum of the checkpoint; empty if it was tuned to no checkpoint.
        ema_length: the `ema.length` of the averaged weights.
        kept: the stage that was closest on held-out noise, one of `STAGES`.
        cut_off: whether the budget ended the fit before its last iteration.
        rms: root-mean-square distance from the flow, per coordinate, on held-out noise, by stage.
        about: the fit: initial settings, points, seed, evaluations, seconds, and date.
    """

    coefficients: SamplerCoefficients
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
        """Digest of everything that samples depend on: equal digests draw equal samples."""
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
            raise ValueError("its numbers have changed since they were written")
        return solution


def solutions_of(run: RunFolder) -> list[TunedSampler]:
    """The solutions in a run's folder; damaged ones are left out."""
    solutions = []
    for name in run.tuning_names():
        with contextlib.suppress(ValueError):
            solutions.append(TunedSampler.of_content(read_object(run.tuned / name / SOLUTION)))
    return solutions


@record
class Network:
    """The network for which a solution is requested.

    Attributes:
        step: the optimiser step of its weights.
        checkpoint: checksum of the checkpoint that contains them; empty if it is not known.
        ema_length: the `ema.length` of the averaged weights.
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
        run: the name of the model's run, for messages; None if it has none.
    """

    read: Callable[[], Sequence[TunedSampler]] = tuple
    run: str | None = None

    @classmethod
    def of_run(cls, run: RunFolder) -> Self:
        """The solutions in a run's folder."""
        return cls(lambda: solutions_of(run), run.name)

    @classmethod
    def of_file(cls, about: Mapping[str, str]) -> Self:
        """The solutions in the metadata of an exported file; damaged ones are left out."""
        solutions: list[TunedSampler] = []
        with contextlib.suppress(ValueError):
            contents = parse_json(about.get(_CARRIED, "[]"))
            for content in from_plain(tuple[dict[str, Any], ...], contents):
                with contextlib.suppress(ValueError):
                    solutions.append(TunedSampler.of_content(content))
        return cls(lambda: solutions)

    def carried(self, network: Network) -> dict[str, str]:
        """The metadata for an exported file of a network; empty if no solution was tuned to it."""
        contents = [
            solution.content() for solution in self.read() if moved_on(solution, network) is None
        ]
        return {_CARRIED: json.dumps(contents)} if contents else {}

    def chosen(self, spec: SamplingSpec, network: Network) -> TunedSampler:
        """The solution that ``spec`` selects for a network.

        One for its own weights comes first, then the nearest step, then the newest.

        Raises:
            UsageError: there is none; names the command that makes one, and the numbers of
                evaluations that exist.
        """
        assert isinstance(spec, TunedSpec), "only a tuned sampler has a solution"
        solutions = self.read()
        candidates = [
            solution
            for solution in solutions
            if solution.nfe == spec.nfe and spec.solution in (None, solution.digest)
        ]
        if not candidates:
            numbers = sorted({solution.nfe for solution in solutions})
            raise UsageError(
                f"{self.run or 'the model'} has no tuned sampler of {spec.nfe} evaluations"
                f"{'' if spec.solution is None else f' and sampling.solution={spec.solution}'} "
                f"(sampling.nfe; there are: {', '.join(map(str, numbers)) or 'none'}). "
                f"Make one: `{self._tune(spec.nfe)}`."
            )

        def closeness(solution: TunedSampler) -> tuple[Any, ...]:
            has_other_flow = any(_differences(spec, network, solution))
            return has_other_flow, _distance(solution, network)

        best = min(candidates, key=closeness)
        for name, requested, fitted in _differences(spec, network, best):
            if name == "labels":
                raise UsageError(
                    f"the tuned sampler of {spec.nfe} evaluations was fitted "
                    f"{'with' if fitted else 'without'} labels. "
                    f"Tune again: `{self._tune(spec.nfe)}`."
                )
            raise UsageError(
                f"the tuned sampler of {spec.nfe} evaluations was fitted "
                f"with sampling.{name}={fitted}, not {requested}. Leave that key alone, or tune "
                f"again with it: `{self._tune(spec.nfe, f'sampling.{name}={requested}')}`."
            )
        return best

    def followed(self, spec: SamplingSpec, network: Network) -> TunedSampler | None:
        """The solution that samples are drawn with (`chosen`); None for a sampler without one.

        Warns, once, if the network is not the one that the solution was fitted to (`moved_on`).
        """
        if not isinstance(spec, TunedSpec):
            return None
        solution = self.chosen(spec, network)
        if (difference := moved_on(solution, network)) is not None:
            length = network.ema_length
            override = "" if length is None else f"ema.length={length:g}"
            _warn(f"{difference}. Tune again: `{self._tune(solution.nfe, override)}`.")
        return solution

    def _tune(self, nfe: int, override: str = "") -> str:
        """The command, or the call, that makes a solution; a call takes no override."""
        if self.run is None:
            return f"model.fit_sampler({nfe})"
        return f"cldctl tune {self.run} --nfe {nfe} {override}".rstrip()


def _differences(
    spec: TunedSpec, network: Network, solution: TunedSampler
) -> Iterator[tuple[str, Any, Any]]:
    """The keys in which the requested flow differs from a solution's flow.

    Each key comes with the requested value and the solution's value.
    """
    requested = Flow.of(spec, labels=network.labels)
    # Labels first: without them, guidance has no effect.
    for name in ("labels", "eps", "denoise", "guidance", "guidance_from", "guidance_to"):
        wanted = getattr(requested, name)
        fitted = getattr(solution.flow, name)
        if wanted != fitted:
            yield name, wanted, fitted


def _distance(solution: TunedSampler, network: Network) -> tuple[bool, bool, int, float]:
    """A sort key: the distance of a solution's network from ``network``; then the newest first."""
    created = real(solution.about.get("created")) or 0.0
    return (
        solution.ema_length != network.ema_length,
        not _same_checkpoint(solution, network),
        abs(solution.step - network.step),
        -created,
    )


def moved_on(solution: TunedSampler, network: Network) -> str | None:
    """The difference of a network from the one that a solution was fitted to; None without one."""
    fit = f"the tuned sampler of {solution.nfe} evaluations was fitted to"
    if solution.ema_length != network.ema_length:
        fitted = _shown(solution.ema_length)
        return f"{fit} the weights of ema.length={fitted}, not {_shown(network.ema_length)}"
    if solution.step != network.step:
        return f"{fit} step {solution.step}, not {network.step}"
    if not _same_checkpoint(solution, network):
        return f"{fit} a checkpoint of step {solution.step} that has been replaced"
    return None


def _shown(length: float | None) -> str:
    """A length in messages."""
    return "null" if length is None else f"{length:g}"


def _same_checkpoint(solution: TunedSampler, network: Network) -> bool:
    if solution.checkpoint and network.checkpoint:
        return solution.checkpoint == network.checkpoint
    return solution.step == network.step


@functools.cache
def _warn(message: str) -> None:
    """Log a warning; the cache lets each message through once."""
    _log.warning("%s", message)


@record
class TuneRequest(Request):
    """One tuning, which is a single shard.

    Attributes:
        model_digest: digest of the parts of the recipe that the model's tensors depend on.
        nfe: evaluations of the network, denoising included.
        seed: key of the noise.
        points: draws of the prior to fit to, and as many held-out ones.
        budget_min: minutes after which the fit stops with its best result; None for no limit. The
            flow does not count.
        ema_length: the `ema.length` of the averaged weights.
        flow: the flow that the sampler is fitted to. With labels, each draw has one, with the
            frequencies of the data.
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
            points: None for the usual number for the kind of data.

        Raises:
            UsageError: a number is out of bounds.
        """
        if not 2 <= nfe <= MOST_NFE:
            raise UsageError(
                f"--nfe {nfe}: a sampler is tuned for 2 to {MOST_NFE} evaluations. "
                "Ask for one of those."
            )
        if points is None:
            is_grid = isinstance(recipe.network, UnetSpec)
            points = POINTS_OF_IMAGES if is_grid else POINTS_OF_TOYS
        if not LEAST_POINTS <= points <= MOST_POINTS:
            raise UsageError(
                f"--points {points}: it takes {LEAST_POINTS} to {MOST_POINTS:,} points. "
                "Ask for as many."
            )
        if budget_min is not None and not 0 <= budget_min <= MOST_MINUTES:
            raise UsageError(
                f"--budget {budget_min:g}: a fit takes 0 to {MOST_MINUTES:,} minutes. "
                "Ask for as many, or for none to set no limit."
            )
        return cls(
            checkpoint_step=checkpoint_step,
            model_digest=recipe.model_digest(),
            nfe=nfe,
            seed=seed,
            points=points,
            budget_min=budget_min,
            ema_length=recipe.ema.length,
            flow=Flow.of(recipe.sampling, labels=recipe.data.labels),
            batch_size=recipe.eval.batch_size,
            retries=recipe.train.max_retries,
        )

    @property
    def id(self) -> str:
        """A name made of all that the rows of the fit depend on; the budget is not part of it."""
        content = digest([self.flow_id, self.nfe, self.points])[:8]
        return f"nfe{self.nfe:03d}-{self.checkpoint_step:08d}-{content}"

    @property
    def flow_id(self) -> str:
        """Digest of all that the ends of the flow depend on, which tunings of any NFE share."""
        network = [self.checkpoint_step, self.model_digest, self.ema_length]
        # The label of each point depends on the number of points.
        labelled_points = self.points if self.flow.labels else None
        flow = to_plain(self.flow)
        return digest([*network, self.seed, self.rtol, flow, labelled_points])

    @property
    def cost(self) -> str:
        """The most that it computes, for messages."""
        limit = "without a time limit"
        if self.budget_min is not None:
            limit = f"at most {self.budget_min:g} minutes"
        return (
            f"the flow of {2 * self.points:,} draws, then at most {sum(STAGES.values())} "
            f"iterations of a fit to half of them ({limit})"
        )

    @property
    def sizes(self) -> dict[str, int]:
        """The number of batches of the flow, and of rows of each stage."""
        return {"flow": -(-2 * self.points // self.batch_size), **STAGES}


@dataclass(frozen=True)
class StageRow:
    """One row of a stage.

    Attributes:
        which: index of the candidate; in the stage "untuned", of the pair of candidate and spacing.
        sampler: its coefficients.
        damping: the damping of the next iteration.
        fit: rms distance per coordinate on the noise of the fit.
        held: the same on held-out noise; `FAR` if samples are not finite.
        evaluations: network evaluations for each point.
        seconds: the duration of the row.
    """

    which: int
    sampler: SamplerCoefficients
    damping: float
    fit: float
    held: float
    evaluations: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class TuningState:
    """The progress of a tuning.

    Attributes:
        weights: digest of the network's weights: a state of other weights is not continued.
        flow: the number of batches of the flow that are computed.
        rows: the rows of each stage.
    """

    weights: str
    flow: int = 0
    rows: dict[str, tuple[StageRow, ...]] = field(default_factory=lambda: dict.fromkeys(STAGES, ()))

    @property
    def seconds(self) -> float:
        """The duration of the rows, which counts towards the budget, unlike that of the flow."""
        return sum(row.seconds for rows in self.rows.values() for row in rows)

    def lacks(self, stage: str, budget_min: float | None) -> bool:
        """Whether a further row of a stage is to be computed.

        After the budget is spent, each stage still gets its first row, and "untuned" all of them.
        """
        done = len(self.rows.get(stage, ()))
        is_spent = budget_min is not None and self.seconds >= 60.0 * budget_min
        if done and is_spent and stage != "untuned":
            return False
        return done < STAGES[stage]


class Tuning(RequestedWork):
    """One tuning to one checkpoint of ``run``."""

    command = "cldctl tune"
    request_type = TuneRequest
    called = "tuning"
    doing = "tuning"
    unit = "rows"
    together = True
    request: TuneRequest

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.folder.parent.parent)

    @property
    def solution(self) -> TunedSampler | None:
        """The result, unless its checkpoint was replaced; None until there is one."""
        solution = find_record(TunedSampler, self.folder / SOLUTION)
        step = self.request.checkpoint_step
        if solution is None or is_replaced(self.run, step, solution.checkpoint):
            return None
        return solution

    @property
    def is_done(self) -> bool:
        """Whether there is a result that the budget of the request would not change."""
        solution = self.solution
        if solution is None:
            return False
        if not solution.cut_off:
            return True
        spent_min = real(solution.about.get("budget_min")) or 0.0
        budget_min = self.request.budget_min
        return budget_min is not None and budget_min <= spent_min

    def rows_stored(self) -> int:
        state = find_record(TuningState, self.folder / STATE)
        return 0 if state is None else state.flow + sum(map(len, state.rows.values()))

    def moved_at(self) -> float | None:
        # The file is missing until the first row is computed.
        try:
            return (self.folder / STATE).stat().st_mtime
        except OSError:
            return None
