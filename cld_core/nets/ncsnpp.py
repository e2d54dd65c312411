"""NCSN++: the U-Net for images of Song et al. 2021, and the same in one dimension.

See arXiv 2011.13456, appendix H. On the way down, every resolution has `blocks` residual blocks,
each followed by attention if configured, and then one that halves the resolution. Each of them
passes its output to the way up. That has one more block at every resolution, takes the outputs in
reverse order, and ends with attention (if configured) and a block that doubles the resolution.
"Progressive" inputs and outputs are resampled images that enter and leave at every resolution.

All layers are in one list, `all_modules`, in the order of their use. With the names inside the
layers, this gives the state dict of the published checkpoints. Only the layers of the published
models could be checked against such checkpoints; the positions of the others (ddpm blocks,
input_skip, progressive outputs) follow the same rule.

Shapes are given for images, (B, C, H, W); with one dimension they are (B, C, L), and filters have
one axis less.

Weights start uniform with variance scale / fan_avg and biases at zero (Ho et al. 2020, appendix B).
Attribute names such as `GroupNorm_0` and `NIN_3` are those of the published checkpoints, which are
loaded with strict names.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cld_core.config.network import CONDITIONS, UnetSpec

from . import embedding

Activation = Callable[[Tensor], Tensor]
Direction = Literal["down", "up"]

ACTIVATIONS: dict[str, Activation] = {
    "swish": F.silu,
    "relu": F.relu,
    "elu": F.elu,
    "lrelu": partial(F.leaky_relu, negative_slope=0.2),
}


# Convolutions, by the number of axes of a batch.
CONVOLVE: dict[int, Callable[..., Tensor]] = {3: F.conv1d, 4: F.conv2d}
TRANSPOSED: dict[int, Callable[..., Tensor]] = {3: F.conv_transpose1d, 4: F.conv_transpose2d}


def init_uniform_(weight: Tensor, scale: float = 1.0) -> None:
    """Fill (out, in, ...) with uniform numbers of variance scale / fan_avg; scale 0 means 1e-10.

    With exact zeros, the preceding layer would get no gradient in the first step.
    """
    receptive = math.prod(weight.shape[2:])
    fan_avg = receptive * (weight.shape[0] + weight.shape[1]) / 2
    bound = math.sqrt(3 * (scale or 1e-10) / fan_avg)
    nn.init.uniform_(weight, -bound, bound)


def conv(
    channels_in: int, channels_out: int, size: int, scale: float = 1.0, *, axes: int
) -> nn.Conv1d | nn.Conv2d:
    """A convolution that keeps the resolution: (B, channels_in, H, W) -> (B, channels_out, H, W).

    `size` is odd.
    """
    made = nn.Conv2d if axes == 3 else nn.Conv1d
    layer = made(channels_in, channels_out, size, padding=size // 2)
    init_uniform_(layer.weight, scale)
    assert layer.bias is not None, "convolutions have a bias by default"
    nn.init.zeros_(layer.bias)
    return layer


def dense(features_in: int, features_out: int, *, bias: bool = True) -> nn.Linear:
    """A linear layer: (B, features_in) -> (B, features_out)."""
    layer = nn.Linear(features_in, features_out, bias=bias)
    init_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with groups of at least four channels and at most 32 groups.

    If `channels` is not a multiple of that number, the next smaller divisor is used.
    """
    most = max(1, min(channels // 4, 32))
    groups = next(n for n in range(most, 0, -1) if channels % n == 0)
    return nn.GroupNorm(groups, channels, eps=1e-6)


def spread(numbers: Tensor, like: Tensor) -> Tensor:
    """(..., C) -> (..., C, 1, 1), to be added to features ``like`` (B, C, H, W)."""
    return numbers.view(*numbers.shape, *[1] * (like.ndim - 2))


def fold(x: Tensor, size: int) -> Tensor:
    """Make channels of squares of pixels: (B, C, H, W) -> (B, C size^2, H/size, W/size)."""
    if x.ndim == 4:
        return F.pixel_unshuffle(x, size)
    return x.unflatten(2, (-1, size)).transpose(2, 3).flatten(1, 2)


def unfold(x: Tensor, size: int) -> Tensor:
    """The inverse of `fold`."""
    if x.ndim == 4:
        return F.pixel_shuffle(x, size)
    return x.unflatten(1, (-1, size)).transpose(2, 3).flatten(2)


def scaled_sum(x: Tensor, h: Tensor, scale: float) -> Tensor:
    """(x + h) * scale, for tensors of one shape."""
    return x + h if scale == 1.0 else (x + h) * scale


class FourierEmbedding(nn.Module):
    """Random Fourier features of log t (Tancik et al. 2020): sin and cos of 2 pi W log t.

    W is drawn once from N(0, scale^2) and then frozen; it is part of the state and is restored from
    checkpoints.
    """

    def __init__(self, size: int, scale: float) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(size) * scale, requires_grad=False)

    def forward(self, t: Tensor) -> Tensor:
        """t (B,) in (0, 1] -> (B, 2 size) in float64: at small t the phase is thousands of
        radians."""
        phase = 2 * math.pi * torch.outer(t.double().log(), self.W.double())
        return torch.cat([phase.sin(), phase.cos()], dim=1)


def positional_embedding(t: Tensor, size: int) -> Tensor:
    """The sinusoids of DDPM, with wavelengths from 2 pi to 20000 pi, of t itself.

    The published CelebA-HQ models do not multiply t by a number of steps first, so only the first
    few sinusoids vary over [0, 1]; their checkpoints need exactly this.

    t (B,) in [0, 1] -> (B, size) in float64; `size` is even and at least 4.
    """
    half = size // 2
    exponent = torch.arange(half, device=t.device, dtype=torch.float64) / (half - 1)
    phase = torch.outer(t.double(), torch.exp(-math.log(10000) * exponent))
    return torch.cat([phase.sin(), phase.cos()], dim=1)


class NIN(nn.Module):
    """The same linear map at every position ("network in network"), W (in, out)."""

    def __init__(self, channels_in: int, channels_out: int, scale: float = 0.1) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(channels_in, channels_out))
        self.b = nn.Parameter(torch.zeros(channels_out))
        init_uniform_(self.W, scale)

    def forward(self, x: Tensor) -> Tensor:
        """Channels last: (..., channels_in) -> (..., channels_out)."""
        return F.linear(x, self.W.T, self.b)


