"""What options of training gain: tables of docs/howto/better-training.md, on one core.

python -m benchmarks.training_quality importance preconditioning    # of toy_diamond; minutes
python -m benchmarks.training_quality times                         # 30 minutes
"""

import itertools
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

import cld_core
from cld_core import seeds
from cld_core.config import load
from cld_core.config.shipped import find
from cld_core.evaluate.vectors import sliced_w2
from cld_core.loss import ScoreMatching
from cld_core.ranks import Ranks
from cld_core.train.step import Trainer

RECIPE = "toy_diamond"
STEPS, BATCHES, BATCH = 2000, 200, 512
SDES = {
    "CLD": (),
    "VPSDE": (
        "sde.name=vpsde",
        "sde.beta0=0.1",
        "sde.beta1=19.9",
        "sde.numerical_eps=0",
        "objective.name=dsm",
    ),
}
SCORES = {
    "plain": (),
    "mixed score": ("objective.mixed_score=true",),
    "preconditioned": ("objective.precondition=data", "objective.data_std=0.41"),
}
TIMES = {
    "log": {"objective.times": "log", "objective.weighting": "reweightedv2"},
    "uniform": {"objective.times": "uniform", "objective.weighting": "reweightedv2"},
    "lognormal": {},
    "lognormal, 10 % log": {"objective.log_share": 0.1},
}


def trained(steps: int, *overrides: str) -> Trainer:
    fixed = (f"train.steps={STEPS}", f"train.batch_size={BATCH}", "optim.decay=cosine")
    made = Trainer(load(find(RECIPE), [*fixed, *overrides]), Ranks())
    for step in range(steps):
        made.step(step)
    return made


def estimates(made: Trainer, times: str) -> Iterator[tuple[float, Tensor]]:
    """The likelihood-weighted loss of batches and its gradient, with the network as it is."""
    objective = replace(made.recipe.objective, weighting="likelihood", times=times)
    matching = ScoreMatching(made.sde, objective)
    parameters = list(made.net.parameters())
    for batch in range(BATCHES):
        x = made.source.batch(1, 0, batch, BATCH, slice(None))
        draws = matching.draw(seeds.generator(1, batch, "noise"), BATCH, made.source.shape)
        loss = matching.losses(made.score, x, draws).weighted.mean()
        gradients = torch.autograd.grad(loss, parameters)
        yield (
            loss.item(),
            torch.cat([gradient.flatten() for gradient in gradients]).double(),
        )


def spread(made: Trainer, times: str) -> tuple[float, float, float]:
    """Mean and variance of the loss of a batch, and the variance of its gradient, summed over the
    weights."""
    losses, gradients = zip(*estimates(made, times), strict=True)
    of_loss, of_gradient = torch.tensor(losses, dtype=torch.float64), torch.stack(gradients)
    return float(of_loss.mean()), float(of_loss.var()), float(of_gradient.var(0).sum())


def importance() -> None:
    print("| network | loss, uniform | loss, importance | variance of the loss | of the gradient |")
    print("| -- | -- | -- | -- | -- |")
    for (name, overrides), steps in itertools.product(SDES.items(), (0, STEPS)):
        made = trained(steps, *overrides)
        (first, loss_1, gradient_1), (second, loss_2, gradient_2) = (
            spread(made, times) for times in ("uniform", "importance")
        )
        errors = [(variance / BATCHES) ** 0.5 for variance in (loss_1, loss_2)]
        cells = [f"{first:.1f} ± {errors[0]:.1f}", f"{second:.1f} ± {errors[1]:.1f}"]
        cells += [f"/ {loss_1 / loss_2:.1f}", f"/ {gradient_1 / gradient_2:.1f}"]
        print(f"| {name}, {steps} steps |", " | ".join(cells), "|", flush=True)


def preconditioning() -> None:
    print(
        "| score | mean loss of steps",
        " | ".join(f"{last - 499}-{last}" for last in (500, 1000, 1500, 2000)),
        "|",
    )
    print("| -- | -- | -- | -- | -- |")
    for name, overrides in SCORES.items():
        made, means = trained(0, *overrides), []
        for step in range(STEPS):
            made.step(step)
            if step % 500 == 499:
                means.append(made.take_scalars()["loss"])
        print(
            f"| {name} |",
            " | ".join(f"{mean:.4f}" for mean in means if mean is not None),
            "|",
            flush=True,
        )


def table(n: int, rng: np.random.Generator) -> np.ndarray:
    """(n, 6): two modes, a heavy tail, a curve, an interval, and two columns with a correlation."""
    z = rng.standard_normal((5, n))
    modes = np.where(rng.random(n) < 0.3, -2.0 + 0.3 * z[0], 1.0 + 0.6 * z[0])
    gamma = rng.gamma(2.0, size=n)
    curve, related = np.sin(2.0 * modes) + 0.2 * z[2], 0.7 * gamma + 0.3 * z[3]
    return np.stack([modes, np.exp(0.5 * z[1]), curve, rng.random(n), gamma, related], axis=1)


def series(n: int, rng: np.random.Generator) -> np.ndarray:
    """(n, 3, 100): damped sines."""
    amplitude, phase = rng.gamma(4.0, 0.25, (n, 3, 1)), rng.uniform(0, 2 * np.pi, (n, 3, 1))
    t, frequency = np.linspace(0, 2 * np.pi, 100), np.array([[2.0], [3.0], [5.0]])
    return amplitude * np.exp(-0.17 * t) * np.sin(frequency * t + phase)


def times() -> None:
    print("| data | seed | times | sliced W2 | bound, nats |\n", "| -- " * 5, "|", sep="")
    for law, n, steps in ((table, 20_000, 8000), (series, 2000, 1000)):
        x, new, other = (torch.tensor(law(n, np.random.default_rng(i))).float() for i in range(3))
        w2 = sliced_w2(other.flatten(1), new.flatten(1))
        print(f"| {law.__name__} |  | true samples | {w2:.4f} |  |", flush=True)
        for seed, (name, keys) in itertools.product((0, 1), TIMES.items()):
            model = cld_core.fit(x, steps, seed=seed, **{"objective.log_share": 0.0, **keys})
            w2 = sliced_w2(model.sample(n).flatten(1), new.flatten(1))
            bound = -model.log_likelihood(new[:100]).mean()
            print(f"| {law.__name__} | {seed} | {name} | {w2:.4f} | {bound:.2f} |", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    tables = {"importance": importance, "preconditioning": preconditioning, "times": times}
    for name in sys.argv[1:] or tables:
        tables[name]()
        print()


if __name__ == "__main__":
    main()
