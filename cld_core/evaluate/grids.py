"""Grids of images as PNG."""

import math
from pathlib import Path

import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from cld_core.config.checks import MAX_PICTURE
from cld_core.errors import UsageError
from cld_core.files import replacing

_GAP = 2
# Pixels: viewers show a small picture as it is, and 16 images of 32 x 32 would be a stamp.
_WIDTH = 512


def require_size(n: int, pixels: int) -> None:
    """Refuse a grid of n images with so many pixels each that cannot be made in memory.

    Raises:
        UsageError: names how many can be.
    """
    if n * pixels > MAX_PICTURE:
        raise UsageError(f"{n} images are too many for one picture. Draw at most {MAX_PICTURE // pixels}, or an .npz.")


def columns_of(n: int) -> int:
    """The columns of a grid of n images."""
    return math.ceil(math.sqrt(n))


def tile(images: Tensor, *, columns: int | None = None, gap: int = _GAP) -> Tensor:
    """Images (n, C, H, W), uint8, side by side on black: (H', W', C), as nearly square as n allows."""
    n, channels, height, width = images.shape
    require_size(n, height * width)
    columns = columns or columns_of(n)
    rows = math.ceil(n / columns)
    canvas = torch.zeros(channels, rows * (height + gap) + gap, columns * (width + gap) + gap, dtype=torch.uint8)
    for index, image in enumerate(images.cpu()):
        row, column = divmod(index, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    return canvas.permute(1, 2, 0).contiguous()


def enlarged(pixels: Tensor, width: int = _WIDTH) -> Tensor:
    """A picture (H, W, C) with each pixel as a square of several: as many as fit ``width``, or one."""
    factor = max(1, width // pixels.shape[1])
    return pixels.repeat_interleave(factor, dim=0).repeat_interleave(factor, dim=1)


def write(path: Path, pixels: Tensor, title: str = "") -> None:
    """A picture, uint8 (H, W, C) with C of 1 or 3, as PNG; ``title`` goes into its metadata."""
    picture = Image.fromarray(pixels.squeeze(-1).numpy())
    about = PngImagePlugin.PngInfo()
    if title:
        about.add_text("Description", title)
    with replacing(path) as file:
        picture.save(file, format="PNG", pnginfo=about)
