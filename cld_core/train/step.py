"""One optimiser step, on any number of ranks: the state that training carries, and how a step changes it."""

import contextlib
import math
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cld_core import nets, sde, seeds
from cld_core.data.source import source
from cld_core.errors import CheckpointError, NonFiniteError
from cld_core.loss import ScoreMatching
from cld_core.recipe import Recipe
from cld_core.score import Score

from . import optim
from .distributed import Ranks
from .ema import Ema

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """Network, optimiser, average and loss of a run.

    All randomness of step k is keyed by (seed, restart, k, purpose) and drawn for the global batch, of which
    this rank takes its rows. So the result does not depend on the number of ranks but for rounding, and a
    resumed run that keeps ``restart`` repeats to the last bit what an uninterrupted one does.

    Args:
        recipe: the experiment.
        ranks: this process among its peers.
        restart: 0, or the number of the attempt where each attempt is to have fresh noise.
    """

    def __init__(self, recipe: Recipe, ranks: Ranks, restart: int = 0) -> None:
        train, device = recipe.train, ranks.device
        self.recipe, self.ranks, self._key = recipe, ranks, (train.seed, restart)
        self.source = source(recipe.data, device)
        self.sde = sde.build(recipe.sde)
        self.loss = ScoreMatching(self.sde, recipe.objective)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds.key_of(train.seed, "weights"))
            self.net = nets.build(recipe.network, data_shape=self.source.shape, phase_space=self.sde.phase_space)
        self.net.to(device)
        self.optimiser = optim.build(recipe.optim, self.net.parameters())
        self._parameters = list(self.net.parameters())
        self.ema = Ema(self.net, train.ema)
        self._dropout = any(isinstance(module, nn.Dropout) and module.p > 0 for module in self.net.modules())
        self.scaler = torch.amp.GradScaler(device.type, enabled=train.precision == "fp16")
        model: Any = torch.compile(self.net) if train.compile else self.net
        self._model: Any = model
        if ranks.world_size > 1:
            devices = [device] if device.type == "cuda" else None
            self._model = DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)
        self.score = Score(self.sde, recipe.objective, _Autocast(self._model, device.type, _AUTOCAST[train.precision]))
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self._loss_steps = 0

    def warm_up(self) -> None:
        """Let DDP settle the order of its gradient buckets, which it does after its first backward pass.

        The order decides how sums over three and more ranks are rounded. Done before the first step of every
        attempt, it is the same for a resumed and an uninterrupted run.
        """
        if self.ranks.world_size > 1:
            for _ in range(2):
                self._backward(0)
                self.optimiser.zero_grad(set_to_none=True)
            self.take_loss()

    def step(self, step: int) -> None:
        """Optimiser step number ``step``, counted from 0.

        Raises:
            NonFiniteError: the gradient is not finite; weights, optimiser and average are as before.
        """
        self._backward(step)
        clip = self.recipe.optim.grad_clip
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self._parameters, clip if clip is not None else math.inf, foreach=True)
        if self.ranks.device.type == "cpu" and not self.scaler.is_enabled() and not bool(torch.isfinite(norm)):
            self.optimiser.zero_grad(set_to_none=True)
            text = "the gradient is not finite; nothing was changed by it. Lower optim.lr or set optim.grad_clip"
            raise NonFiniteError(f"step {step}: {text}.")
        for group in self.optimiser.param_groups:
            group["lr"] = optim.rate(self.recipe.optim, step)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        self.ema.update()
        self.grad_norm = norm

    def take_loss(self) -> float:
        """The mean loss over the steps since the last call, on all ranks. Waits for the device."""
        steps, self._loss_steps = max(self._loss_steps, 1), 0
        mean = float(self._loss_sum) / steps
        self._loss_sum.zero_()
        return self.ranks.mean(mean)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "model": self.net.state_dict(),
            "ema": self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "model_digest": self.recipe.model_digest(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint.

        Raises:
            CheckpointError: names or shapes are not those of this recipe's network.
        """
        try:
            self.net.load_state_dict(state["model"], strict=True)
            self.ema.load_state_dict(state["ema"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.scaler.load_state_dict(state["scaler"])
        except (KeyError, RuntimeError, ValueError) as error:
            text = f"the checkpoint does not fit the recipe: {error}. Resume with the recipe that wrote it."
            raise CheckpointError(text) from error

    def _backward(self, step: int) -> None:
        """Gradients of the mean loss over the global batch."""
        train, device = self.recipe.train, self.ranks.device
        rows = self.ranks.rows(train.batch_size)
        x = self.source.batch(*self._key, step, train.batch_size, rows).to(device, non_blocking=True)
        noise = seeds.generator(*self._key, step, "noise", device=device)
        draws = self.loss.draw(noise, train.batch_size, self.source.shape, device).rows(rows)
        if self._dropout:
            torch.manual_seed(seeds.key_of(*self._key, step, "dropout", self.ranks.rank))
        size = train.micro_batch or len(x)
        starts = range(0, len(x), size)
        for start in starts:
            part = slice(start, start + size)
            last = start == starts[-1]
            with contextlib.nullcontext() if last or self.ranks.world_size == 1 else self._model.no_sync():
                losses = self.loss.per_sample(self.score, x[part], draws.rows(part))
                # DDP averages over the ranks, whose shares may differ by a row: weigh by rows, not by ranks.
                loss = losses.sum() * (self.ranks.world_size / train.batch_size)
                self.scaler.scale(loss).backward()
            self._loss_sum += loss.detach()
        self._loss_steps += 1


class _Autocast(nn.Module):
    """A network that computes in a lower precision and answers in its own."""

    def __init__(self, net: nn.Module, device_type: str, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.net, self._device_type, self._dtype = net, device_type, dtype

    def forward(self, u: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if self._dtype is None:
            return self.net(u, t)
        with torch.autocast(self._device_type, dtype=self._dtype):
            return self.net(u, t).to(u.dtype)
