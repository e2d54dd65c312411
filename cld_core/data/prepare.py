"""`cldctl data prepare`: from what one can download to the one on-disk form (cld_core.data.store)."""

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path

from cld_core.data import cifar10, lmdb_store, presence, store
from cld_core.data.build import Plan, Progress, ProgressCallback, build
from cld_core.data.celebahq import plan_celebahq
from cld_core.data.cifar10 import plan_cifar10
from cld_core.data.folder import plan_folder
from cld_core.data.store import Checksum, Manifest, lmdb_path
from cld_core.errors import DataError, UsageError

__all__ = ["NAMES", "Progress", "prepare", "verify"]

NAMES = ("cifar10", "celebahq256", "folder")
_VERIFY_AT_ONCE = 256


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
    """Make the data set ``out`` from ``source``; go on where an earlier attempt stopped; do nothing if it is there.

    Args:
        name: one of `NAMES`.
        source: for cifar10 the official archive or its folder, for celebahq256 GLOW's TFRecords in a folder or a
            .tar, for folder a folder or a zip file of pictures.
        size: height and width in pixels; only a folder's can be chosen, and must be.
        split: share of a folder's pictures kept for validation (`cld_core.data.folder`).
        expect: images that each split must have; None: as published, {} to accept any number.
        download: fetch CIFAR-10's archive first, with torchvision: into the folder ``source``, or as that file.
        progress: called a few times a second and after every unit.

    Raises:
        UsageError: the name or an option does not fit.
        DataError: the source is missing, damaged or short. What was finished is kept, and the message says where.
    """
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.4)
        guess = f" Did you mean {near[0]}?" if near else ""
        raise UsageError(f"No data set {name!r} can be prepared.{guess} There are {', '.join(NAMES)}.")
    source, out = Path(source).expanduser(), Path(out).expanduser()
    if download:
        if name != "cifar10":
            raise UsageError(f"{name} cannot be downloaded. Fetch it yourself and say --source PATH.")
        source = _download_cifar10(_folder_to_fill(source))
    return build(_plan(name, source, size, split, expect), out, progress)


def _plan(name: str, source: Path, size: int | None, split: float | None, expect: Mapping[str, int] | None) -> Plan:
    if name == "folder":
        if size is None:
            raise UsageError("Pictures in a folder can become any size. Say which: --size 64, for example.")
        return plan_folder(source, size, split)
    own_size = cifar10.SIZE if name == "cifar10" else 256
    if size not in (None, own_size):
        raise UsageError(f"{name} has {own_size} pixels, not {size}. Leave --size out, or prepare it as a folder.")
    if split is not None:
        raise UsageError(f"{name} has its own validation split. Leave --split out.")
    return plan_cifar10(source, expect) if name == "cifar10" else plan_celebahq(source, own_size, expect)


def _folder_to_fill(source: Path) -> Path:
    """Where the archive is to be downloaded to: ``source`` is that folder, or the archive in it."""
    if source.name == cifar10.ARCHIVE and not source.is_dir():
        return source.parent
    if source.is_file() or source.name.endswith((".tar.gz", ".tgz")):
        raise UsageError(
            f"--download puts {cifar10.ARCHIVE} into the folder --source. {source} is a file: name a folder."
        )
    return source


def _download_cifar10(folder: Path) -> Path:
    """Fetch the archive into ``folder``, unless it is there whole, and return its path."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import download_url

    try:
        folder.mkdir(parents=True, exist_ok=True)
        download_url(CIFAR10.url, str(folder), cifar10.ARCHIVE, CIFAR10.tgz_md5)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{cifar10.ARCHIVE} could not be downloaded into {folder}: {error}. Fetch it by hand from "
            f"{CIFAR10.url} and say --source with it."
        ) from error
    return folder / cifar10.ARCHIVE


def verify(path: str | Path, progress: Callable[[int, int], None] | None = None) -> Manifest:
    """Read every image of the prepared data set ``path`` and compare counts and checksums with its manifest.

    Args:
        progress: called with the images read and the images in all.

    Raises:
        DataError: there is no manifest, or the images are not what it says.
    """
    root = Path(path)
    manifest = store.read_manifest(root)
    if manifest is None:
        raise DataError(f"{root} has no {store.MANIFEST}: {store.prepare_hint('NAME', root)}")
    # Reading beyond the end of a mapped file would end this process.
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
    return manifest
