"""One optimiser step on any number of ranks: the state that training carries, and how a step changes it."""

import contextlib
import dataclasses
import inspect
import math
import statistics
import time
from collections import deque
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cld_core import augment, loss, nets, optim, sde, seeds
from cld_core import ranks as distributed
from cld_core.averages.power import PowerAverages
from cld_core.codec import to_plain
from cld_core.config import Recipe
from cld_core.config.train import TrainSpec
from cld_core.data.source import classes_of, source
from cld_core.ema import Ema
from cld_core.errors import CheckpointError, NonFiniteError
from cld_core.guidance import Conditional
from cld_core.nets import precision
from cld_core.nets.compiled import compiled
from cld_core.ranks import Ranks
from cld_core.sanitize import one_line
from cld_core.score import Score

# Upper ends of ranges of t, the same for all runs, so that their curves can be compared. The first range begins at 0.
ENDS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
# What the losses in them are called: from and to.
RANGES = [f"loss_at_t/{start:g}_to_{end:g}" for start, end in zip((0.0, *ENDS), ENDS, strict=False)]
# Steps whose losses are kept before they are summed up: sums of a few numbers at each step would cost more.
_KEPT = 64
# Steps whose own times are kept.
_TIMED = 1000
# Below this loss scale every step overflows.
_SMALLEST_SCALE = 1.0
# Good gradients before the first one is compared with their mean, and the steps that the running mean covers, about.
_SETTLED, _MEMORY = 100, 100
_KNOWN = inspect.signature(DistributedDataParallel.__init__).parameters
# Training changes no buffer of our networks, so none is broadcast. torch 2.13 renamed the argument.
_buffers = "forward_sync_buffers" if "forward_sync_buffers" in _KNOWN else "broadcast_buffers"
_FIXED_BUFFERS: dict[str, Any] = {_buffers: False}


