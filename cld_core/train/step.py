"""One optimiser step on any number of ranks: the state of training, and how a step changes it."""

import inspect
import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from cld_core import loss, nets, optim, sde, seeds
from cld_core import ranks as distributed
from cld_core.averages import Ema, PowerAverages
from cld_core.checkpoint import State, Tensors
from cld_core.config import Recipe
from cld_core.config.network import CONDITIONS
from cld_core.config.train import TrainSpec
from cld_core.data.format import DataFormat
from cld_core.data.source import Source, classes_of, form_of, source, use_form
from cld_core.errors import CheckpointError, NonFiniteError
from cld_core.nets import execution
from cld_core.plugins import is_shipped
from cld_core.ranks import Ranks
from cld_core.records import from_plain, to_plain
from cld_core.sanitize import one_line
from cld_core.score import Conditional, Score

from .health import Interval

# Below this loss scale every step overflows.
_SMALLEST_SCALE = 1.0
# Good gradients before norms are compared with their running mean.
_SETTLED = 100
# Steps that the running mean covers, about.
_MEMORY = 100
# Training changes no buffer of our networks, so none is broadcast. torch 2.13 renamed the argument.
_BUFFERS = "broadcast_buffers"
if "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters:
    _BUFFERS = "forward_sync_buffers"
_FIXED_BUFFERS: dict[str, Any] = {_BUFFERS: False}
# The standard deviation of the base-2 logarithms of scales.
_OCTAVES = 0.2
# The standard deviation of shifts, as a fraction of the image size.
_SHIFT = 0.125


