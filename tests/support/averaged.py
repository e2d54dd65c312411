"""Power-function averages over trajectories of weights that are known, and what they should be."""

import numpy as np
import torch
from torch import nn

from cld_core.averages.power import PowerAverages
from cld_core.averages.profiles import exponent
from cld_core.checkpoint.tensors import checkpoints, snapshots
from cld_core.config import load
from cld_core.run import RunFolder

from .paths import RECIPES

LENGTHS = (0.05, 0.1)


def trajectory(steps: int, size: int = 5, seed: int = 0) -> torch.Tensor:
    """Weights after each step, (steps, size), float64: a trend, oscillations and a random walk."""
    noise = torch.randn(steps, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    s = torch.arange(1, steps + 1, dtype=torch.float64)[:, None]
    phases = torch.arange(size, dtype=torch.float64)
    return torch.exp(-3 * s / steps) + 0.3 * torch.sin(0.05 * s + phases) + 0.02 * noise.cumsum(0)


def brute_force(weights: torch.Tensor, length: float) -> torch.Tensor:
    """The average of weights (steps, size) in float64, from the weights that the paper's update gives each step."""
    decay = [(1.0 - 1.0 / t) ** (exponent(length) + 1.0) for t in range(1, len(weights) + 1)]
    share = np.array([(1.0 - decay[s]) * np.prod(decay[s + 1 :]) for s in range(len(decay))])
    return torch.from_numpy(share) @ weights


class Averaged:
    """A run whose weights follow a trajectory, with its averages, in float64 or another type.

    Attributes:
        net: one parameter, ``weight``.
        state: that of a checkpoint, of which only the averages are real.
    """

    def __init__(self, folder, lengths=LENGTHS, dtype: torch.dtype = torch.float64, half: bool = False) -> None:
        self.run = RunFolder.create(folder, load(RECIPES / "toy.yaml"), {"created": 1.0})
        self.net = nn.ParameterDict({"weight": nn.Parameter(torch.zeros(5, dtype=dtype))})
        self.power = PowerAverages(self.net, lengths)
        self._snapshots, self._checkpoints = (
            snapshots(self.run, half=half),
            checkpoints(self.run, keep=9),
        )

    @property
    def state(self):
        weights = dict(self.net)
        ema = {"updates": 1, "average": weights}
        return {"model_digest": "mine", "model": weights, "ema": ema, "power": self.power.state_dict()}

    def follow(self, weights: torch.Tensor, every: int, first: int = 1) -> None:
        """Take steps from number ``first`` on, snapshots at multiples of ``every``, a checkpoint at the end."""
        for step, row in enumerate(weights, start=first):
            with torch.no_grad():
                self.net["weight"].copy_(row)
            self.power.update()
            if step % every == 0:
                self._snapshots.save(step, self.state)
        self._checkpoints.save(step, self.state)
        self._snapshots.wait()
        self._checkpoints.wait()