class Trainer:
    """Network, optimiser, average and loss of a run.

    All randomness of step k is keyed by (seed, noise key, k, purpose) and drawn for the global batch, of which this
    rank takes its rows. So except for rounding the result does not depend on the number of ranks, and a resumed run
    that keeps its noise key is bit-identical to an uninterrupted one.

    Args:
        recipe: the experiment.
        ranks: this process among its peers.
        noise_key: 0, or a number of its own for each segment of training that is to have fresh noise.

    Attributes:
        deferred: whether the host does not wait to learn if a step was skipped: the device skips it, and `check`
            reports it later. True on GPUs if the optimiser can skip there; tests set it on the CPU.
    """

    def __init__(self, recipe: Recipe, ranks: Ranks, noise_key: int = 0) -> None:
        train, device = recipe.train, ranks.device
        self.recipe, self.ranks, self._key = recipe, ranks, (train.seed, noise_key)
        self.source = source(recipe.data, device)
        self.sde = sde.build(recipe.sde)
        self.classes = classes_of(self.source)
        self.loss = loss.build(self.sde, recipe.objective)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds.key_of(train.seed, "weights"))
            self.net = nets.of_recipe(recipe, self.source.shape, self.classes)
        self._model = replicated(self.net, train, ranks)
        self.optimiser = optim.build(recipe.optim, self.net.parameters())
        self._skips_on_device = optim.skips_on_device(self.optimiser)
        self.deferred = self._skips_on_device and device.type != "cpu"
        self._parameters = list(self.net.parameters())
        self.ema = Ema(self.net, train.ema)
        self._augment: float = getattr(recipe.network, "augment", 0.0)
        self.power = PowerAverages(self.net, train.ema_lengths)
        self._dropout = getattr(recipe.network, "dropout", 0.0) > 0
        self.scaler = torch.amp.GradScaler(device.type, enabled=train.precision == "fp16")
        self.gradients = GradientFilter(recipe.optim.max_grad_growth, device, scaled=self.scaler.is_enabled())
        self.score = Score(self.sde, recipe.objective, self._model)
        self.interval = Interval(ranks)

    def warm_up(self) -> None:
        """Let `DistributedDataParallel` (DDP) choose how it groups gradients into buckets, by two discarded passes.

        The buckets decide how sums over three or more ranks are rounded. Choosing them before the first step of every
        attempt makes them the same for a resumed and an uninterrupted run.
        """
        if self.ranks.world_size > 1:
            # DDP sees in the first backward pass in which order gradients arrive, and regroups in the next forward.
            for _ in range(2):
                self._backward(0)
                self.optimiser.zero_grad(set_to_none=True)
            self.interval = Interval(self.ranks)

    def step(self, step: int) -> None:
        """Optimiser step number ``step``, counted from 0. A gradient that is not finite, or explodes, changes nothing.

        If the step is `deferred`, nothing here waits for the device.

        Raises:
            NonFiniteError: at once, unless the step is `deferred`.
        """
        loss, seen = self._backward(step)
        clip = self.recipe.optim.grad_clip
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self._parameters, clip if clip is not None else math.inf, foreach=True)
        skip = self.gradients.check(norm)
        self.grad_norm = norm
        self.interval.count(loss, skip, *seen)
        skipped = None if self.deferred else bool(skip)
        for group in self.optimiser.param_groups:
            group["lr"] = optim.rate(self.recipe.optim, step, self.recipe.train.steps)
        # Not through scaler.step, which only checks for infinite gradients.
        if self._skips_on_device:
            # GradScaler itself makes fused optimisers skip this way; torch declares no such attribute.
            self.optimiser.found_inf = skip.float()  # type: ignore[attr-defined]
            self.optimiser.step()
        elif not skipped:
            self.optimiser.step()
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        if skipped:
            self.check(step)
            return
        for averages in (self.ema, self.power):
            averages.update(skip if self.deferred else None)

    def check(self, step: int, loss: float | None = None) -> None:
        """Check that all gradients up to step number ``step`` were good, and so is their mean ``loss``, if it is given.

        Raises:
            NonFiniteError: some were not; weights and optimiser are as if those steps had not happened. On all ranks.
        """
        bad = self.gradients.bad()
        what = f"the gradient's norm is {float(self.grad_norm):.4g}"
        if self.scaler.is_enabled() and self.scaler.get_scale() < _SMALLEST_SCALE:
            bad += 1
            what = "the gradient overflows at any scale"
        if loss is not None and not math.isfinite(loss):
            bad += 1
            what = f"the loss is {loss}"
        if bad:
            text = f"{what}; nothing was changed by it. Lower optim.lr, or set optim.grad_clip"
            raise NonFiniteError(f"step {step}: not finite or exploding: {text}.")

    def take_scalars(self) -> dict[str, float]:
        """What the monitor plots, over the steps since the last call. Waits for the device.

        What `Interval.take` tells, the gradient norm (before clipping, of the last step), the learning rate, the loss
        scale, and peak memory in GiB: of the GPU, or of the process on the CPU.
        """
        scalars = self.interval.take() | {
            "grad_norm": float(self.grad_norm),
            "lr": self.optimiser.param_groups[0]["lr"],
            "memory_gib": distributed.peak_memory(self.ranks.device) / 2**30,
        }
        if self.scaler.is_enabled():
            scalars["loss_scale"] = self.scaler.get_scale()
        return scalars

    def close(self) -> None:
        """Stop reading ahead."""
        self.source.close()

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on."""
        return {
            "model": self.net.state_dict(),
            "ema": self.ema.state_dict(),
            "optimiser": optim.portable(self.optimiser.state_dict()),
            "scaler": self.scaler.state_dict(),
            "gradients": self.gradients.state_dict(),
            **self.averages_dict(),
            **({} if self.classes is None else {"classes": to_plain(self.classes)}),
        }

    def averages_dict(self) -> dict[str, Any]:
        """What a snapshot of the power-function averages holds; without any, the digest of the model alone."""
        power = self.power.state_dict()
        return {"model_digest": self.recipe.model_digest(), **({"power": power} if power else {})}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the state of a checkpoint.

        Raises:
            CheckpointError: its names or shapes are not those of this recipe's network, or its classes those of the
                data.
        """
        self._require_same_classes(state)
        try:
            self.net.load_state_dict(state["model"], strict=True)
            self.ema.load_state_dict(state["ema"])
            self.power.load_state_dict(state.get("power"), state.get("step", 0))
            optim.load(self.optimiser, state["optimiser"])
            if state["scaler"]:
                # Empty if the checkpoint was trained in another precision or imported: the scale is then found again.
                self.scaler.load_state_dict(state["scaler"])
            if "gradients" in state:
                self.gradients.load_state_dict(state["gradients"])
        except (KeyError, RuntimeError, ValueError) as error:
            text = f"the checkpoint does not fit the recipe: {error}. Resume with the recipe that wrote it."
            raise CheckpointError(text) from error

    def _backward(self, step: int) -> tuple[Tensor, tuple[Tensor, Tensor, float]]:
        """Gradients of the mean loss over the global batch.

        Returns:
            This rank's share of that loss; and its times, losses and waiting, for `Interval.count`.
        """
        train, device = self.recipe.train, self.ranks.device
        self.interval.begin()
        rows = self.ranks.rows(train.batch_size)
        x, label = self._examples(step, rows)
        wait_s = self.source.wait_s
        noise = seeds.generator(*self._key, step, "noise", device=device)
        draws = self.loss.draw(noise, train.batch_size, self.source.shape, device).rows(rows)
        if self._augment > 0:
            drawn = seeds.generator(*self._key, step, "augment")
            changes = augment.draw(drawn, train.batch_size, self.source.shape[-1], self._augment).rows(rows).on(device)
            x, draws = changes.apply(x), dataclasses.replace(draws, augmented=changes.conditions)
        if self._dropout:
            torch.manual_seed(seeds.key_of(*self._key, step, "dropout", self.ranks.rank))
        shares, plain = [], []
        size = train.micro_batch or len(x)
        starts = range(0, len(x), size)
        for start in starts:
            part = slice(start, start + size)
            last = start == starts[-1]
            with contextlib.nullcontext() if last or self.ranks.world_size == 1 else self._model.net.no_sync():
                score = self.score if label is None else Conditional(self.score, label[part])
                losses = self.loss.losses(score, x[part], draws.rows(part))
                # DDP averages over the ranks, whose shares may differ by a row: weight by rows, not by ranks.
                loss = losses.weighted.sum() * (self.ranks.world_size / train.batch_size)
                if last:
                    self.interval.exchange()
                self.scaler.scale(loss).backward()
            shares.append(loss.detach())
            plain.append(losses.plain)
        return sum(shares[1:], start=shares[0]), (draws.t, torch.cat(plain), wait_s)

    def _examples(self, step: int, rows: slice) -> tuple[Tensor, Tensor | None]:
        """The data of this rank's rows of a step, and if they are labelled the labels that the network gets."""
        size, device = self.recipe.train.batch_size, self.ranks.device
        if self.classes is None:
            return moved(self.source.batch(*self._key, step, size, rows), device), None
        x, label = self.source.labelled_batch(*self._key, step, size, rows)
        drawn = torch.rand(size, generator=seeds.generator(*self._key, step, "labels"))[rows]
        without = drawn < self.recipe.objective.label_dropout
        return moved(x, device), moved(label.masked_fill(without.to(label.device), self.classes.none), device)

    def _require_same_classes(self, state: dict[str, Any]) -> None:
        names = None if self.classes is None else list(self.classes.names)
        known = state.get("classes", {}).get("names")
        if known != names:
            shown = one_line(", ".join(map(str, known or ["none"])))
            text = f"the classes of the data are others than when the run began: {shown}"
            raise CheckpointError(f"{text}. Prepare the data as they were, or start a new run.")


