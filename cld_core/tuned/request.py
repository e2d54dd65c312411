"""What `cldctl tune` asks for: a sampler of so many evaluations for the network of one checkpoint. Loads no torch."""

from dataclasses import dataclass
from typing import ClassVar

from cld_core.digests import digest
from cld_core.errors import UsageError
from cld_core.recipe import Recipe
from cld_core.shards import Request

from .stages import STAGES

# The most points that are solved at once: a block is what is lost by an interruption.
MOST_AT_ONCE = 512
POINTS_OF_TOYS, POINTS_OF_IMAGES = 4000, 16
# Of the rows of a fit: one that another version began is not continued.
_VERSION = 2
LEAST_POINTS, MOST_POINTS, MOST_NFE = 8, 100_000, 50


@dataclass(frozen=True, kw_only=True)
class TuneRequest(Request):
    """One tuning. The rows of a shard are blocks of ends of the flow, and then the rows of each stage of the fit.

    Attributes:
        model_digest: of the parts of the recipe that the model's tensors depend on.
        nfe: evaluations of the network, denoising included.
        seed: key of the noise.
        points: draws of the prior that are fitted, and as many that decide.
        block: how many of them a row of the flow has.
        budget_min: minutes after which the fit takes what it has; None for no limit.
        eps: where the flow ends.
        denoise: whether it is denoised.
        rtol: of the flow, relative and absolute.
        at_once: examples that the network is evaluated for at once.
    """

    kind: ClassVar[str] = "tuning"

    checkpoint_step: int
    model_digest: str
    nfe: int
    seed: int
    points: int
    block: int
    budget_min: float | None
    eps: float
    denoise: bool
    rtol: float = 1e-6
    at_once: int

    @classmethod
    def of(
        cls, recipe: Recipe, checkpoint_step: int, nfe: int, *, points: int | None, budget_min: float | None, seed: int
    ) -> "TuneRequest":
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
        blocks = -(-wanted // min(MOST_AT_ONCE, recipe.eval.batch_size))
        block = -(-wanted // blocks)
        return cls(
            checkpoint_step=checkpoint_step,
            model_digest=recipe.model_digest(),
            nfe=nfe,
            seed=seed,
            points=blocks * block,
            block=block,
            budget_min=budget_min,
            eps=recipe.sampling.eps,
            denoise=recipe.sampling.denoise,
            at_once=recipe.eval.batch_size,
            files={},
            batch_size=1,
            retries=recipe.train.max_retries,
        )

    @property
    def id(self) -> str:
        names = ("model_digest", "seed", "points", "block", "budget_min", "eps", "denoise", "rtol")
        content = digest([_VERSION, *([name, getattr(self, name)] for name in names)])
        return f"nfe{self.nfe:03d}-{self.checkpoint_step:08d}-{content[:8]}"

    @property
    def flow_id(self) -> str:
        """Of everything that the ends of the flow depend on: tunings for other numbers of evaluations share them."""
        names = ("checkpoint_step", "model_digest", "seed", "block", "eps", "denoise", "rtol")
        return digest([[name, getattr(self, name)] for name in names])

    @property
    def sizes(self) -> dict[str, int]:
        return {"flow": 2 * self.points // self.block, **STAGES}
