"""Averages made after a training, compared with those that were run in it.

    python -m benchmarks.averages

Trains a toy for 2,000 steps with the two stored averages, and six more beside them. For each of the
six lengths: the error of the profile, the relative distance of the weights from those that were
run, and the bounds of both on the same 500 points. Takes some minutes.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import cld_core
from cld_core.averages import PowerAverages
from cld_core.config import load
from cld_core.ranks import Ranks
from cld_core.run import RunFolder
from cld_core.run.work import Training
from cld_core.train.step import Trainer

LENGTHS = (0.02, 0.03, 0.07, 0.15, 0.2, 0.25)
SETTINGS = ("train.log_every=500", "train.ema_lengths=[0.05,0.1]")


def trained(
    folder: Path, steps: int, snapshots: int, precision: str
) -> tuple[RunFolder, PowerAverages]:
    """A toy with that many snapshots, and the other averages that were run beside it."""
    others: list[PowerAverages] = []
    original = Trainer.step

    def stepping(self: Trainer, step: int, **more: Any) -> None:
        original(self, step, **more)
        if not others:
            others.append(PowerAverages(self.net, LENGTHS))
        others[0].update()

    every = (
        f"train.steps={steps}",
        f"train.checkpoint_every={steps}",
        f"train.ema_every={steps // snapshots}",
    )
    recipe = load(
        Path("recipes/toy_diamond.yaml"), [*SETTINGS, *every, f"train.ema_precision={precision}"]
    )
    run = RunFolder.create(folder / f"toy-{snapshots}-{precision}", recipe, {"created": 0.0})
    with mock.patch.object(Trainer, "step", stepping):
        Training(run.path).compute(Ranks())
    return run, others[0]


def compare(run: RunFolder, others: PowerAverages, points: int) -> None:
    print("| length | error of the profile | error of the weights | bound, made | bound, run |")
    print("| -- | -- | -- | -- | -- |")
    for length, average in zip(LENGTHS, others.averages, strict=True):
        truth = dict(zip(others.names, average, strict=True))
        ran = cld_core.load(run.path)
        ran.net.load_state_dict(truth, strict=False)
        try:
            made = cld_core.load(run.path, ema_length=length)
        except cld_core.errors.UsageError as error:
            print(f"| {length} | refused: {error} | | | {_bound(ran, points):.4f} |")
            continue
        away = _distance(dict(made.net.named_parameters()), truth)
        bounds = " | ".join(f"{_bound(model, points):.4f}" for model in (made, ran))
        print(f"| {length} | {made.ema_error:.1e} | {away:.1e} | {bounds} |")
    usual = cld_core.load(run.path)
    print(
        f"\nthe usual average, decay {usual.recipe.train.ema:g}: {_bound(usual, points):.4f}",
        flush=True,
    )


def _bound(model: "cld_core.Model", points: int) -> float:
    """The bound of the negative log-likelihood, nats."""
    x = model.source.dequantised_test_data(0, 0, points)
    return -float(model.log_likelihood(x, exact_trace=True, rtol=1e-4, atol=1e-4).mean())


def _distance(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    away = sum(float((found[name] - tensor).square().sum()) for name, tensor in expected.items())
    return float((away / sum(float(tensor.square().sum()) for tensor in expected.values())) ** 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--points", type=int, default=500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for snapshots, precision in ((20, "fp32"), (80, "fp32"), (80, "fp16")):
            print(f"\n{snapshots} snapshots, {precision}\n")
            compare(*trained(Path(folder), options.steps, snapshots, precision), options.points)


if __name__ == "__main__":
    main()