class Attention(nn.Module):
    """Self-attention of the pixels of (B, C, H, W), one head, with a residual connection.

    It can be differentiated once, because the fused kernels of PyTorch have no second derivative.
    For that (through a gradient), run the forward pass inside
    `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`.
    """

    def __init__(self, spec: UnetSpec, channels: int) -> None:
        super().__init__()
        self.GroupNorm_0 = group_norm(channels)
        self.NIN_0 = NIN(channels, channels)
        self.NIN_1 = NIN(channels, channels)
        self.NIN_2 = NIN(channels, channels)
        self.NIN_3 = NIN(channels, channels, spec.init_scale)
        self.skip_scale = spec.skip_scale

    def forward(self, x: Tensor) -> Tensor:
        # (B, heads = 1, H W, C): a view if x is channels_last.
        pixels = self.GroupNorm_0(x).flatten(2).transpose(1, 2).unsqueeze(1)
        query = self.NIN_0(pixels)
        key = self.NIN_1(pixels)
        value = self.NIN_2(pixels)
        h = self.NIN_3(F.scaled_dot_product_attention(query, key, value))
        h = h.squeeze(1).transpose(1, 2).unflatten(2, x.shape[2:])
        return scaled_sum(x, h, self.skip_scale)


def fir_kernel(taps: Sequence[float], axes: int) -> Tensor:
    """The separable filter with these taps, normalised to sum 1: (K, K), K = len(taps) even."""
    h = torch.tensor(taps, dtype=torch.get_default_dtype())
    h = h / h.sum()
    return torch.outer(h, h) if axes == 3 else h


def fir_filter(
    x: Tensor, kernel: Tensor, *, stride: int, padding: int, transposed: bool = False
) -> Tensor:
    """Every channel of x (B, C, H, W) convolved with the same kernel (K, K): (B, C, H', W')."""
    channels = x.shape[1]
    convolve = (TRANSPOSED if transposed else CONVOLVE)[x.ndim]

    def filtered(x: Tensor) -> Tensor:
        weight = kernel.to(x.dtype).expand(channels, 1, *kernel.shape).contiguous()
        return convolve(x, weight, stride=stride, padding=padding, groups=channels)

    if x.device.type != "cpu":
        return filtered(x)
    # The 16-bit depthwise kernels of CPUs are up to thirty times slower than casting to float32 and
    # back.
    with torch.autocast("cpu", enabled=False):
        return filtered(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)


