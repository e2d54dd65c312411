"""`cldctl data prepare`: from a download to the on-disk form (cld_core.data.store)."""

from collections.abc import Callable, Mapping
from pathlib import Path

from cld_core.config.data import ImageDataSpec
from cld_core.config.registry import SECTIONS
from cld_core.errors import DataError, UsageError, WrongSourceError, did_you_mean
from cld_core.imports import resolve

from . import cifar10, image_labels, lmdb_store, presence, store
from .build import Plan, Progress, ProgressCallback, build
from .store import Checksum, Manifest, lmdb_path

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
) -> Manifest:
    """Make the data set ``out`` from ``source``: continue an earlier attempt, and do nothing if it is complete.

    Args:
        name: one of `names`.
        source: for cifar10 the official archive or its folder, for celebahq256 GLOW's TFRecords in a folder or a
            .tar, for folder a folder or a zip file of pictures.
        size: height and width in pixels; required for a folder, fixed for the others.
        split: share of a folder's pictures kept for validation (`cld_core.data.folder`).
        expect: number of images that each split must have; None: as published; {}: any number.
        download: fetch CIFAR-10's archive first, with torchvision: into the folder ``source``, or as that file.
        progress: called a few times per second and after every unit.

    Raises:
        UsageError: the name or an option does not fit.
        WrongSourceError: the source is missing or something else, or so is ``out``.
        DataError: the source is damaged or short. Finished units are kept, and the message says where.
    """
    if name not in names():
        guess = did_you_mean(name, names())
        raise UsageError(f"No data set {name!r} can be prepared.{guess} Available: {', '.join(names())}.")
    source, out = Path(source).expanduser(), Path(out).expanduser()
    if download:
        if name != "cifar10":
            raise UsageError(f"{name} cannot be downloaded. Fetch it yourself and pass --source PATH.")
        source = _download_cifar10(_folder_to_fill(source))
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


def _folder_to_fill(source: Path) -> Path:
    """The folder to download the archive into: ``source`` is that folder, or the archive in it."""
    if source.name == cifar10.ARCHIVE and not source.is_dir():
        return source.parent
    if source.is_file() or source.name.endswith((".tar.gz", ".tgz")):
        raise UsageError(
            f"--download puts {cifar10.ARCHIVE} into the folder --source. {source} is a file: pass a folder."
        )
    return source


def _download_cifar10(folder: Path) -> Path:
    """Fetch the archive into ``folder``, unless it is there and complete, and return its path."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import download_url

    try:
        folder.mkdir(parents=True, exist_ok=True)
        download_url(CIFAR10.url, str(folder), cifar10.ARCHIVE, CIFAR10.tgz_md5)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{cifar10.ARCHIVE} could not be downloaded into {folder}: {error}. Fetch it by hand from "
            f"{CIFAR10.url} and pass its path as --source."
        ) from error
    return folder / cifar10.ARCHIVE


def verify(path: str | Path, progress: Callable[[int, int], None] | None = None) -> Manifest:
    """Read every image of the prepared data set ``path`` and compare counts and checksums with its manifest.

    Args:
        progress: called with the number of images read and the total.

    Raises:
        WrongSourceError: there is no manifest.
        DataError: the images do not match it.
    """
    root = Path(path)
    manifest = store.read_manifest(root)
    if manifest is None:
        raise WrongSourceError(f"{root} has no {store.MANIFEST}: {store.prepare_hint('NAME', root)}")
    # Reading beyond the end of a mapped file would kill this process.
    problem = presence.cut(root, manifest)
    if problem is not None:
        raise DataError(f"{problem}. It was copied incompletely or changed; copy or prepare it again.")
    total = sum(info.count for info in manifest.splits.values())
    read = 0
    for split, info in manifest.splits.items():
        reader = lmdb_store.LmdbReader(lmdb_path(root, split))
        checksum = Checksum()
        for first in range(0, info.count, _VERIFY_AT_ONCE):
            indices = range(first, min(first + _VERIFY_AT_ONCE, info.count))
            for image in reader.read(indices, manifest.image_bytes):
                checksum.add(image.tobytes())
            read += len(indices)
            if progress is not None:
                progress(read, total)
        if reader.entries != info.count or checksum.state != info.checksum:
            raise DataError(
                f"The {split} images in {root} are not those that were prepared. Remove {root} and prepare it again: "
                f"{store.prepare_hint(manifest.name, root)}"
            )
        if manifest.classes:
            image_labels.read(root, split, manifest)
    return manifest
