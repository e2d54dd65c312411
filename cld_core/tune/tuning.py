"""A tuning in its folder, `tuned/ID` of a run: what is asked, how far it is, what came of it. Loads no torch.

request.json      what is asked (`TuneRequest`)
jobs.jsonl        the ledger: which jobs were started, crashed or were cancelled
state.json        the rows of the fit so far (`State`), replaced after each of them
solution.json     the result, `cld_core.solutions`

Beside it, `tuned/flow-ID.npz` has ends of the network's flow, the targets of the fit, for all tunings to the same flow.

A fit has stages, and each of its rows follows from those before it:

untuned        every candidate over every spacing: the starting points, and the baseline of a fit
fewer          a solution of fewer evaluations, if there is one, and then times and coefficients from there
grid           times, for each candidate, and then for the best of them
coefficients   times and coefficients, from the best grids, and then from the best of them
"""

import contextlib
import itertools
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self

from cld_core import solutions
from cld_core.checkpoint.files import weights_digest
from cld_core.codec import find_record, real, to_plain
from cld_core.config import Recipe
from cld_core.digests import digest
from cld_core.errors import UsageError
from cld_core.imports import resolve
from cld_core.run import RunFolder
from cld_core.run.work import Request, Work, readable
from cld_core.solutions import Coefficients, Flow, Solution

if TYPE_CHECKING:
    from cld_core.ranks import Ranks


# Exponential samplers without noise: the order, and whether there is a corrector.
CANDIDATES = tuple(itertools.product((1, 2, 3), (False, True)))
SPACINGS = ("power 6", "power 3", "quadratic")
# Iterations of each candidate's grid, then of only the best grids, and how many of the best there are.
EACH, BEST, KEPT = 3, 6, 2
# Iterations of the coefficients: on the mean square from this many starts; then, from the best of these, on the robust
# sum of squares, and on the mean square again.
STARTS, PLAIN, ROBUST, AGAIN = 3, 8, 16, 8
STAGES = {
    "untuned": len(CANDIDATES) * len(SPACINGS),
    "fewer": PLAIN,
    "grid": EACH * len(CANDIDATES) + BEST * KEPT,
    "coefficients": STARTS * PLAIN + ROBUST + AGAIN,
}
STATE = "state.json"
# What stands for an infinite distance, which JSON has not.
FAR = 1e18

POINTS_OF_TOYS, POINTS_OF_IMAGES = 4000, 16
LEAST_POINTS, MOST_POINTS, MOST_NFE = 8, 100_000, 50
MOST_MINUTES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class TuneRequest(Request):
    """One tuning. It is not divided: it is one shard.

    Attributes:
        model_digest: of the parts of the recipe that the model's tensors depend on.
        nfe: evaluations of the network, denoising included.
        seed: key of the noise.
        points: draws of the prior to fit to, and as many held-out ones.
        budget_min: minutes after which the fit stops with its best result; None for no limit. The flow does not count.
        ema_length: which average of the weights, as `ema.length`.
        flow: what the sampler is fitted to. With labels, each draw has one, with the frequencies of the data.
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
        cls, recipe: Recipe, checkpoint_step: int, nfe: int, *, points: int | None, budget_min: float | None, seed: int
    ) -> Self:
        """The request for a checkpoint of a run with this recipe.

        Args:
            points: None for as many as fit the kind of data.

        Raises:
            UsageError: a number is out of bounds.
        """
        if not 2 <= nfe <= MOST_NFE:
            raise UsageError(f"--nfe {nfe}: a sampler is tuned for 2 to {MOST_NFE} evaluations. Ask for one of those.")
        usual = POINTS_OF_IMAGES if recipe.network.images else POINTS_OF_TOYS
        wanted = usual if points is None else points
        if not LEAST_POINTS <= wanted <= MOST_POINTS:
            raise UsageError(f"--points {wanted}: it takes {LEAST_POINTS} to {MOST_POINTS:,} points. Ask for as many.")
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
        """A name made of everything that the rows of the fit depend on: with a larger budget, it goes on."""
        content = digest([self.flow_id, self.nfe, self.points])
        return f"nfe{self.nfe:03d}-{self.checkpoint_step:08d}-{content[:8]}"

    @property
    def flow_id(self) -> str:
        """Digest of everything that the ends of the flow depend on; tunings with different NFE share these ends."""
        step, model, average = self.checkpoint_step, self.model_digest, self.ema_length
        # The number of points says which label each has.
        points = self.points if self.flow.labels else None
        return digest([step, model, average, self.seed, self.rtol, to_plain(self.flow), points])

    @property
    def cost(self) -> str:
        """What it takes at most, for messages."""
        limit = "no limit of time" if self.budget_min is None else f"at most {self.budget_min:g} minutes"
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
        neighbour: the sampler of fewer evaluations that it starts from.
        flow: how many batches of the flow there are.
        rows: of each stage.
    """

    weights: str
    neighbour: Coefficients | None = None
    flow: int = 0
    rows: dict[str, tuple[Row, ...]] = field(default_factory=lambda: dict.fromkeys(STAGES, ()))

    @property
    def seconds(self) -> float:
        """What the rows took, of which a budget is spent; the flow does not count."""
        return sum(row.seconds for rows in self.rows.values() for row in rows)

    def lacks(self, stage: str, budget_min: float | None) -> bool:
        """Whether a further row of a stage is to be computed."""
        done, spent = len(self.rows.get(stage, ())), budget_min is not None and self.seconds >= 60.0 * budget_min
        if stage == "fewer" and self.neighbour is None:
            return False
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
        """The result; None until there is one, of the run's present checkpoint if it still has it."""
        found, checksum = find_record(Solution, self.folder / solutions.FILE), None
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

    def neighbour(self, checksum: str) -> Solution | None:
        """The solution of the next smaller number of evaluations for the same flow of the same weights."""
        request = self.request
        wanted = request.flow, request.ema_length, checksum
        fewer = [
            one
            for one in solutions.in_run(self.run)
            if one.nfe < request.nfe and (one.flow, one.ema_length, one.checkpoint) == wanted
        ]
        return max(fewer, key=lambda one: (one.nfe, -one.distance), default=None)

    def to_start(self) -> list[int]:
        """The pieces that are to be started: the one that it is, or none."""
        return [] if self.is_done else [0]

    def rows_done(self) -> tuple[int, int]:
        """How many steps are done, and how many there are in all."""
        total = sum(self.request.sizes.values())
        if self.is_done:
            return total, total
        state = find_record(State, self.folder / STATE)
        return 0 if state is None else min(state.flow + sum(map(len, state.rows.values())), total), total

    def moved_at(self) -> float | None:
        try:
            return (self.folder / STATE).stat().st_mtime
        except OSError:
            return None

    def compute(
        self,
        ranks: "Ranks",
        should_stop: Callable[[], bool] = lambda: False,
        only: Collection[int] | None = None,
    ) -> bool:
        """Fit what is missing; loads torch. False if it was asked to stop before it was done.

        Args:
            should_stop: asked before every step.
            only: a tuning is one piece.

        Raises:
            CldError: what is needed is gone or has changed.
        """
        return self.is_done or resolve("cld_core.tune.job:Job")(self, ranks.device, should_stop).run()


def tunings_of(run: RunFolder) -> list[Tuning]:
    """The tunings of a run; those that are damaged or of another version of cldctl are skipped."""
    return readable(Tuning, (run.tuned / name for name in run.tuning_names()))
