"""What is to be evaluated. The folder of an evaluation is named by its content. Loads no torch."""

import difflib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cld_core.errors import NotFoundError, UsageError
from cld_core.recipe import Recipe
from cld_core.run import RunFolder
from cld_core.run.atomic import read_json, write_json

METRICS = ("elbo",)
# Raised when the meaning of a number changes, so that old and new never share a folder.
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class EvalRequest:
    """One evaluation of one checkpoint.

    Everything that the numbers depend on is in `id`; how the work is cut into shards and batches is not.
    """

    metrics: tuple[str, ...]
    checkpoint_step: int
    model_digest: str
    samples: int
    seed: int
    elbo: dict[str, Any]
    shards: int = 1
    batch_size: int = 2048
    version: int = VERSION

    @classmethod
    def of(cls, recipe: Recipe, metrics: Sequence[str], checkpoint_step: int, shards: int = 1) -> "EvalRequest":
        """The request that a recipe's `eval` section makes for the checkpoint of a step."""
        spec = recipe.eval
        return cls(
            metrics=tuple(metrics),
            checkpoint_step=checkpoint_step,
            model_digest=recipe.model_digest(),
            samples=spec.samples,
            seed=spec.seed,
            elbo=asdict(spec.elbo),
            shards=min(shards, spec.samples),
            batch_size=spec.batch_size,
        )

    @property
    def id(self) -> str:
        """Name of the evaluation: metrics, step, and a digest of everything that its numbers depend on."""
        content = {name: value for name, value in asdict(self).items() if name not in ("shards", "batch_size")}
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
        return f"{'-'.join(self.metrics)}-{self.checkpoint_step:08d}-{digest}"

    def bounds(self, shard: int) -> tuple[int, int]:
        """First and last-plus-one index of the data of a shard."""
        return shard * self.samples // self.shards, (shard + 1) * self.samples // self.shards

    def save(self, run: RunFolder) -> str:
        """Make the evaluation's folder unless it is there, and return its name."""
        folder = run.evals / self.id
        if not (folder / "request.json").is_file():
            (folder / "shards").mkdir(parents=True, exist_ok=True)
            write_json(folder / "request.json", {"id": self.id, **asdict(self)})
        return self.id

    @classmethod
    def load(cls, folder: Path) -> "EvalRequest":
        """The request of an evaluation's folder.

        Raises:
            NotFoundError: there is none.
        """
        content = read_json(folder / "request.json")
        if content is None:
            raise NotFoundError(f"{folder}: there is no evaluation here. Start one with `cldctl eval`.")
        content.pop("id")
        return cls(**{**content, "metrics": tuple(content["metrics"])})


def parse_metrics(text: str | None) -> tuple[str, ...]:
    """The metrics of a comma-separated list, in their fixed order.

    Raises:
        UsageError: an unknown one; names the nearest.
    """
    words = [word.strip() for word in (text or "").split(",") if word.strip()]
    for word in words:
        if word not in METRICS:
            close = difflib.get_close_matches(word, METRICS, n=1)
            guess = f" Did you mean '{close[0]}'?" if close else ""
            raise UsageError(f"--eval: '{word}' is no metric; there are: {', '.join(METRICS)}.{guess}")
    return tuple(metric for metric in METRICS if metric in words)
