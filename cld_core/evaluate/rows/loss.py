"""The training objective of test points: the weighted loss, as training computes it except for keyed draws."""

import torch

from cld_core import loss, numerics
from cld_core.seeds import SampleNoise
from cld_core.shards.files import Arrays

from .base import RowComputer, given_labels


class LossRows(RowComputer):
    """``loss`` of the test points ``first <= i < last``, (last - first,); each has its own times and noise."""

    @numerics.using(tf32=False)
    @torch.no_grad()
    def compute(self, first: int, last: int) -> Arrays:
        model, seed, draws = self.model, self.request.seed, self.request.loss.draws
        x = model.source.test_data(seed, first, last).to(model.device)
        objective = loss.build(model.sde, self.request.objective)
        noise = SampleNoise(seed, "loss", first=first, last=last, device=model.device)
        score = given_labels(model.score, model, seed, first, last)
        total = torch.zeros(len(x), dtype=torch.float64, device=model.device)
        for _ in range(draws):
            total += objective.per_sample(score, x, objective.draw_each(noise, model.data_shape))
        return {"loss": (total / draws).cpu().numpy()}
