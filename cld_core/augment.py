"""Non-leaking augmentation: transformations of training images on which the network is conditioned (docs/math.md 4.2).

They are those of Karras et al. 2022 (arXiv 2206.00364, appendix F.2), after Karras et al. 2020 (arXiv 2006.06676). Each
is applied independently with the same probability, and the network is conditioned on numbers that are 0 if it is not.
Samples are drawn with zeros, so they look like untransformed images.
"""

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from cld_core import seeds
from cld_core.config.network import CONDITIONS

# Standard deviations: of the base-2 logarithms of scales, and of shifts as a fraction of the image size.
_OCTAVES = 0.2
_SHIFT = 0.125


@dataclass(frozen=True)
class Changes:
    """The transformations of a batch of B images, in this order: mirror, shift, and warp about the centre."""

    flipped: Tensor  # (B, 2), bool: left to right, and upside down
    shift: Tensor  # (B, 2), int64: whole pixels to the right and down
    warped: Tensor  # (B,), bool
    sources: Tensor  # (B, 2, 2): maps a position relative to the centre to that of its source pixel
    conditions: Tensor  # (B, CONDITIONS): what the network is conditioned on

    def rows(self, rows: slice) -> "Changes":
        """The transformations of the images ``rows`` of the batch."""
        return Changes(*(getattr(self, entry.name)[rows] for entry in fields(self)))

    def on(self, device: torch.device) -> "Changes":
        """The same on a device, without waiting for it."""
        return Changes(*(seeds.delivered(getattr(self, entry.name), device) for entry in fields(self)))

    def apply(self, x: Tensor) -> Tensor:
        """The transformed images x (B, C, S, S), padded by reflection.

        Mirrored and shifted images are exact. Warped ones are interpolated (bicubic) and stay within [-1, 1].
        """
        for side, dim in ((0, 3), (1, 2)):
            x = x.gather(dim, _spread(self._places(x.shape[dim], side), dim).expand(x.shape))
        grid = F.affine_grid(F.pad(self.sources, (0, 1)).to(x.dtype), list(x.shape), align_corners=False)
        warped = F.grid_sample(x, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
        return torch.where(self.warped[:, None, None, None], warped.clamp(-1.0, 1.0), x)

    def _places(self, size: int, side: int) -> Tensor:
        """The indices (B, size) of the pixels of a row or column that move to the positions 0, 1, ..."""
        places = torch.arange(size, device=self.shift.device) - self.shift[:, side, None]
        places = torch.remainder(places, 2 * size)
        places = torch.minimum(places, 2 * size - 1 - places)
        return torch.where(self.flipped[:, side, None], size - 1 - places, places)


def draw(generator: torch.Generator, batch: int, size: int, probability: float) -> Changes:
    """Transformations of a batch of square images of side ``size``, each of the six with this ``probability``.

    Mirror left to right; mirror upside down; shift by N(0, (size / 8)^2) in both directions, rounded to pixels; scale
    by 2^N(0, 0.2^2); rotate by any angle; stretch by 2^N(0, 0.2^2) along any direction, and by the inverse across it.
    """
    made = torch.rand(batch, 6, generator=generator) < probability
    normal = torch.randn(batch, 4, generator=generator)
    angles = (2.0 * torch.rand(batch, 2, generator=generator) - 1.0) * math.pi
    unit = _SHIFT * size
    shift = torch.where(made[:, 2:3], (normal[:, :2] * unit).round(), 0.0)
    scale, turn, stretch = (
        torch.where(made[:, kind], number, 0.0)
        for kind, number in ((3, normal[:, 2]), (4, angles[:, 0]), (5, normal[:, 3]))
    )
    # A direction and its opposite are the same: only twice its angle counts.
    axis = torch.stack([(2.0 * angles[:, 1]).cos(), (2.0 * angles[:, 1]).sin()], dim=1)
    conditions = torch.cat(
        [
            made[:, :2].float(),
            shift / unit,
            torch.stack([scale, turn.cos() - 1.0, turn.sin()], dim=1),
            stretch[:, None] * axis,
        ],
        dim=1,
    )
    assert conditions.shape == (batch, CONDITIONS), f"{conditions.shape[1]} conditions, not {CONDITIONS}"
    sources = _inverse_map(scale, turn, stretch, axis)
    return Changes(made[:, :2], shift.long(), made[:, 3:].any(1), sources, conditions)


def _inverse_map(scale: Tensor, turn: Tensor, stretch: Tensor, axis: Tensor) -> Tensor:
    """(B, 2, 2), the inverse of: scale and stretch, both in units of `_OCTAVES`, then turn."""
    octave = _OCTAVES * math.log(2.0)
    cosine, sine = turn.cos(), turn.sin()
    back = _matrix(cosine, sine, -sine, cosine)
    # The exponential of a symmetric matrix without trace.
    grow, differ = (-octave * stretch).cosh(), (-octave * stretch).sinh()
    narrow = _matrix(grow + differ * axis[:, 0], differ * axis[:, 1], differ * axis[:, 1], grow - differ * axis[:, 0])
    return (-octave * scale).exp()[:, None, None] * (narrow @ back)


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.stack([a, b, c, d], dim=1).view(-1, 2, 2)


def _spread(places: Tensor, dim: int) -> Tensor:
    """(B, size) as an index along a dimension of (B, C, H, W)."""
    return places[:, None, None, :] if dim == 3 else places[:, None, :, None]
