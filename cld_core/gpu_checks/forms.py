"""Which form `train.compile: auto` chooses on this card, whether all forms that it tries work, and what it computes."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch

from cld_core import numerics
from cld_core.config import Recipe
from cld_core.ranks import Ranks
from cld_core.run.ledger import Ledger
from cld_core.train import tuning
from cld_core.train.forms import Choice

from . import parity
from .findings import Context, Finding, judged
from .setups import image_recipe


@dataclass(frozen=True)
class Decision:
    """What training decided: the times of the forms in milliseconds, or why they fail, by name; ``seconds`` in all."""

    choice: Choice
    milliseconds: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def __str__(self) -> str:
        told = [f"{form} {time:.3g} ms" for form, time in self.milliseconds.items()]
        told += [f"{form} fails ({reason})" for form, reason in self.failed.items()]
        return f"{', '.join(told)} -> {self.choice}, measured in {self.seconds:.0f} s" if told else str(self.choice)


def check(context: Context, name: str = "cifar10") -> Finding:
    """Decide as training does when it starts, and compare one step of the form that was chosen with the reference."""
    recipe = recipe_of(context, name)
    # On a CPU, training measures nothing.
    card = None if context.on_gpu else tuning.Card("the CPU", context.clock, lambda: None)
    decision = decided(context, recipe, card)
    computed = parity.compared(context, parity.form_of(recipe, decision.choice), name)
    found = f"{decision}; {computed.found}"
    if computed.verdict != "ok":
        return judged(False, found, computed.advice)
    return judged(not decision.failed, found, "Training leaves out forms that fail. Report them with torch's version.")


def recipe_of(context: Context, name: str, *changes: str) -> Recipe:
    """The image recipe ``name`` in its precision; in float32 at a small scale, as CPUs compute float16 slowly."""
    return image_recipe(context, name, *(["train.precision=fp32"] if context.small else []), *changes)


def decided(context: Context, recipe: Recipe, card: tuning.Card | None = None) -> Decision:
    """What `tuning.decide` chooses and writes into the ledger of a run; ``card`` instead of the device's own."""
    ranks = Ranks(device=torch.device(context.device))
    with (
        tempfile.TemporaryDirectory(dir=context.work) as folder,
        numerics.using(tf32=recipe.train.tf32, fixed_shapes=True),
    ):
        ledger = Ledger(Path(folder) / "attempts.jsonl")
        choice = tuning.decide(recipe, ranks, ledger=ledger, card=card)
        measured = list(ledger.history().measured.values())
    if not measured:
        return Decision(choice)
    return Decision(choice, dict(measured[0].milliseconds), dict(measured[0].failed), measured[0].seconds)
