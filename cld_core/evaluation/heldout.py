"""The training objective of test data: the weighted loss, as training computes it but for keyed draws."""

from typing import Any

import numpy as np
import torch

from cld_core.loss import ScoreMatching
from cld_core.model import Model
from cld_core.recipe.schema import ObjectiveSpec
from cld_core.seeds import SampleNoise

from .moments import standard_error
from .request import EvalRequest


@torch.no_grad()
def compute(model: Model, request: EvalRequest, first: int, last: int) -> dict[str, np.ndarray]:
    """``loss`` of the test data ``first <= i < last``, (last - first,); each has its own times and noise."""
    x = model.source.test_data(request.seed, first, last).to(model.device)
    objective = ScoreMatching(model.sde, ObjectiveSpec(**request.loss["objective"]))
    noise = SampleNoise(request.seed, "loss", first=first, last=last, device=model.device)
    total = torch.zeros(len(x), dtype=torch.float64, device=model.device)
    for _ in range(request.loss["draws"]):
        total += objective.per_sample(model.score, x, objective.draw_each(noise, model.data_shape))
    return {"loss": (total / request.loss["draws"]).cpu().numpy()}


def summary(request: EvalRequest, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Mean and standard error over the data; the sum over dimensions, as the training loss."""
    losses = arrays["loss"]
    return {
        "value": float(losses.mean()),
        "stderr": standard_error(losses),
        "n": len(losses),
        "draws": request.loss["draws"],
        "objective": request.loss["objective"]["name"],
        "weighting": request.loss["objective"]["weighting"],
    }
