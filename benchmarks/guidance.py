"""Samples of a class-conditional toy, compared with the exact law of each class.

    python -m benchmarks.guidance RUN

RUN was trained on labelled points of the diamond, as the recipe toy_labels is. The exact
conditional score, guided in the same way, stands beside the network.
"""

import argparse
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import cld_core
from cld_core.config.sampling import ExponentialSpec
from cld_core.samplers import sample
from cld_core.score import labelled
from cld_core.seeds import SampleNoise, generator

from .diamond import LAW, sliced_w2

CLASSES = len(LAW.means)
# Scales of guidance, and the interval in which it acts.
SETTINGS = (
    (1.0, 0.0, 1.0),
    (1.5, 0.0, 1.0),
    (3.0, 0.0, 1.0),
    (3.0, 0.0, 0.2),
    (3.0, 0.2, 1.0),
    (0.0, 0.0, 1.0),
)


@dataclass(frozen=True)
class Closeness:
    """Means over the classes: sliced W2 to so many true points, log-density given the label, and
    spread of a mode."""

    sw2: float
    logp: float
    std: float

    def __str__(self) -> str:
        return f"{self.sw2:.4f} / {self.logp:.2f} / {self.std:.4f}"


def true_points(label: int, n: int, seed: int) -> Tensor:
    """n points of the law of a class, (n, 2)."""
    noise = torch.randn(n, 2, generator=generator("true", label, seed), dtype=torch.float64)
    return LAW.means[label] + LAW.std * noise


def closeness(x: Tensor, label: Tensor) -> Closeness:
    """Of samples x (B, 2) with labels (B,), equally many of each class."""
    distances, densities, widths = [], [], []
    for number in range(CLASSES):
        mine = x[label == number].double()
        distances.append(sliced_w2(mine, true_points(number, len(mine), 0)))
        law = torch.distributions.Normal(LAW.means[number], LAW.std)
        densities.append(float(law.log_prob(mine).sum(1).mean()))
        widths.append(float(mine.std(0).mean()))
    return Closeness(*map(statistics.fmean, (distances, densities, widths)))


def table(model: cld_core.Model, each: int, nfe: int) -> None:
    """Print a row for each setting."""
    label = torch.arange(CLASSES).repeat_interleave(each)
    exact = LAW.score(model.sde, torch.arange(CLASSES))

    def of_exact(spec: ExponentialSpec) -> Tensor:
        noise = SampleNoise(0, "sample", first=0, last=len(label))
        return sample(labelled(exact, spec, label, CLASSES), model.sde, spec, noise, (2,)).x

    def of_network(spec: ExponentialSpec) -> Tensor:
        keys = {
            "guidance": spec.guidance,
            "guidance_from": spec.guidance_from,
            "guidance_to": spec.guidance_to,
        }
        return model.sample(len(label), label=label, method="exponential", nfe=nfe, **keys)

    sources: tuple[Callable[[ExponentialSpec], Tensor], ...] = (of_exact, of_network)
    true = torch.cat([true_points(number, each, 1) for number in range(CLASSES)])
    print(
        f"| guidance | interval | exact score | {model.path.name if model.path else 'network'} "
        f"|\n| -- | -- | -- | -- |"
    )
    print(f"| (the truth) | | {closeness(true, label)} | |")
    for scale, first, last in SETTINGS:
        spec = ExponentialSpec(nfe=nfe, guidance=scale, guidance_from=first, guidance_to=last)
        cells = " | ".join(str(closeness(draw(spec), label)) for draw in sources)
        print(f"| {scale:g} | {first:g} to {last:g} | {cells} |", flush=True)


def bounds(model: cld_core.Model, points: int) -> None:
    """Print bounds of the log-likelihood given the labels, and without them, beside the truth of
    the same points."""
    x, label = model.source.test_data(0, 0, points), model.source.test_labels(0, 0, points)
    truth = LAW.log_density(x)
    for name, labels, true in (
        ("given the label", label, truth + math.log(CLASSES)),
        ("without", None, truth),
    ):
        found = model.likelihood(x, label=labels, exact_trace=True, rtol=1e-4, atol=1e-4)
        gap = true - found.elbo
        error = float(gap.std()) / math.sqrt(points)
        print(
            f"NLL bound {name}: {-found.mean:.3f} nats, {float(gap.mean()):.3f} +- {error:.3f} "
            f"above the truth"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--each", type=int, default=1000, help="samples of a class")
    parser.add_argument("--nfe", type=int, default=20, help="steps of the exponential method")
    parser.add_argument("--points", type=int, default=400, help="test points of the bounds")
    wanted = parser.parse_args()
    model = cld_core.load(wanted.run)
    table(model, wanted.each, wanted.nfe)
    bounds(model, wanted.points)


if __name__ == "__main__":
    main()
