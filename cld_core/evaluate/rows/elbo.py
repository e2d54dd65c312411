"""Likelihood bounds of test points."""

from cld_core import numerics
from cld_core.likelihood import likelihood
from cld_core.seeds import SampleNoise
from cld_core.shards.files import Arrays

from .base import RowComputer, given_labels

# One value per example: bounds of log p(x) in nats, and evaluations of the network.
FIELDS = ("elbo", "paper_elbo", "importance_bound", "nfe")


class ElboRows(RowComputer):
    """`FIELDS` of the test points ``first <= i < last``, each (last - first,); given their labels if they have some."""

    @numerics.using(tf32=False)
    def compute(self, first: int, last: int) -> Arrays:
        model, seed, spec = self.model, self.request.seed, self.request.elbo
        x = model.source.dequantised_test_data(seed, first, last).to(model.device)
        noise = SampleNoise(seed, "elbo", first=first, last=last, device=model.device)
        score = given_labels(model.score_of(compiled=spec.compile), model, seed, first, last)
        bounds = likelihood(score, model.sde, spec, noise, x)
        values = (bounds.elbo, bounds.paper_elbo, bounds.importance_bound, bounds.nfe_each.double().mean(1))
        return {name: value.double().cpu().numpy() for name, value in zip(FIELDS, values, strict=True)}
