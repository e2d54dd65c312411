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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from cld_core import solutions
from cld_core.checkpoint.files import required_digest, weights_digest
from cld_core.codec import RecordError, find_record, from_plain, real, to_plain
from cld_core.config import Recipe
from cld_core.digests import digest
from cld_core.errors import NotFoundError, UsageError
from cld_core.files import existing_object, write_json
from cld_core.imports import resolve
from cld_core.run import RunFolder
from cld_core.run.work import Work
from cld_core.shards import content_of
from cld_core.solutions import FLOW, Solution, guidance_of

if TYPE_CHECKING:
    from cld_core.ranks import Ranks


@dataclass(frozen=True)
class Settings:
    """An exponential sampler without noise, apart from its times."""

    order: int
    corrector: bool

    def __str__(self) -> str:
        return f"order={self.order} corrector={str(self.corrector).lower()}"


CANDIDATES = tuple(itertools.starmap(Settings, itertools.product((1, 2, 3), (False, True))))
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

# The most points of a block of the flow, which is what an interruption loses.
MOST_IN_BLOCK = 512
POINTS_OF_TOYS, POINTS_OF_IMAGES = 4000, 16
LEAST_POINTS, MOST_POINTS, MOST_NFE = 8, 100_000, 50
MOST_MINUTES = 1_000_000
# Version of the rows of a fit: a fit that was started by another version is not continued.
_VERSION = 4