class Resample(nn.Module):
    """Halve or double the resolution: (B, C, H, W) -> (B, C, H/2, W/2) or (B, C, 2H, 2W).

    The FIR filter is that of StyleGAN2 (Karras et al. 2020, appendix B), as used by Song et al.
    2021, appendix H: a separable filter h with sum 1, applied before every second pixel is dropped,
    or (times 4) after zeros have been inserted between the pixels. Outside the image everything is
    zero. An even number of symmetric taps keeps the centre of the image in place.

    One depthwise convolution filters and strides at once, so no pixel is computed and then dropped,
    and no inserted zero is multiplied. It can be compiled and differentiated any number of times,
    and follows the memory format.

    Args:
        direction: "down" or "up".
        fir: taps of the FIR filter; None: 2x2 average down, nearest neighbour up.
        axes: the axes of an example: 3 for images (C, H, W), 2 in one dimension.
    """

    kernel: Tensor | None

    def __init__(self, direction: Direction, fir: Sequence[float] | None, axes: int = 3) -> None:
        super().__init__()
        self.direction = direction
        kernel = None if fir is None else fir_kernel(fir, axes)
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        """`temb` is ignored: it lets a resampling layer take the place of a residual block."""
        down = self.direction == "down"
        if self.kernel is None:
            pool = F.avg_pool2d if x.ndim == 4 else F.avg_pool1d
            return pool(x, 2) if down else F.interpolate(x, scale_factor=2, mode="nearest")
        kernel = self.kernel if down else 2**self.kernel.ndim * self.kernel
        padding = len(kernel) // 2 - 1
        return fir_filter(x, kernel, stride=2, padding=padding, transposed=not down)


class ConvResample(Resample):
    """`Resample` with a learnt 3x3 convolution: (B, C, H, W) -> (B, C', H/2, W/2) or (B, C', 2H,
    2W).

    With a FIR filter: blur, then convolve with stride 2; or convolve the zero-interleaved image,
    then blur. Without: a strided convolution that pads below and to the right (as DDPM does); or
    nearest neighbour, then a convolution.

    Args:
        direction: "down" or "up".
        fir: taps of the FIR filter, or None.
        channels_in: C.
        channels_out: C'.
        axes: the axes of an example: 3 for images (C, H, W), 2 in one dimension.
    """

    def __init__(
        self,
        direction: Direction,
        fir: Sequence[float] | None,
        channels_in: int,
        channels_out: int,
        axes: int,
    ) -> None:
        super().__init__(direction, fir, axes)
        # Published checkpoints use different names for the filtered and the plain layer.
        self.layer_name = "Conv_0" if fir is None else "Conv2d_0"
        self.add_module(self.layer_name, conv(channels_in, channels_out, 3, axes=axes))

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        """`temb` is ignored: it lets a resampling layer take the place of a residual block."""
        layer = getattr(self, self.layer_name)
        weight = layer.weight
        bias = layer.bias
        down = self.direction == "down"
        convolve = CONVOLVE[x.ndim]
        if self.kernel is None:
            if down:
                return convolve(F.pad(x, (0, 1) * (x.ndim - 2)), weight, bias, stride=2)
            wide = F.interpolate(x, scale_factor=2, mode="nearest")
            return convolve(wide, weight, bias, padding=1)
        half = self.kernel.shape[0] // 2
        if down:
            blurred = fir_filter(x, self.kernel, stride=1, padding=half)
            return convolve(blurred, weight, bias, stride=2)
        flipped = weight.flip(tuple(range(2, x.ndim))).transpose(0, 1)
        interleaved = TRANSPOSED[x.ndim](x, flipped, stride=2)
        kernel = 2**self.kernel.ndim * self.kernel
        blurred = fir_filter(interleaved, kernel, stride=1, padding=half - 1)
        return blurred + spread(bias, x).to(blurred.dtype)