def moved(x: Tensor, device: torch.device) -> Tensor:
    """``x`` on ``device``, without waiting for it: a copy from memory that can be paged out would."""
    if device.type == "cuda" and x.device.type == "cpu":
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


class GradientFilter:
    """Tells good gradients from non-finite and exploding ones by their norm before clipping.

    A gradient scaler finds its scale by provoking norms that are not finite: such a step is skipped, but harmless.
    `bad` counts the harmful steps.

    Args:
        growth: a norm above this many running means is an explosion; None turns that check off.
        scaled: whether gradients go through a scaler.
    """

    def __init__(self, growth: float | None, device: torch.device, *, scaled: bool) -> None:
        self._growth = math.inf if growth is None else growth
        self._scaled = scaled
        self._mean = torch.zeros((), device=device)
        self._good = torch.zeros((), device=device)
        self._bad = torch.zeros((), device=device)

    @torch.no_grad()
    def check(self, norm: Tensor) -> Tensor:
        """Whether the step with a gradient of this norm is to be skipped; a bool scalar on the device."""
        infinite = ~torch.isfinite(norm)
        exploded = (norm > self._growth * self._mean) & (self._good >= _SETTLED) & ~infinite
        skip = infinite | exploded
        self._bad += exploded if self._scaled else skip
        weight = torch.clamp(1.0 / (self._good + 1.0), min=1.0 / _MEMORY)
        self._mean.copy_(torch.where(skip, self._mean, torch.lerp(self._mean, norm.float(), weight)))
        self._good += ~skip
        return skip

    def bad(self) -> int:
        """The number of harmful steps. Waits for the device."""
        return int(self._bad)

    def state_dict(self) -> dict[str, Tensor]:
        return {"mean": self._mean, "good": self._good}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._mean.copy_(state["mean"])
        self._good.copy_(state["good"])