@dataclass(frozen=True, kw_only=True)
class TuneRequest:
    """One tuning.

    Attributes:
        model_digest: of the parts of the recipe that the model's tensors depend on.
        nfe: evaluations of the network, denoising included.
        seed: key of the noise.
        points: draws of the prior to fit to, and as many held-out ones.
        budget_min: minutes after which the fit stops with its best result; None for no limit. The flow does not count.
        ema_length: which average of the weights, as `ema.length`.
        eps: time at which the flow ends.
        denoise: whether its end is denoised.
        labels: whether it is conditional on labels: each draw has one, with the frequencies of the data.
        guidance, guidance_from, guidance_to: of the flow, as in `sampling`.
        rtol: relative and absolute tolerance of the flow.
        at_once: batch size of network evaluations.
        retries: crashes of its job after which it is not started again.
    """

    kind: ClassVar[str] = "tuning"

    checkpoint_step: int
    model_digest: str
    nfe: int
    seed: int
    points: int
    budget_min: float | None
    ema_length: float | None = None
    eps: float
    denoise: bool
    labels: bool = False
    guidance: float = 1.0
    guidance_from: float = 0.0
    guidance_to: float = 1.0
    rtol: float = 1e-6
    at_once: int
    retries: int = 3

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
        blocks = -(-wanted // MOST_IN_BLOCK)
        labels = recipe.data.labels
        return cls(
            checkpoint_step=checkpoint_step,
            model_digest=recipe.model_digest(),
            nfe=nfe,
            seed=seed,
            points=blocks * -(-wanted // blocks),
            budget_min=budget_min,
            ema_length=recipe.ema.length,
            eps=recipe.sampling.eps,
            denoise=recipe.sampling.denoise,
            labels=labels,
            **guidance_of(recipe.sampling, labels=labels),
            at_once=recipe.eval.batch_size,
            retries=recipe.train.max_retries,
        )

    def store(self, folder: Path) -> Path:
        """Write the request into ``folder``, which is made if needed, and return the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {"kind": self.kind, "id": self.id, **to_plain(self)}
        if existing_object(folder / "request.json") != content:
            write_json(folder / "request.json", content)
        return folder

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The request of a folder.

        Raises:
            NotFoundError: there is none, or one that another version of cldctl wrote.
            OSError: it cannot be read at this moment.
        """
        content = content_of(folder)
        if content is None or content.get("kind") != cls.kind:
            raise NotFoundError(f"{folder}: there is no {cls.kind} here. Start it again.")
        try:
            request = from_plain(cls, content)
            if not (2 <= request.nfe <= MOST_NFE and 1 <= request.points <= MOST_POINTS and request.at_once >= 1):
                raise RecordError("a number is out of bounds")
        except RecordError as error:
            text = f"the request was made by another version of cldctl ({error})"
            raise NotFoundError(f"{folder}: {text}. Start it again.") from error
        return request

    @property
    def id(self) -> str:
        """A name made of everything that the rows of the fit depend on: with a larger budget, it goes on."""
        content = digest([_VERSION, self.flow_id, self.nfe, self.points])
        return f"nfe{self.nfe:03d}-{self.checkpoint_step:08d}-{content[:8]}"

    @property
    def flow_id(self) -> str:
        """Digest of everything that the ends of the flow depend on; tunings with different NFE share these ends."""
        others = ("nfe", "points", "budget_min", "at_once", "retries")
        return digest([self.block, {name: value for name, value in asdict(self).items() if name not in others}])

    @property
    def block(self) -> int:
        """How many points a block of the flow has."""
        return self.points // -(-self.points // MOST_IN_BLOCK)

    @property
    def networks(self) -> int:
        """The most evaluations of the network for one of the score: two with guidance, otherwise one."""
        return 1 if self.guidance in (0, 1) else 2

    @property
    def sizes(self) -> dict[str, int]:
        """How many blocks of the flow there are, and rows of each stage."""
        return {"flow": 2 * self.points // self.block, **STAGES}

    @property
    def shards(self) -> int:
        """A tuning is not divided."""
        return 1


@dataclass(frozen=True)
class Row:
    """One row of a stage.

    Attributes:
        which: index of the candidate; in the stage "untuned", of the pair of candidate and spacing.
        parameters: those of the grid (`fit.shares`) or all (`derivatives.packed`); empty in the first two stages.
        damping: for the next iteration.
        fit: rms distance per coordinate on the noise of the fit.
        held: the same on held-out noise; `FAR` if samples are not finite.
        evaluations: of the network, for each point.
        seconds: that the row took.
    """

    which: int
    parameters: tuple[float, ...]
    damping: float
    fit: float
    held: float
    evaluations: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class State:
    """How far a tuning is.

    Attributes:
        made_of: what it comes from: a state that was made of something else is not continued.
        neighbour: the solution of fewer evaluations that it starts from.
        flow: how many blocks of the flow there are.
        rows: of each stage that has begun.
    """

    made_of: dict[str, str]
    neighbour: Solution | None = None
    flow: int = 0
    rows: dict[str, tuple[Row, ...]] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """How many blocks and rows there are."""
        return self.flow + sum(map(len, self.rows.values()))

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

    def is_cut_off(self) -> bool:
        """Whether rows are missing."""
        return any(self.lacks(stage, None) for stage in STAGES)


class Tuning(Work):
    """One tuning to one checkpoint of ``run``.

    Args:
        request: what is asked; default: what the folder says.

    Raises:
        NotFoundError: the folder has no request, or one that another version of cldctl wrote.
    """

    command = "cldctl tune"
    computation = "cld_core.tune.job:Job"
    called, doing, unit = "tuning", "tuning", "steps"
    request: TuneRequest

    def __init__(self, folder: Path, request: TuneRequest | None = None) -> None:
        self.folder = folder
        self.request = request or TuneRequest.load(folder)

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.folder.parent.parent)

    @property
    def solution(self) -> Solution | None:
        """The result; None until there is one, of the run's present checkpoint if it still has it."""
        found, checksum = solutions.read(self.folder / solutions.FILE), None
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

    @property
    def flow_file(self) -> Path:
        """Where the ends of the flow are; another network has another one."""
        others = {name: value for name, value in self.made_of().items() if name != "request"}
        return self.run.tuned / f"flow-{digest([self.request.flow_id, others])[:16]}.npz"

    @property
    def state(self) -> State | None:
        """How far it is; None before its job has begun, and if it was made of something else."""
        found = find_record(State, self.folder / STATE)
        return found if found is not None and self.made_of().items() <= found.made_of.items() else None

    def made_of(self, *, strict: bool = False) -> dict[str, str]:
        """What it comes from: the request, and whatever else may be replaced.

        Args:
            strict: insist that all of it is there; otherwise what is gone is left out.

        Raises:
            NotFoundError: with ``strict``, something is gone.
        """
        step, length = self.request.checkpoint_step, self.request.ema_length
        fix = "Tune to another step."
        checkpoint = required_digest(self.run, step, fix) if strict else weights_digest(self.run, step)
        made_of = {"request": self.request.id}
        if length is not None and (averages := weights_digest(self.run, step, length)) is not None:
            made_of["averages"] = averages
        return made_of | ({} if checkpoint is None else {"checkpoint": checkpoint})

    def neighbour(self, checksum: str) -> Solution | None:
        """The solution of the next smaller number of evaluations for the same flow of the same weights."""
        same = {name: getattr(self.request, name) for name in (*FLOW, "ema_length")} | {"checkpoint": checksum}
        fewer = [
            one
            for one in solutions.in_run(self.run)
            if one.nfe < self.request.nfe and all(getattr(one, name) == value for name, value in same.items())
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
        return 0 if (state := self.state) is None else min(state.steps, total), total

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
        return self.is_done or resolve(self.computation)(self, ranks.device, should_stop).run()


def tunings_of(run: RunFolder) -> list[Tuning]:
    """The tunings of a run; those that are damaged or of another version of cldctl are skipped."""
    works = []
    for name in run.tuning_names():
        with contextlib.suppress(NotFoundError):
            works.append(Tuning(run.tuned / name))
    return works
