"""NCSN++: the U-Net for images of Song et al. 2021 (arXiv 2011.13456, appendix H).

On the way down, every resolution has `blocks` residual blocks, each followed by attention if configured, and then
one that halves the resolution. Each of them passes its output to the way up, which has one more block at every
resolution, takes those outputs in reverse order, and ends with attention (if configured) and a block that doubles
the resolution. "Progressive" inputs and outputs are resampled images that enter and leave at every resolution.

All layers are in one list, `all_modules`, in the order of their use: together with the names inside the layers,
this gives the state dict of the published checkpoints. Only the layers of the published models could be checked
against such checkpoints; the positions of the others (ddpm blocks, input_skip, progressive outputs) follow the same
rule, order of use.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cld_core.config.network import CONDITIONS, NcsnppSpec
from cld_core.errors import RecipeError

from .labels import embedding
from .layers import (
    ACTIVATIONS,
    Attention,
    Combine,
    ConvResample,
    Direction,
    FourierEmbedding,
    Resample,
    ResBlock,
    conv,
    dense,
    group_norm,
    positional_embedding,
    scaled_sum,
)


@dataclass(frozen=True, kw_only=True)
class _Level:
    """One resolution of one direction: the positions of its layers in `all_modules`, None for those it lacks."""

    blocks: tuple[int, ...]
    attention: tuple[int | None, ...]
    resample: int | None = None
    merge: int | None = None
    read_out: tuple[int, ...] = ()


class Ncsnpp(nn.Module):
    """The network alpha(u, t): u (B, channels_in, S, S), t (B,) in (0, 1] -> (B, channels_out, S, S), S = image_size.

    Args:
        spec: the recipe's `network` section.
        channels_in: channels of u, nC; by default 2 `spec.image_channels`.
        channels_out: mC; by default `spec.image_channels`.
        classes: number of labels, whose embeddings are added to that of the time; 0: none.
    """

    def __init__(
        self, spec: NcsnppSpec, channels_in: int | None = None, channels_out: int | None = None, classes: int = 0
    ) -> None:
        super().__init__()
        self.spec = spec
        self.channels_in = channels_in or 2 * spec.image_channels
        self.channels_out = channels_out or spec.image_channels
        self.act = ACTIVATIONS[spec.nonlinearity]
        self.skip_scale = math.sqrt(0.5) if spec.skip_rescale else 1.0
        self.all_modules = nn.ModuleList()
        self._fir = spec.fir_kernel if spec.fir else None
        self.image_down = Resample("down", self._fir) if spec.progressive_input == "input_skip" else None
        self.image_up = Resample("up", self._fir) if spec.progressive_output == "output_skip" else None

        self._embedding = self._add_embedding()
        self._first = self._add(conv(self.channels_in, spec.channels, 3))
        self._down, skips, channels = self._add_down()
        self._middle = (
            self._add(ResBlock(spec, channels, channels)),
            self._add(self._attention(channels)),
            self._add(ResBlock(spec, channels, channels)),
        )
        self._up, channels = self._add_up(skips, channels)
        self._last = () if self.image_up else self._add_read_out(channels, self.channels_out, spec.init_scale)
        self.label_embedding = embedding(classes, 4 * spec.channels, zero=True)
        self.augmentation = dense(CONDITIONS, 4 * spec.channels, bias=False) if spec.augment > 0 else None

    def forward(self, u: Tensor, t: Tensor, *label: Tensor, augmented: Tensor | None = None) -> Tensor:
        """The result has the type of u, even under autocast; t may have any floating type, and float64 is kept.

        Args:
            augmented: how images were changed (B, 9), as in `cld_core.augment`; None: they were not. Only networks with
                `spec.augment` take it.

        Raises:
            ValueError: u does not have the shape that the network was built for.
        """
        size = self.spec.image_size
        if u.ndim != 4 or u.shape[1:] != (self.channels_in, size, size):
            raise ValueError(
                f"NCSN++ got u of shape {tuple(u.shape)}, but was built for (B, {self.channels_in}, {size}, {size}): "
                "set network.image_size and network.image_channels to those of the data"
            )
        temb = self.embed(t, *label, augmented=augmented)
        h, skips = self._go_down(u, temb)
        h = self._run(self._middle[0], h, temb)
        h = self.all_modules[self._middle[1]](h)
        h = self._run(self._middle[2], h, temb)
        return self._go_up(h, skips, temb).to(u.dtype)

    def embed(self, t: Tensor, *label: Tensor, augmented: Tensor | None = None) -> Tensor:
        """Time and label, (B,) each, in the form that every residual block gets: (B, 4 channels), of the weights' type.

        With `spec.augment`, how images were changed is added.

        Autocast does not apply: in half precision near times would look the same, and sampling, which is in float32,
        would see other embeddings than training.
        """
        *features, first, second = (self.all_modules[place] for place in self._embedding)
        with torch.autocast(t.device.type, enabled=False):
            temb = features[0](t) if features else positional_embedding(t, self.spec.channels)
            hidden = second(self.act(first(temb.to(next(first.parameters()).dtype))))
            if self.label_embedding is not None:
                hidden = hidden + self.label_embedding.of(t, label)
            if self.augmentation is not None:
                # Also where it adds nothing: DDP expects a gradient of every parameter.
                told = hidden.new_zeros(len(t), CONDITIONS) if augmented is None else augmented.to(hidden.dtype)
                hidden = hidden + self.augmentation(told)
            return self.act(hidden)

    def _go_down(self, u: Tensor, temb: Tensor) -> tuple[Tensor, list[Tensor]]:
        h = self.all_modules[self._first](u)
        image, skips = u, [h]
        for level in self._down:
            for block, attention in zip(level.blocks, level.attention, strict=True):
                h = self._run(block, h, temb)
                if attention is not None:
                    h = self.all_modules[attention](h)
                skips.append(h)
            if level.resample is not None:
                h = self._run(level.resample, h, temb)
                if level.merge is not None and self.image_down is not None:
                    image = self.image_down(image)
                    h = self.all_modules[level.merge](h, image)
                elif level.merge is not None:
                    h = image = scaled_sum(h, self.all_modules[level.merge](image), self.skip_scale)
                skips.append(h)
        return h, skips

    def _go_up(self, h: Tensor, skips: list[Tensor], temb: Tensor) -> Tensor:
        image: Tensor | None = None
        for level in self._up:
            for block in level.blocks:
                h = self._run(block, torch.cat([h, skips.pop()], dim=1), temb)
            for attention in level.attention:
                if attention is not None:
                    h = self.all_modules[attention](h)
            if self.image_up is not None:
                part = self._read_out(level.read_out, h)
                image = part if image is None else self.image_up(image) + part
            elif level.read_out:
                image = self._read_out(level.read_out, h)
            elif level.merge is not None:
                h = image = scaled_sum(h, self.all_modules[level.merge](image), self.skip_scale)
            if level.resample is not None:
                h = self._run(level.resample, h, temb)
        assert not skips, f"{len(skips)} outputs of the way down were not used"
        if self._last:
            return self._read_out(self._last, h)
        assert image is not None, "a network without a last layer adds up its output level by level"
        return image

    def _run(self, place: int, h: Tensor, temb: Tensor) -> Tensor:
        return self.all_modules[place](h, temb)

    def _read_out(self, places: tuple[int, ...], h: Tensor) -> Tensor:
        norm, layer = (self.all_modules[place] for place in places)
        return layer(self.act(norm(h)))

    # Building: each of these appends layers to `all_modules` and returns their positions.

    def _add(self, layer: nn.Module) -> int:
        self.all_modules.append(layer)
        return len(self.all_modules) - 1

    def _add_embedding(self) -> tuple[int, ...]:
        spec, width = self.spec, 4 * self.spec.channels
        if spec.embedding == "positional":
            return self._add(dense(spec.channels, width)), self._add(dense(width, width))
        fourier = self._add(FourierEmbedding(spec.channels, spec.fourier_scale))
        return fourier, self._add(dense(2 * spec.channels, width)), self._add(dense(width, width))

    def _add_down(self) -> tuple[list[_Level], list[int], int]:
        """The levels of the way down, the channels that each skip connection carries, and the channels at the end."""
        spec, channels, image_channels = self.spec, self.spec.channels, self.channels_in
        levels, skips = [], [channels]
        for level, multiplier in enumerate(spec.multipliers):
            blocks, attention = [], []
            for _ in range(spec.blocks):
                blocks.append(self._add(ResBlock(spec, channels, multiplier * spec.channels)))
                channels = multiplier * spec.channels
                attention.append(self._add_attention(channels, level))
                skips.append(channels)
            resample = merge = None
            if level < len(spec.multipliers) - 1:
                resample = self._add_resample("down", channels)
                if spec.progressive_input == "input_skip":
                    merge = self._add(Combine(image_channels, channels, spec.combine))
                    channels *= 2 if spec.combine == "cat" else 1
                elif spec.progressive_input == "residual":
                    merge = self._add(ConvResample("down", self._fir, image_channels, channels))
                    image_channels = channels
                skips.append(channels)
            levels.append(_Level(blocks=tuple(blocks), attention=tuple(attention), resample=resample, merge=merge))
        return levels, skips, channels

    def _add_up(self, skips: list[int], channels: int) -> tuple[list[_Level], int]:
        """The levels of the way up, lowest resolution first, and the channels at the end; empties `skips`."""
        spec, levels, image_channels = self.spec, [], 0
        lowest = len(spec.multipliers) - 1
        for level in reversed(range(lowest + 1)):
            blocks = []
            for _ in range(spec.blocks + 1):
                blocks.append(
                    self._add(ResBlock(spec, channels + skips.pop(), spec.multipliers[level] * spec.channels))
                )
                channels = spec.multipliers[level] * spec.channels
            attention = self._add_attention(channels, level)
            merge: int | None = None
            read_out: tuple[int, ...] = ()
            if spec.progressive_output == "output_skip":
                read_out = self._add_read_out(channels, self.channels_out, spec.init_scale)
            elif spec.progressive_output == "residual" and lowest > 0:
                if level == lowest:
                    read_out = self._add_read_out(channels, channels, 1.0)
                else:
                    merge = self._add(ConvResample("up", self._fir, image_channels, channels))
                image_channels = channels
            resample = self._add_resample("up", channels) if level else None
            levels.append(
                _Level(
                    blocks=tuple(blocks),
                    attention=(attention,),
                    resample=resample,
                    merge=merge,
                    read_out=read_out,
                )
            )
        return levels, channels

    def _attention(self, channels: int) -> Attention:
        return Attention(channels, skip_rescale=self.spec.skip_rescale, init_scale=self.spec.init_scale)

    def _add_attention(self, channels: int, level: int) -> int | None:
        wanted = self.spec.resolutions[level] in self.spec.attention
        return self._add(self._attention(channels)) if wanted else None

    def _add_resample(self, direction: Direction, channels: int) -> int:
        spec = self.spec
        if spec.resblock == "biggan":
            return self._add(ResBlock(spec, channels, channels, direction))
        if spec.resample_with_conv:
            return self._add(ConvResample(direction, self._fir, channels, channels))
        return self._add(Resample(direction, self._fir))

    def _add_read_out(self, channels: int, channels_out: int, scale: float) -> tuple[int, int]:
        return self._add(group_norm(channels)), self._add(conv(channels, channels_out, 3, scale))


def build(spec: NcsnppSpec, data_shape: tuple[int, ...], halves_in: int, halves_out: int, classes: int = 0) -> Ncsnpp:
    """The network of a recipe; see `cld_core.nets.build`."""
    wanted = (spec.image_channels, spec.image_size, spec.image_size)
    if data_shape != wanted:
        raise RecipeError(
            f"network ncsnpp takes images of shape {wanted}, but the data have shape {data_shape}. "
            "Set network.image_size and network.image_channels to those of the data."
        )
    return Ncsnpp(spec, halves_in * spec.image_channels, halves_out * spec.image_channels, classes)