class Interval:
    """Losses over all ranks, skipped steps, and this rank's waits for data and own times, since each was last taken.

    Losses of skipped steps do not count: one that overflows in the forward pass has a loss that is not finite on some
    rank. No step depends on what is kept here.

    A rank's own time of a step is what comes before the ranks exchange gradients, in which they wait for each other:
    reading the batch and the forward pass, and with accumulation all but the last backward pass. On the CPU that is the
    clock. On a GPU, where the host runs ahead, two events are recorded in the stream and read when they have passed:
    that includes what the GPU waited for data. A rank without peers has no use for it.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._is_timed = ranks.world_size > 1
        self._on_gpu = ranks.device.type == "cuda"
        self._ends = torch.tensor(ENDS[:-1], dtype=torch.float64, device=ranks.device)
        self._ranges = torch.arange(len(ENDS), device=ranks.device)
        # Sums and numbers of losses: in the first column those of steps, in the others those of examples in a range.
        self._sums = torch.zeros(2, 1 + len(ENDS), dtype=torch.float64, device=ranks.device)
        self._kept: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._steps, self._wait_s = 0, 0.0
        self._began: float | torch.cuda.Event = 0.0
        self._own: deque[tuple[float | torch.cuda.Event, float | torch.cuda.Event]] = deque(maxlen=_TIMED)

    def begin(self) -> None:
        """A step begins."""
        if self._is_timed:
            self._began = self._now()

    def exchange(self) -> None:
        """What this rank does before it exchanges gradients is done, or on its way."""
        if self._is_timed:
            self._own.append((self._began, self._now()))

    def count(self, loss: Tensor, skip: Tensor, t: Tensor, losses: Tensor, wait_s: float = 0.0) -> None:
        """Count a step with this rank's ``loss``, a scalar.

        Args:
            skip: a bool scalar on the device, the same on all ranks: the losses do not count.
            t: this rank's times (B,); B is the same in every step.
            losses: without weights, at these times (B,).
            wait_s: seconds that the step waited for data.
        """
        self._steps += 1
        self._wait_s += wait_s
        self._kept.append((loss, t, losses, skip))
        if len(self._kept) == _KEPT:
            self._sum_up()

    def _sum_up(self) -> None:
        if not self._kept:
            return
        loss, t, losses, skips = (torch.stack(parts) for parts in zip(*self._kept, strict=True))
        self._kept.clear()
        good = ~skips
        counted = (torch.bucketize(t, self._ends)[..., None] == self._ranges) & good[:, None, None]
        # A skipped loss may be infinite, and infinity times 0 is not a number.
        values = losses.double()[..., None].masked_fill(~counted, 0.0)
        self._sums[:, 0] += torch.stack([loss.double().masked_fill(skips, 0.0).sum(), good.double().sum()])
        self._sums[:, 1:] += torch.stack([values.sum((0, 1)), counted.double().sum((0, 1))])

    def take(self) -> dict[str, float]:
        """The mean loss and those in ranges of t, the seconds a step waited for data, and the number of skipped steps.

        Without the loss if all steps were skipped, and without ranges where no t was drawn. Waits for the device and
        all ranks.
        """
        self._sum_up()
        totals, counts = self._ranks.sums(self._sums)
        named = zip(("loss", *RANGES), totals.tolist(), counts.tolist(), strict=True)
        found = {name: total / count for name, total, count in named if count}
        found["data_wait_s"] = self._wait_s / max(self._steps, 1)
        found["skipped_steps"] = self._steps - float(counts[0]) / self._ranks.world_size
        self._sums.zero_()
        self._steps, self._wait_s = 0, 0.0
        return found

    def take_own_time(self) -> float:
        """The median of this rank's own times of steps, seconds; 0 if nothing is known."""
        times = []
        for began, ended in self._own:
            if isinstance(began, float) and isinstance(ended, float):
                times.append(ended - began)
            elif isinstance(began, torch.cuda.Event) and isinstance(ended, torch.cuda.Event) and ended.query():
                times.append(began.elapsed_time(ended) / 1000)
        self._own.clear()
        return statistics.median(times) if times else 0.0

    def _now(self) -> "float | torch.cuda.Event":
        if not self._on_gpu:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def replicated(net: nn.Module, spec: TrainSpec, ranks: Ranks) -> Any:
    """What to call instead of ``net``, which keeps the parameters: on the device, replicated, compiled, in a precision.

    With more than one rank, its ``net`` has `no_sync`, as `DistributedDataParallel` (DDP) does.
    """
    device = ranks.device
    net.to(device)
    precision.store(net, channels_last=spec.channels_last)
    if ranks.world_size > 1:
        net = DistributedDataParallel(
            net,
            device_ids=[device] if device.type == "cuda" else None,
            **_FIXED_BUFFERS,
            bucket_cap_mb=spec.bucket_mb,
            gradient_as_bucket_view=True,
            # Every parameter takes part in every backward pass, but with accumulation the passes differ. It does not go
            # together with compiled graphs that are cut (pytorch issue 109261).
            static_graph=spec.micro_batch is None and not spec.compile,
        )
    # In this order, torch cuts the graph where DDP's buckets end. In one piece, all gradients would be ready at the end
    # of the backward pass, and none could be sent before.
    net = compiled(net) if spec.compile else net
    return precision.Autocast(net, device, spec.precision, channels_last=spec.channels_last)
