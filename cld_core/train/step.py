"""One optimiser step, on any number of ranks: the state that training carries, and how a step changes it."""

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from cld_core import nets, optim, sde, seeds
from cld_core import ranks as distributed
from cld_core.data.source import source
from cld_core.ema import Ema
from cld_core.errors import CheckpointError, NonFiniteError
from cld_core.loss import ScoreMatching
from cld_core.ranks import Ranks
from cld_core.recipe import Recipe
from cld_core.score import Score

from . import parallel
from .guard import Guard

# Below this scale no loss is left to be scaled: every step overflows.
_SMALLEST_SCALE = 1.0


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
        self._model: Any = parallel.prepare(self.net, train, ranks)
        self.optimiser = optim.build(recipe.optim, self.net.parameters())
        self._skips_on_device = optim.skips_on_device(self.optimiser)
        self._parameters = list(self.net.parameters())
        self.ema = Ema(self.net, train.ema)
        self._dropout = getattr(recipe.network, "dropout", 0.0) > 0
        self.scaler = torch.amp.GradScaler(device.type, enabled=train.precision == "fp16")
        self.guard = Guard(recipe.optim.max_grad_growth, device, scaled=self.scaler.is_enabled())
        self.score = Score(self.sde, recipe.objective, parallel.Autocast(self._model, device, train))
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self._loss_steps = 0
        self._data_wait_s = 0.0

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
            self._data_wait_s = 0.0

    def step(self, step: int, before_update: Callable[[], None] = lambda: None) -> None:
        """Optimiser step number ``step``, counted from 0. A gradient that is not finite, or explodes, changes nothing.

        On a GPU nothing here waits for the device with the fused optimisers, and `check` tells later.

        Args:
            before_update: called when the gradients are there; nothing of `state_dict` changes before.

        Raises:
            NonFiniteError: on the CPU, at once.
        """
        self._backward(step)
        before_update()
        clip = self.recipe.optim.grad_clip
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self._parameters, clip if clip is not None else math.inf, foreach=True)
        skip = self.guard.check(norm)
        self.grad_norm = norm
        for group in self.optimiser.param_groups:
            group["lr"] = optim.rate(self.recipe.optim, step)
        # Not by scaler.step, which knows of infinite gradients only.
        if self._skips_on_device:
            # How GradScaler itself tells fused optimisers to skip; torch declares no such attribute.
            self.optimiser.found_inf = skip  # type: ignore[attr-defined]
            self.optimiser.step()
        elif not bool(skip):
            self.optimiser.step()
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        if self.ranks.device.type == "cpu":
            self.check(step)
            if bool(skip):
                return
        self.ema.update()

    def check(self, step: int, loss: float = 0.0) -> None:
        """See to it that all gradients up to step number ``step`` were good, and a mean ``loss`` of them.

        Raises:
            NonFiniteError: some were not; weights and optimiser are as if those steps had not been. On all ranks.
        """
        bad = self.guard.bad()
        what = f"the gradient's norm is {float(self.grad_norm):.4g}"
        if self.scaler.is_enabled() and self.scaler.get_scale() < _SMALLEST_SCALE:
            bad, what = bad + 1, "the gradient overflows at any scale"
        if not math.isfinite(loss):
            bad, what = bad + 1, f"the loss is {loss}"
        if bad:
            text = f"{what}; nothing was changed by it. Lower optim.lr, or set optim.grad_clip"
            raise NonFiniteError(f"step {step}: not finite or exploding: {text}.")

    def take_loss(self) -> float:
        """The mean loss over the steps since the last call, on all ranks. Waits for the device."""
        steps, self._loss_steps = max(self._loss_steps, 1), 0
        mean = float(self._loss_sum) / steps
        self._loss_sum.zero_()
        return self.ranks.mean(mean)

    def take_scalars(self) -> dict[str, float]:
        """What is worth watching, over the steps since the last call. Waits for the device.

        Loss and gradient norm (before clipping, of the last step), rate, seconds a step waited for data, steps
        skipped, loss scale, and the most memory held: GiB of the GPU, or of the process where there is none.
        """
        steps = max(self._loss_steps, 1)
        scalars = {
            "loss": self.take_loss(),
            "grad_norm": float(self.grad_norm),
            "lr": self.optimiser.param_groups[0]["lr"],
            "data_wait_s": self._data_wait_s / steps,
            "skipped_steps": float(self.guard.take_skipped()),
            "memory_gib": distributed.peak_memory(self.ranks.device) / 2**30,
        }
        if self.scaler.is_enabled():
            scalars["loss_scale"] = self.scaler.get_scale()
        self._data_wait_s = 0.0
        return scalars

    def close(self) -> None:
        """Stop reading ahead."""
        self.source.close()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "model": self.net.state_dict(),
            "ema": self.ema.state_dict(),
            "optimiser": optim.portable(self.optimiser.state_dict()),
            "scaler": self.scaler.state_dict(),
            "guard": self.guard.state_dict(),
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
            optim.load(self.optimiser, state["optimiser"])
            if state["scaler"]:
                # Empty where another precision was trained in, or by another program: then the scale is found anew.
                self.scaler.load_state_dict(state["scaler"])
            if "guard" in state:
                self.guard.load_state_dict(state["guard"])
        except (KeyError, RuntimeError, ValueError) as error:
            text = f"the checkpoint does not fit the recipe: {error}. Resume with the recipe that wrote it."
            raise CheckpointError(text) from error

    def _backward(self, step: int) -> None:
        """Gradients of the mean loss over the global batch."""
        train, device = self.recipe.train, self.ranks.device
        rows = self.ranks.rows(train.batch_size)
        x = self.source.batch(*self._key, step, train.batch_size, rows).to(device, non_blocking=True)
        self._data_wait_s += self.source.wait_s
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
