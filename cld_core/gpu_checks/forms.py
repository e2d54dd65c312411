"""Which form `train.compile: auto` chooses on this card, and whether all forms that it tries work."""

import torch

from cld_core import numerics
from cld_core.ranks import Ranks
from cld_core.train import tuning
from cld_core.train.forms import compare

from .findings import Context, Finding, judged
from .setups import image_recipe


def check(context: Context, name: str = "cifar10") -> Finding:
    """Measure the forms of the recipe ``name`` as training does when it starts."""
    # CPUs compute float16 slowly.
    recipe = image_recipe(context, name, *(["train.precision=fp32"] if context.small else []))
    ranks = Ranks(device=torch.device(context.device))
    card = tuning.Card.of(ranks.device) or tuning.Card("the CPU", context.clock, lambda: None)
    with numerics.using(tf32=recipe.train.tf32, fixed_shapes=True):
        bench = tuning.Bench(recipe, ranks, card)
        begin = card.clock()
        choice, timings = compare(tuning.options_of(recipe, ranks), bench.take, recipe.train.steps)
        taken = card.clock() - begin
    found = f"{timings} -> {choice}, measured in {taken:.0f} s"
    return judged(not timings.failed, found, "Training leaves out forms that fail. Report them with torch's version.")
