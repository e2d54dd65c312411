"""The request of `cldctl tune`: a sampler with a number of evaluations for one checkpoint's network. Loads no torch."""

from dataclasses import dataclass
from typing import Any, ClassVar

from cld_core.config import Recipe
from cld_core.digests import digest
from cld_core.errors import UsageError
from cld_core.shards import Request
from cld_core.solutions import guidance_of

from .stages import STAGES

# The most points of a row of the flow, which is what an interruption loses.
MOST_IN_BLOCK = 512
POINTS_OF_TOYS, POINTS_OF_IMAGES = 4000, 16
# Version of the rows of a fit: a fit that was started by another version is not continued.
_VERSION = 3
LEAST_POINTS, MOST_POINTS, MOST_NFE = 8, 100_000, 50
MOST_MINUTES = 1_000_000
# What the ends of the flow depend on, besides the shape of their rows, and what every number of the fit depends on.
_FLOW = (
    *("checkpoint_step", "model_digest", "ema_length", "seed", "eps", "denoise", "rtol"),
    *("labels", "guidance", "guidance_from", "guidance_to"),
)
_FIT = (*_FLOW, "nfe", "points")


@dataclass(frozen=True, kw_only=True)
class TuneRequest(Request):
    """One tuning. The rows of a shard are blocks of ends of the flow, and then the rows of each stage of the fit.

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
            files={},
            batch_size=1,
            retries=recipe.train.max_retries,
        )

    @property
    def id(self) -> str:
        content = digest([self.fit_id, self.budget_min])
        return f"nfe{self.nfe:03d}-{self.checkpoint_step:08d}-{content[:8]}"

    @property
    def fit_id(self) -> str:
        """Digest of everything that the rows of the fit depend on; tunings with different budgets share these rows."""
        return digest([_VERSION, self._digest(_FIT)])

    @property
    def flow_id(self) -> str:
        """Digest of everything that the ends of the flow depend on; tunings with different NFE share these ends."""
        return self._digest((*_FLOW, "block"))

    def _digest(self, names: tuple[str, ...]) -> str:
        return digest([[name, getattr(self, name)] for name in names])

    @property
    def block(self) -> int:
        """How many points a row of the flow has."""
        return self.points // -(-self.points // MOST_IN_BLOCK)

    @property
    def guidance_keys(self) -> dict[str, Any]:
        """Those of the flow, as keys of `sampling`."""
        return {"guidance": self.guidance, "guidance_from": self.guidance_from, "guidance_to": self.guidance_to}

    @property
    def networks(self) -> int:
        """The most evaluations of the network for one of the score: two with guidance, otherwise one."""
        return 1 if self.guidance in (0, 1) else 2

    @property
    def sizes(self) -> dict[str, int]:
        return {"flow": 2 * self.points // self.block, **STAGES}