class ResBlock(nn.Module):
    """A residual block: (B, C, H, W) and the embedded time (B, E) -> (B, C', H', W').

    Args:
        spec: the kind of block, and its options.
        channels_in: C.
        channels_out: C'.
        resample: BigGAN blocks only: "down" or "up" changes both branches' resolution by 2.
    """

    def __init__(
        self, spec: UnetSpec, channels_in: int, channels_out: int, resample: Direction | None = None
    ) -> None:
        super().__init__()
        axes = spec.axes
        self.act = ACTIVATIONS[spec.nonlinearity]
        self.dropout = spec.dropout
        self.skip_scale = spec.skip_scale
        self.GroupNorm_0 = group_norm(channels_in)
        self.resample = None if resample is None else Resample(resample, spec.taps, axes)
        self.Conv_0 = conv(channels_in, channels_out, 3, axes=axes)
        self.Dense_0 = dense(4 * spec.channels, channels_out)
        self.GroupNorm_1 = group_norm(channels_out)
        self.Conv_1 = conv(channels_out, channels_out, 3, spec.init_scale, axes=axes)
        if channels_in != channels_out or resample is not None:
            if spec.resblock == "biggan":
                self.Conv_2 = conv(channels_in, channels_out, 1, axes=axes)
            else:
                self.NIN_0 = NIN(channels_in, channels_out)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        """`temb` (B, E) has already been through the activation."""
        h = self.act(self.GroupNorm_0(x))
        if self.resample is not None:
            h = self.resample(h)
            x = self.resample(x)
        h = self.Conv_0(h) + spread(self.Dense_0(temb), h)
        h = F.dropout(self.act(self.GroupNorm_1(h)), self.dropout, self.training)
        return scaled_sum(self._shortcut(x), self.Conv_1(h), self.skip_scale)

    def _shortcut(self, x: Tensor) -> Tensor:
        if hasattr(self, "Conv_2"):
            return self.Conv_2(x)
        if hasattr(self, "NIN_0"):
            return self.NIN_0(x.movedim(1, -1)).movedim(-1, 1)
        return x


class Combine(nn.Module):
    """Merge the input at a lower resolution into the features, through a 1x1 convolution.

    h (B, C, H, W), image (B, A, H, W) -> (B, C, H, W) for "sum", (B, 2C, H, W) for "cat".
    """

    def __init__(self, channels_image: int, channels: int, method: str, axes: int) -> None:
        super().__init__()
        self.Conv_0 = conv(channels_image, channels, 1, axes=axes)
        self.method = method

    def forward(self, h: Tensor, image: Tensor) -> Tensor:
        image = self.Conv_0(image)
        return torch.cat([image, h], dim=1) if self.method == "cat" else image + h


# Positions of a normalisation, and of the convolution after it and the activation.
ReadOut = tuple[int, int]


@dataclass(frozen=True)
class _Level:
    """The positions in `all_modules` of the layers of one resolution; None for a missing layer."""

    blocks: Sequence[tuple[int, int | None]]  # with the attention after each
    resample: int | None
    merge: int | None
    read_out: ReadOut | None = None


