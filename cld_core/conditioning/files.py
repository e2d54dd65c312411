"""Observations from files: arrays (.npz), or a picture and a mask."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cld_core import npz
from cld_core.data.folder import read_exactly
from cld_core.data.images import to_model
from cld_core.errors import DataError, UsageError, WrongSourceError
from cld_core.sanitize import one_line

from .observation import Observation

_FORMS = "x and mask, y and matrix, or y and factor; and sigma"


def from_arrays(path: Path, shape: tuple[int, ...], sigma: float | None = None) -> Observation:
    """The observation in a file of arrays.

    The file has x (C, ...) and mask, bool or 0 and 1, of the shape of x or of its last dimensions; or y (k,) and matrix
    (k, d); or a small image y (C, h, w) and the number factor. sigma is a number, 0 if it is missing.

    Args:
        shape: of one example.
        sigma: used if the file has none.

    Raises:
        WrongSourceError: there is no such file, or it is not one of arrays.
        UsageError: it has other arrays, or they do not fit the shape.
    """
    try:
        content, _ = npz.load(path)
    except (OSError, npz.DamagedError) as error:
        text = f"{path} cannot be read as an observation: {one_line(error).rstrip('.')}"
        raise WrongSourceError(f"{text}. Pass a file that np.savez wrote, with {_FORMS}.") from error
    names = set(content)
    if "sigma" in names and sigma is not None:
        raise UsageError(f"{path} has sigma, and --sigma is given. Leave out one of them.")
    try:
        std = float(content["sigma"]) if "sigma" in names else sigma or 0.0
        if names - {"sigma"} == {"x", "mask"}:
            made = Observation.masked(_numbers(content["x"]), _mask(content["mask"]), std)
        elif names - {"sigma"} == {"y", "matrix"}:
            made = Observation.linear(_numbers(content["matrix"]), _numbers(content["y"]), std, shape)
        elif names - {"sigma"} == {"y", "factor"}:
            made = Observation.downscaled(_numbers(content["y"]), _whole(content["factor"]), std)
        else:
            raise UsageError(f"it has the arrays {one_line(', '.join(sorted(names)), 200) or 'of nothing'}")
    except (UsageError, ValueError, TypeError, RuntimeError) as error:
        text = f"{path}: {one_line(error).rstrip('.')}"
        raise UsageError(f"{text}. Pass {_FORMS}; an example has the shape {tuple(shape)}.") from error
    if made.shape != tuple(shape):
        text = f"{path} is about examples of shape {made.shape}, and the model draws {tuple(shape)}"
        raise UsageError(f"{text}. Pass {_FORMS}.")
    return made


def from_pictures(picture: Path, mask: Path, shape: tuple[int, ...], sigma: float | None = None) -> Observation:
    """Inpainting: a picture, and a mask that is white where it is to be painted and black where it is known.

    Args:
        shape: of one example, (3, H, W); both files have H x W pixels.

    Raises:
        WrongSourceError: there is no such file, or it has another size.
        DataError: one is not a picture.
        UsageError: the mask is black or white everywhere, or sigma is not a standard deviation.
    """
    if len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2]:
        raise UsageError(
            f"examples of shape {tuple(shape)} are not square pictures. Pass --observe with a file of arrays."
        )
    pixels = _picture(picture, shape)
    white = _picture(mask, shape).float().mean(0) > 127.5
    if white.all() or not (white.any() or sigma):
        what = "white everywhere: nothing is known" if white.all() else "black everywhere: there is nothing to paint"
        raise UsageError(f"{mask} is {what}. Make it black where the picture is known, white elsewhere.")
    return Observation.masked(to_model(pixels), ~white, sigma or 0.0)


def _picture(path: Path, shape: tuple[int, ...]) -> Tensor:
    """uint8, (3, H, W)."""
    if not path.is_file():
        raise WrongSourceError(f"{path} is not a file. Pass a picture of {shape[2]} x {shape[1]} pixels.")
    try:
        pixels = read_exactly(path, shape[2])
    except OSError as error:
        raise DataError(f"{path} cannot be read: {one_line(error)}. Check its permissions.") from error
    return torch.from_numpy(pixels[0].copy())


def _numbers(array: "np.ndarray[Any, Any]") -> Tensor:
    if array.dtype.kind not in "biuf":
        raise UsageError(f"an array has the type {array.dtype}, and numbers are expected")
    return torch.from_numpy(array.astype(np.float64))


def _whole(array: "np.ndarray[Any, Any]") -> int:
    value = float(array)
    if not value.is_integer():
        raise UsageError(f"factor is {value:g}, and a whole number is expected")
    return int(value)


def _mask(array: "np.ndarray[Any, Any]") -> Tensor:
    if not np.isin(array, (0, 1)).all():
        raise UsageError("the mask has other values than 0 and 1")
    return torch.from_numpy(array.astype(bool))


def coordinate(number: int, value: float, sigma: float | None = None) -> Observation:
    """One coordinate of a point on the plane: ``number`` 0 or 1."""
    mask = torch.tensor([number == 0, number == 1])
    return Observation.masked(torch.full((2,), value, dtype=torch.float64), mask, sigma or 0.0)
