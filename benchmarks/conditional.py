"""How near samples given an observation are to the exact conditional law of the diamond.

    python -m benchmarks.conditional [--run RUN ...]

Cells: sliced W2 from as many true samples / mean conditional log-density of the samples, in nats.
docs/howto/inpainting.md has the table.
"""

import argparse
from collections.abc import Callable, Iterator

import torch
from rich.console import Console
from torch import Tensor

import cld_core
from benchmarks.diamond import sliced_w2
from cld_core.analytic import diamond
from cld_core.conditioning import GradientGuidance, Observation, Replacement, Way
from cld_core.config.registry import SECTIONS
from cld_core.samplers import sample
from cld_core.sde import CLD, VPSDE, Diffusion
from cld_core.seeds import SampleNoise, generator
from tests.support.numeric import Given

LAW = diamond()
FIRST = torch.tensor([[1.0, 0.0]])
# Name, H, y, sigma.
OBSERVATIONS = [
    ("x = 0", FIRST, 0.0, 0.0),
    ("x = 0.3", FIRST, 0.3, 0.0),
    ("x = 0.18 +- 0.1", FIRST, 0.18, 0.1),
    ("x + y/2 = 0.3 +- 0.1", torch.tensor([[1.0, 0.5]]), 0.3, 0.1),
]
WAYS: list[tuple[str, Callable[[float], Way]]] = [
    ("gradient", lambda error: GradientGuidance(score_error=error)),
    (
        "gradient, isotropic",
        lambda error: GradientGuidance(covariance="isotropic", data_std=0.4, score_error=error),
    ),
    ("replacement", lambda error: Replacement()),
    ("replacement, noise kept", lambda error: Replacement(renew=False)),
]
METHODS = [
    ("exponential, 50", {"method": "exponential", "nfe": 50}),
    ("EM, quadratic, 150", {"method": "em", "nfe": 150, "grid": "quadratic"}),
]
# (observation, way, keys of sampling, n) -> samples.
Sampler = Callable[[Observation, Way, dict, int], Tensor]


def exact(sde: Diffusion) -> Sampler:
    def draw(observation: Observation, way: Way, keys: dict, n: int) -> Tensor:
        noise, apart = (SampleNoise(0, name, first=0, last=n) for name in ("sample", "observation"))
        given = way.conditioned(LAW.score(sde), sde, observation, apart)
        spec = SECTIONS["sampling"].find(keys["method"]).spec(**keys)
        return sample(given, sde, spec, noise, (2,)).x

    return draw


def trained(run: str) -> Sampler:
    model = cld_core.load(run, device="cpu")

    def draw(observation: Observation, way: Way, keys: dict, n: int) -> Tensor:
        return model.sample(n, observation=observation, by=way, **keys)

    return draw


def cell(x: Tensor, law: Given) -> str:
    distance = sliced_w2(x, law.sample(len(x), generator(1, "true")))
    return f"{distance:.4f} / {float(law.log_density(x).mean()):.2f}"


def rows(draw: Sampler, error: float, n: int) -> Iterator[list[str]]:
    for name, matrix, y, sigma in OBSERVATIONS:
        value, masked = torch.tensor([y]), bool((matrix == FIRST).all())
        observation = Observation.linear(matrix, value, sigma)
        if masked:
            observation = Observation.masked(
                torch.tensor([y, 0.0]), torch.tensor([True, False]), sigma
            )
        law = Given(LAW, matrix, value, sigma)
        yield [name, "true samples", cell(law.sample(n, generator(0, "true")), law), ""]
        for how, way in WAYS:
            if masked or not how.startswith("replacement"):
                yield [
                    name,
                    how,
                    *(cell(draw(observation, way(error), keys, n), law) for _, keys in METHODS),
                ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--run", action="append", default=[], help="also a trained model of the diamond"
    )
    parser.add_argument("--samples", type=int, default=4000)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    out = Console(width=200, highlight=False)
    cases = [
        ("exact score, CLD", exact(CLD(numerical_eps=0.0)), 0.0),
        ("exact score, VPSDE", exact(VPSDE()), 0.0),
        *((run, trained(run), GradientGuidance.score_error) for run in chosen.run),
    ]
    for name, draw, error in cases:
        out.print(f"\n{name}\n")
        out.print(
            f"| observed | how | {' | '.join(method for method, _ in METHODS)} |\n"
            "| -- | -- | -- | -- |"
        )
        for row in rows(draw, error, chosen.samples):
            out.print(f"| {' | '.join(row)} |", soft_wrap=True)


if __name__ == "__main__":
    main()
