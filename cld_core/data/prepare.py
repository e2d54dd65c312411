"""`cldctl data prepare` and `cldctl data verify`: from a download to the form on disk (cld_core.data.store)."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from cld_core.config.data import ImageDataSpec
from cld_core.config.variants import SECTIONS
from cld_core.errors import DataError, UsageError, WrongSourceError, did_you_mean
from cld_core.imports import resolve

from . import cifar10, store
from .build import Plan, Progress, ProgressCallback, build
from .store import About

__all__ = ["Progress", "names", "prepare", "verify"]

_VERIFY_AT_ONCE = 256


def names() -> list[str]:
    """The sets of images that can be prepared."""
    return [name for name, variant in SECTIONS["data"].variants.items() if issubclass(variant.spec, ImageDataSpec)]


def prepare(
    name: str,
    source: str | Path,
    out: str | Path,
    *,
    size: int | None = None,
    split: float | None = None,
    expect: Mapping[str, int] | None = None,
    download: bool = False,
    progress: ProgressCallback | None = None,
) -> About:
    """Make the data set ``out`` from ``source``: continue an earlier attempt, and do nothing if it is complete.

    Args:
        name: one of `names`.
        source: for cifar10 the official archive or its folder, for celebahq256 GLOW's TFRecords in a folder or a
            .tar, or a folder of published LMDB files, for folder a folder or a zip file of pictures.
        size: height and width in pixels; required for a folder, fixed for the others.
        split: share of a folder's pictures kept for validation (`cld_core.data.folder`).
        expect: number of images that each split must have; None: as published; {}: any number.
        download: fetch CIFAR-10's archive first, with torchvision: into the folder ``source``, or as that file.
        progress: called a few times per second and after every part.

    Raises:
        UsageError: the name or an option does not fit.
        WrongSourceError: the source is missing or something else, or so is ``out``.
        DataError: the source is damaged or short. Finished parts are kept, and the message says where.
    """
    if name not in names():
        guess = did_you_mean(name, names())
        raise UsageError(f"No data set {name!r} can be prepared.{guess} Available: {', '.join(names())}.")
    source, out = Path(source).expanduser(), Path(out).expanduser()
    if download:
        if name != "cifar10":
            raise UsageError(f"{name} cannot be downloaded. Fetch it yourself and pass --source PATH.")
        source = cifar10.download(source)
    return build(_plan(name, source, size, split, expect), out, progress)


def _plan(name: str, source: Path, size: int | None, split: float | None, expect: Mapping[str, int] | None) -> Plan:
    spec = SECTIONS["data"].variants[name].spec
    assert issubclass(spec, ImageDataSpec), f"{name} is not a set of images"
    plan: Callable[..., Plan] = resolve(spec.preparation)
    if spec.own_pixels is None:
        if size is None:
            raise UsageError("Pictures in a folder can be resized to any size. Choose one: --size 64, for example.")
        return plan(source, size, split)
    if size not in (None, spec.own_pixels):
        raise UsageError(f"{name} has {spec.own_pixels} pixels, not {size}. Omit --size, or prepare it as a folder.")
    if split is not None:
        raise UsageError(f"{name} has its own validation split. Omit --split.")
    return plan(source, expect=expect)


def verify(path: str | Path, progress: Callable[[int, int], None] | None = None) -> About:
    """Read every image of the prepared data set ``path`` and compare it with what was prepared.

    Args:
        progress: called with the number of images read and the total.

    Raises:
        WrongSourceError: there is no prepared data set.
        DataError: the images are others.
    """
    root = Path(path)
    about = store.read_about(root)
    if about is None:
        raise WrongSourceError(f"{root} has no {store.ABOUT}: {store.prepare_hint('NAME', root)}")
    store.find(root, about.name)
    images = np.load(root / store.IMAGES, mmap_mode="r", allow_pickle=False)
    for split, info in about.splits.items():
        rows, found = about.rows(split), hashlib.blake2b(digest_size=16)
        for first in range(rows.start, rows.stop, _VERIFY_AT_ONCE):
            last = min(first + _VERIFY_AT_ONCE, rows.stop)
            found.update(images[first:last])
            if progress is not None:
                progress(last, about.shape[0])
        if found.hexdigest() != info.digest:
            raise DataError(
                f"The {split} images in {root} are not those that were prepared. Remove {root} and prepare it again: "
                f"{store.prepare_hint(about.name, root)}"
            )
        if about.classes:
            store.read_labels(root, about, split)
    return about