class Trainer:
    """Network, optimiser, average and loss of a run.

    All randomness of step k is keyed by (seed, noise key, k, purpose) and drawn for the global
    batch, of which this rank takes its rows. So the result does not depend on the number of ranks,
    except for rounding, and a resumed run that keeps its noise key is bit-identical to an
    uninterrupted one.

    Args:
        recipe: the experiment.
        ranks: this process among its peers.
        noise_key: a segment of training with another number has fresh noise.
        data: the examples; None: the recipe's data.
        net: the network, which is trained in place; None: the recipe's network with new weights.

    Attributes:
        deferred: the host does not wait to learn whether a step was skipped: the device skips it,
            and `check` reports it later. True on GPUs if the optimiser can skip there; tests set it
            on the CPU.
    """

    def __init__(
        self,
        recipe: Recipe,
        ranks: Ranks,
        noise_key: int = 0,
        data: Source | None = None,
        net: nn.Module | None = None,
    ) -> None:
        train = recipe.train
        device = ranks.device
        self.recipe = recipe
        self.ranks = ranks
        self._key = (train.seed, noise_key)
        self.source: Any = data or source(recipe.data, device)
        self.sde = sde.build(recipe.sde)
        self.classes = classes_of(self.source)
        self.loss = loss.build(self.sde, recipe.objective)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds.key_of(train.seed, "weights"))
            if net is None:
                net = nets.of_recipe(recipe, self.source.shape, self.classes)
        self.net = net
        self._model = replicated(self.net, train, ranks)
        self.optimiser = optim.build(recipe.optim, self.net.parameters())
        self._skips_on_device = optim.skips_on_device(self.optimiser)
        self.deferred = self._skips_on_device and device.type != "cpu"
        self._parameters = list(self.net.parameters())
        self.ema = Ema(self.net, train.ema)
        self._augment: float = getattr(recipe.network, "augment", 0.0)
        self.power = PowerAverages(self.net, train.ema_lengths)
        # A plug-in's network may draw random numbers, too.
        self._dropout = (
            not is_shipped("network", recipe.network.name)
            or getattr(recipe.network, "dropout", 0.0) > 0
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=train.precision == "fp16")
        self.gradients = GradientFilter(
            recipe.optim.max_grad_growth, device, scaled=self.scaler.is_enabled()
        )
        self.score = Score(self.sde, recipe.objective, self._model)
        self.interval = Interval(ranks)

    def warm_up(self) -> None:
        """Fit the scaling of the data, and fix the buckets of `DistributedDataParallel` (DDP).

        Rank 0 fits the scaling, if the source has one and no checkpoint set it, and gives it to the
        others. The buckets, into which DDP groups gradients, decide how sums over three or more
        ranks are rounded. Two discarded passes choose them before the first step of every attempt,
        so that they are the same for a resumed and an uninterrupted run.
        """
        # Reading the form of a source fits its scaling.
        form = self.ranks.on_first(lambda: form_of(self.source))
        if self.ranks.world_size > 1:
            use_form(self.source, form)
            # DDP notes the order of gradients in the first backward pass, and regroups them in the
            # next forward pass.
            for _ in range(2):
                self._backward(0)
                self.optimiser.zero_grad(set_to_none=True)
            self.interval = Interval(self.ranks)

    def step(self, step: int) -> None:
        """Take optimiser step number ``step``, counted from 0.

        A gradient that is not finite, or explodes, changes nothing. If the step is `deferred`,
        nothing here waits for the device.

        Raises:
            NonFiniteError: at once, unless the step is `deferred`.
        """
        loss, details = self._backward(step)
        clip = self.recipe.optim.grad_clip
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(
            self._parameters, clip if clip is not None else math.inf, foreach=True
        )
        skip = self.gradients.check(norm)
        self.grad_norm = norm
        self.interval.count(loss, skip, *details)
        skipped = None if self.deferred else bool(skip)
        for group in self.optimiser.param_groups:
            group["lr"] = optim.rate(self.recipe.optim, step, self.recipe.train.steps)
        # Without scaler.step, which checks for infinite gradients only.
        if self._skips_on_device:
            # GradScaler makes fused optimisers skip in this way; torch does not declare the
            # attribute.
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
        """Check that all gradients up to step number ``step`` were good.

        Args:
            loss: a mean loss, which must be finite, too.

        Raises:
            NonFiniteError: some were not good; on all ranks. Weights and optimiser are as if those
                steps had not happened.
        """
        problems = []
        if loss is not None and not math.isfinite(loss):
            problems.append(f"the loss is {loss}")
        if self.scaler.is_enabled() and self.scaler.get_scale() < _SMALLEST_SCALE:
            problems.append("the gradient overflows at any scale")
        if self.gradients.bad():
            problems.append(f"the gradient's norm is {float(self.grad_norm):.4g}")
        if problems:
            raise NonFiniteError(
                f"step {step}: not finite or exploding: {problems[0]}; nothing was changed by it. "
                "Lower optim.lr, or set optim.grad_clip."
            )

    def take_scalars(self) -> dict[str, float]:
        """The values to plot, over the steps since the last call. Waits for the device.

        These are the values of `Interval.take`, the gradient norm of the last step before clipping,
        the learning rate, the loss scale, and the peak memory in GiB of the GPU, or of the process
        on the CPU.
        """
        scalars = self.interval.take()
        scalars["grad_norm"] = float(self.grad_norm)
        scalars["lr"] = self.optimiser.param_groups[0]["lr"]
        scalars["memory_gib"] = distributed.peak_memory(self.ranks.device) / 2**30
        if self.scaler.is_enabled():
            scalars["loss_scale"] = self.scaler.get_scale()
        return scalars

    def close(self) -> None:
        """Stop reading ahead."""
        self.source.close()

    def state_dict(self) -> State:
        """Everything the next step depends on."""
        state = {
            "model": self.net.state_dict(),
            "ema": self.ema.state_dict(),
            "optimiser": optim.portable(self.optimiser.state_dict()),
            "scaler": self.scaler.state_dict(),
            "gradients": self.gradients.state_dict(),
            "form": to_plain(form_of(self.source)),
        }
        if self.classes is not None:
            state["classes"] = to_plain(self.classes)
        return state | self.averages_dict()

    def averages_dict(self) -> State:
        """The content of a snapshot: the model's digest, and the power-function averages if any."""
        state: State = {"model_digest": self.recipe.model_digest()}
        if power := self.power.state_dict():
            state["power"] = power
        return state

    def load_state_dict(self, state: State) -> None:
        """Continue from the state of a checkpoint.

        Raises:
            CheckpointError: its names or shapes are not those of this recipe's network, or its
                classes or examples are not those of the data.
        """
        self._require_same_classes(state)
        self._continue_with_form(state)
        try:
            self.net.load_state_dict(state["model"], strict=True)
            self.ema.load_state_dict(state["ema"])
            self.power.load_state_dict(state.get("power"), state.get("step", 0))
            optim.load(self.optimiser, state["optimiser"])
            # Empty if the checkpoint was imported or trained in another precision: then the scaler
            # finds its scale again.
            if state["scaler"]:
                self.scaler.load_state_dict(state["scaler"])
            if "gradients" in state:
                self.gradients.load_state_dict(state["gradients"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"the checkpoint does not fit the recipe: {error}. Resume with the recipe that "
                "wrote it."
            ) from error

    def _backward(self, step: int) -> tuple[Tensor, tuple[Tensor, Tensor, float]]:
        """Gradients of the mean loss over the global batch.

        Returns:
            This rank's share of that loss, and the last arguments of `Interval.count`: its times,
            its losses, and its wait for data.
        """
        train = self.recipe.train
        device = self.ranks.device
        self.interval.begin()
        rows = self.ranks.rows(train.batch_size)
        x, label = self._examples(step, rows)
        wait_s = self.source.wait_s
        noise = seeds.generator(*self._key, step, "noise", device=device)
        draws = self.loss.draw(noise, train.batch_size, self.source.shape, device).rows(rows)
        if self._augment > 0:
            generator = seeds.generator(*self._key, step, "augment")
            side = self.source.shape[-1]
            transformations = draw_transformations(generator, train.batch_size, side, self._augment)
            transformations = transformations.rows(rows).on(device)
            x = transformations.apply(x)
            draws = replace(draws, augmented=transformations.conditions)
        if self._dropout:
            torch.manual_seed(seeds.key_of(*self._key, step, "dropout", self.ranks.rank))
        shares = []
        plain = []
        size = train.micro_batch or len(x)
        starts = range(0, len(x), size)
        for start in starts:
            part = slice(start, start + size)
            is_last = start == starts[-1]
            # DDP sums gradients over the ranks in the last backward pass alone.
            is_summed = is_last or self.ranks.world_size == 1
            with nullcontext() if is_summed else self._model.net.no_sync():
                score = self.score if label is None else Conditional(self.score, label[part])
                losses = self.loss.losses(score, x[part], draws.rows(part))
                # DDP averages over the ranks. Their shares may differ by a row, so the mean is over
                # rows.
                loss = losses.weighted.sum() * (self.ranks.world_size / train.batch_size)
                if is_last:
                    self.interval.exchange()
                self.scaler.scale(loss).backward()
            shares.append(loss.detach())
            plain.append(losses.plain)
        return sum(shares[1:], start=shares[0]), (draws.t, torch.cat(plain), wait_s)

    def _examples(self, step: int, rows: slice) -> tuple[Tensor, Tensor | None]:
        """This rank's rows of a step's batch, and the labels that the network gets, if any."""
        size = self.recipe.train.batch_size
        device = self.ranks.device
        if self.classes is None:
            return seeds.delivered(self.source.batch(*self._key, step, size, rows), device), None
        x, label = self.source.labelled_batch(*self._key, step, size, rows)
        uniform = torch.rand(size, generator=seeds.generator(*self._key, step, "labels"))[rows]
        dropped = uniform < self.recipe.objective.label_dropout
        label = label.masked_fill(dropped.to(label.device), self.classes.none)
        return seeds.delivered(x, device), seeds.delivered(label, device)

    def _continue_with_form(self, state: State) -> None:
        if "form" not in state:
            return
        form = from_plain(DataFormat, state["form"])
        if form.shape != self.source.shape:
            raise CheckpointError(
                f"the examples have shape {self.source.shape}, and {form.shape} when the run "
                "began. Put the data back, or start a new run."
            )
        use_form(self.source, form)

    def _require_same_classes(self, state: State) -> None:
        names = None if self.classes is None else list(self.classes.names)
        before = state.get("classes", {}).get("names")
        if before != names:
            raise CheckpointError(
                "the classes of the data are others than when the run began: "
                f"{one_line(', '.join(map(str, before or ['none'])))}. "
                "Prepare the data as they were, or start a new run."
            )


class GradientFilter:
    """Separates good gradients from non-finite and exploding ones, by their norm before clipping.

    A gradient scaler finds its scale by provoking norms that are not finite: such a step is
    skipped, but harmless. `bad` counts the harmful steps.

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
        """Whether to skip the step with a gradient of this norm; a bool scalar on the device."""
        infinite = ~torch.isfinite(norm)
        exploded = (norm > self._growth * self._mean) & (self._good >= _SETTLED) & ~infinite
        skip = infinite | exploded
        self._bad += exploded if self._scaled else skip
        weight = torch.clamp(1.0 / (self._good + 1.0), min=1.0 / _MEMORY)
        self._mean.copy_(
            torch.where(skip, self._mean, torch.lerp(self._mean, norm.float(), weight))
        )
        self._good += ~skip
        return skip

    def bad(self) -> int:
        """The number of harmful steps. Waits for the device."""
        return int(self._bad)

    def state_dict(self) -> Tensors:
        return {"mean": self._mean, "good": self._good}

    def load_state_dict(self, state: Tensors) -> None:
        self._mean.copy_(state["mean"])
        self._good.copy_(state["good"])


def replicated(net: nn.Module, spec: TrainSpec, ranks: Ranks) -> Any:
    """``net`` on the device, wrapped for its ranks, compiled, and in the precision of the recipe.

    ``net`` keeps the parameters. With more than one rank, the ``net`` of what is returned has
    `no_sync`, as `DistributedDataParallel` (DDP) does.
    """
    device = ranks.device
    net.to(device)
    execution.store(net, channels_last=spec.channels_last)
    if ranks.world_size > 1:
        net = DistributedDataParallel(
            net,
            device_ids=[device] if device.type == "cuda" else None,
            **_FIXED_BUFFERS,
            bucket_cap_mb=spec.bucket_mb,
            gradient_as_bucket_view=True,
            # Every parameter takes part in every backward pass, but with accumulation the passes
            # differ, and compiled graphs that are cut do not allow it (pytorch issue 109261).
            static_graph=spec.micro_batch is None and not spec.compile,
        )
    # Compiled after it is wrapped, torch cuts the graph where DDP's buckets end. In one piece, all
    # gradients would be ready at the end of the backward pass, and none could be sent before.
    if spec.compile:
        net = execution.compiled(net)
    return execution.Autocast(net, device, spec.precision, channels_last=spec.channels_last)


@dataclass(frozen=True)
class Transformations:
    """The transformations of a batch of B images: mirror, then shift, then warp about the centre.

    This is non-leaking augmentation (docs/math.md 4.2): the network is conditioned on the
    transformations. They are those of Karras et al. 2022 (arXiv 2206.00364, appendix F.2), after
    Karras et al. 2020 (arXiv 2006.06676). Each is applied independently with the same probability,
    and its conditions are 0 if it is not applied. Samples are drawn with zeros, so they look like
    untransformed images.
    """

    flipped: Tensor  # (B, 2), bool: left to right, and upside down
    shift: Tensor  # (B, 2), int64: whole pixels to the right and down
    warped: Tensor  # (B,), bool
    sources: Tensor  # (B, 2, 2): maps a position relative to the centre to that of its source pixel
    conditions: Tensor  # (B, CONDITIONS): what the network is conditioned on

    def rows(self, rows: slice) -> "Transformations":
        """The transformations of the images ``rows`` of the batch."""
        return Transformations(*(part[rows] for part in vars(self).values()))

    def on(self, device: torch.device) -> "Transformations":
        """The same transformations on a device, without waiting for it."""
        return Transformations(*(seeds.delivered(part, device) for part in vars(self).values()))

    def apply(self, x: Tensor) -> Tensor:
        """The transformed images x (B, C, S, S), padded by reflection.

        Mirrored and shifted images are exact. Warped ones are interpolated (bicubic) and stay
        within [-1, 1].
        """
        for side, dim in ((0, 3), (1, 2)):
            x = x.gather(dim, _spread(self._places(x.shape[dim], side), dim).expand(x.shape))
        grid = functional.affine_grid(
            functional.pad(self.sources, (0, 1)).to(x.dtype), list(x.shape), align_corners=False
        )
        warped = functional.grid_sample(
            x, grid, mode="bicubic", padding_mode="reflection", align_corners=False
        )
        return torch.where(self.warped[:, None, None, None], warped.clamp(-1.0, 1.0), x)

    def _places(self, size: int, side: int) -> Tensor:
        """The indices (B, size) of the pixels that move to place 0, 1, ... in a row or column."""
        places = torch.arange(size, device=self.shift.device) - self.shift[:, side, None]
        places = torch.remainder(places, 2 * size)
        places = torch.minimum(places, 2 * size - 1 - places)
        return torch.where(self.flipped[:, side, None], size - 1 - places, places)


def draw_transformations(
    generator: torch.Generator, batch: int, size: int, probability: float
) -> Transformations:
    """Transformations of a batch of square images of side ``size``.

    Each of these six has the same ``probability``: mirror left to right; mirror upside down; shift
    by N(0, (size / 8)^2) in both directions, rounded to pixels; scale by 2^N(0, 0.2^2); rotate by
    any angle; stretch by 2^N(0, 0.2^2) along any direction, and by the inverse across it.
    """
    is_made = torch.rand(batch, 6, generator=generator) < probability
    normal = torch.randn(batch, 4, generator=generator)
    angles = (2.0 * torch.rand(batch, 2, generator=generator) - 1.0) * math.pi
    unit = _SHIFT * size
    shift = torch.where(is_made[:, 2:3], (normal[:, :2] * unit).round(), 0.0)
    scale = torch.where(is_made[:, 3], normal[:, 2], 0.0)
    turn = torch.where(is_made[:, 4], angles[:, 0], 0.0)
    stretch = torch.where(is_made[:, 5], normal[:, 3], 0.0)
    # A direction and its opposite are the same: only twice the angle counts.
    double = 2.0 * angles[:, 1]
    axis = torch.stack([double.cos(), double.sin()], dim=1)
    similarity = torch.stack([scale, turn.cos() - 1.0, turn.sin()], dim=1)
    flips = is_made[:, :2].float()
    conditions = torch.cat([flips, shift / unit, similarity, stretch[:, None] * axis], dim=1)
    assert conditions.shape[1] == CONDITIONS, f"{conditions.shape[1]} are not {CONDITIONS}"
    sources = _inverse_map(scale, turn, stretch, axis)
    return Transformations(
        flipped=is_made[:, :2],
        shift=shift.long(),
        warped=is_made[:, 3:].any(1),
        sources=sources,
        conditions=conditions,
    )


def _inverse_map(scale: Tensor, turn: Tensor, stretch: Tensor, axis: Tensor) -> Tensor:
    """The inverse (B, 2, 2) of a map: scale and stretch, in units of `_OCTAVES`, then turn."""
    octave = _OCTAVES * math.log(2.0)
    cosine = turn.cos()
    sine = turn.sin()
    back = _matrix(cosine, sine, -sine, cosine)
    # The exponential of a symmetric matrix without trace.
    even = (-octave * stretch).cosh()
    odd = (-octave * stretch).sinh()
    cross = odd * axis[:, 1]
    narrow = _matrix(even + odd * axis[:, 0], cross, cross, even - odd * axis[:, 0])
    return (-octave * scale).exp()[:, None, None] * (narrow @ back)


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.stack([a, b, c, d], dim=1).view(-1, 2, 2)


def _spread(places: Tensor, dim: int) -> Tensor:
    """Reshape indices (B, size) to index along dimension ``dim`` of (B, C, H, W)."""
    return places[:, None, None, :] if dim == 3 else places[:, None, :, None]