class Ncsnpp(nn.Module):
    """The network alpha(u, t): u (B, nC, H, W), t (B,) in (0, 1] -> (B, mC, H, W); with `spec.axes`
    of 2, (B, nC, L).

    Args:
        spec: the recipe's `network` section; the other arguments are those of
            `cld_core.nets.build`.
        classes: number of labels, whose embeddings are added to that of the time; 0: none.
    """

    def __init__(
        self,
        spec: UnetSpec,
        data_shape: tuple[int, ...],
        halves_in: int,
        halves_out: int,
        classes: int = 0,
    ) -> None:
        super().__init__()
        channels, *sides = data_shape
        self.spec = spec
        self._attends = spec.attends(data_shape[1:])
        self._shape = (halves_in * channels, *sides)
        folded = channels * spec.patch ** len(sides)
        self.channels_in = halves_in * folded
        self.channels_out = halves_out * folded
        self.act = ACTIVATIONS[spec.nonlinearity]
        self.skip_scale = spec.skip_scale
        self.all_modules = nn.ModuleList()
        self.image_down = None
        if spec.progressive_input == "input_skip":
            self.image_down = Resample("down", spec.taps, spec.axes)
        self.image_up = None
        if spec.progressive_output == "output_skip":
            self.image_up = Resample("up", spec.taps, spec.axes)

        self._embedding = self._add_embedding()
        self._first = self._add(conv(self.channels_in, spec.channels, 3, axes=spec.axes))
        self._down, skips, channels = self._add_down()
        first = self._add(ResBlock(spec, channels, channels))
        attention = self._add(Attention(spec, channels))
        self._middle = (first, attention, self._add(ResBlock(spec, channels, channels)))
        self._up, channels = self._add_up(skips, channels)
        self._last = None
        if self.image_up is None:
            self._last = self._add_read_out(channels, self.channels_out, spec.init_scale)
        self.label_embedding = embedding(classes, 4 * spec.channels)
        if self.label_embedding is not None:
            nn.init.zeros_(self.label_embedding.weight)  # it begins as a network without labels
        self.augmentation = None
        if getattr(spec, "augment", 0.0) > 0:
            self.augmentation = dense(CONDITIONS, 4 * spec.channels, bias=False)

    def forward(
        self, u: Tensor, t: Tensor, *label: Tensor, augmented: Tensor | None = None
    ) -> Tensor:
        """The result has the type of u, even under autocast. t may have any floating type.

        Args:
            augmented: how images were changed (B, 9), see `train.step.Transformations`; None: they
                were not. Only for networks with `spec.augment`.

        Raises:
            ValueError: u does not have the shape that the network was built for.
        """
        if u.shape[1:] != self._shape:
            built = ", ".join(map(str, self._shape))
            raise ValueError(
                f"{self.spec.name} got u of shape {tuple(u.shape)}, but was built for (B, {built})."
            )
        temb = self.embed(t, *label, augmented=augmented)
        patch = self.spec.patch
        h, skips = self._go_down(fold(u, patch) if patch > 1 else u, temb)
        first, attention, second = (self.all_modules[place] for place in self._middle)
        alpha = self._go_up(second(attention(first(h, temb)), temb), skips, temb).to(u.dtype)
        return unfold(alpha, patch) if patch > 1 else alpha

    def embed(self, t: Tensor, *label: Tensor, augmented: Tensor | None = None) -> Tensor:
        """The embedding of time and label, (B,) each, for the residual blocks: (B, 4 channels).

        With `spec.augment`, that of the changes of images is added. It has the type of the weights.
        Autocast does not apply: in half precision, close times would have the same embedding, and
        the embeddings of training would not be those of sampling, which is in float32.
        """
        *features, first, second = (self.all_modules[place] for place in self._embedding)
        with torch.autocast(t.device.type, enabled=False):
            temb = features[0](t) if features else positional_embedding(t, self.spec.channels)
            hidden = second(self.act(first(temb.to(next(first.parameters()).dtype))))
            if self.label_embedding is not None:
                hidden = hidden + self.label_embedding.of(t, label)
            if self.augmentation is not None:
                if augmented is None:
                    # Zeros add nothing, but DDP expects a gradient of every parameter.
                    augmented = hidden.new_zeros(len(t), CONDITIONS)
                hidden = hidden + self.augmentation(augmented.to(hidden.dtype))
            return self.act(hidden)

    def _go_down(self, u: Tensor, temb: Tensor) -> tuple[Tensor, list[Tensor]]:
        layers = self.all_modules
        h = layers[self._first](u)
        image = u
        skips = [h]
        for level in self._down:
            for block, attention in level.blocks:
                h = layers[block](h, temb)
                if attention is not None:
                    h = layers[attention](h)
                skips.append(h)
            if level.resample is not None:
                h = layers[level.resample](h, temb)
                if level.merge is not None and self.image_down is not None:
                    image = self.image_down(image)
                    h = layers[level.merge](h, image)
                elif level.merge is not None:
                    h = scaled_sum(h, layers[level.merge](image), self.skip_scale)
                    image = h
                skips.append(h)
        return h, skips

    def _go_up(self, h: Tensor, skips: list[Tensor], temb: Tensor) -> Tensor:
        layers = self.all_modules
        image = None
        for level in self._up:
            for block, attention in level.blocks:
                h = layers[block](torch.cat([h, skips.pop()], dim=1), temb)
                if attention is not None:
                    h = layers[attention](h)
            if level.read_out is not None:
                part = self._read_out(level.read_out, h)
                if image is not None and self.image_up is not None:
                    part = self.image_up(image) + part
                image = part
            elif level.merge is not None:
                h = scaled_sum(h, layers[level.merge](image), self.skip_scale)
                image = h
            if level.resample is not None:
                h = layers[level.resample](h, temb)
        assert not skips, f"{len(skips)} outputs of the way down were not used"
        if self._last is not None:
            return self._read_out(self._last, h)
        assert image is not None, "a network without a last layer adds up the levels' outputs"
        return image

    def _read_out(self, places: ReadOut, h: Tensor) -> Tensor:
        norm, layer = (self.all_modules[place] for place in places)
        return layer(self.act(norm(h)))

    # Each of these methods appends layers to `all_modules` and returns their positions.

    def _add(self, layer: nn.Module) -> int:
        self.all_modules.append(layer)
        return len(self.all_modules) - 1

    def _add_embedding(self) -> tuple[int, ...]:
        spec = self.spec
        width = 4 * spec.channels
        if spec.embedding == "positional":
            return self._add(dense(spec.channels, width)), self._add(dense(width, width))
        fourier = self._add(FourierEmbedding(spec.channels, spec.fourier_scale))
        return fourier, self._add(dense(2 * spec.channels, width)), self._add(dense(width, width))

    def _add_down(self) -> tuple[list[_Level], list[int], int]:
        """The levels of the way down, the channels of each skip connection, and those at the
        end."""
        spec = self.spec
        channels = spec.channels
        image_channels = self.channels_in
        levels: list[_Level] = []
        skips = [channels]
        for level, multiplier in enumerate(spec.multipliers):
            blocks = []
            for _ in range(spec.blocks):
                block = self._add(ResBlock(spec, channels, multiplier * spec.channels))
                channels = multiplier * spec.channels
                blocks.append((block, self._add_attention(channels, level)))
                skips.append(channels)
            resample = None
            merge = None
            if level < len(spec.multipliers) - 1:
                resample = self._add_resample("down", channels)
                if spec.progressive_input == "input_skip":
                    merge = self._add(Combine(image_channels, channels, spec.combine, spec.axes))
                    channels *= 2 if spec.combine == "cat" else 1
                elif spec.progressive_input == "residual":
                    layer = ConvResample("down", spec.taps, image_channels, channels, spec.axes)
                    merge = self._add(layer)
                    image_channels = channels
                skips.append(channels)
            levels.append(_Level(blocks, resample, merge))
        return levels, skips, channels

    def _add_up(self, skips: list[int], channels: int) -> tuple[list[_Level], int]:
        """The levels of the way up, lowest resolution first, and the channels at the end.

        It empties `skips`.
        """
        spec = self.spec
        levels: list[_Level] = []
        image_channels = 0
        lowest = len(spec.multipliers) - 1
        for level in reversed(range(lowest + 1)):
            blocks: list[tuple[int, int | None]] = []
            width = spec.multipliers[level] * spec.channels
            for left in reversed(range(spec.blocks + 1)):
                block = self._add(ResBlock(spec, channels + skips.pop(), width))
                channels = width
                blocks.append((block, None if left else self._add_attention(channels, level)))
            merge: int | None = None
            read_out: ReadOut | None = None
            if spec.progressive_output == "output_skip":
                read_out = self._add_read_out(channels, self.channels_out, spec.init_scale)
            elif spec.progressive_output == "residual" and lowest > 0:
                if level == lowest:
                    read_out = self._add_read_out(channels, channels, 1.0)
                else:
                    layer = ConvResample("up", spec.taps, image_channels, channels, spec.axes)
                    merge = self._add(layer)
                image_channels = channels
            resample = self._add_resample("up", channels) if level else None
            levels.append(_Level(blocks, resample, merge, read_out))
        return levels, channels

    def _add_attention(self, channels: int, level: int) -> int | None:
        return self._add(Attention(self.spec, channels)) if self._attends[level] else None

    def _add_resample(self, direction: Direction, channels: int) -> int:
        spec = self.spec
        if spec.resblock == "biggan":
            return self._add(ResBlock(spec, channels, channels, direction))
        if spec.resample_with_conv:
            return self._add(ConvResample(direction, spec.taps, channels, channels, spec.axes))
        return self._add(Resample(direction, spec.taps, spec.axes))

    def _add_read_out(self, channels: int, channels_out: int, scale: float) -> ReadOut:
        layer = conv(channels, channels_out, 3, scale, axes=self.spec.axes)
        return self._add(group_norm(channels)), self._add(layer)
