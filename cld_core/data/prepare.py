"""`cldctl data prepare` and `cldctl data verify`: from a download to the form on disk (cld_core.data.store).

A data set is made from a plan, part by part; it can be resumed after each, and is complete or absent. A part is what is
read and written at once: a shard, a batch file, some hundred pictures. The images are appended to
DIR.partial/images.npy; when those of a part are on the disk, it is added to DIR.partial/progress.json. A later attempt
keeps the leading parts that are unchanged in their source, cuts off what lies behind them, and continues there. At the
end the folder is renamed to DIR.
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from cld_core.codec import find_record, to_plain
from cld_core.config.data import ImageDataSpec
from cld_core.config.registry import SECTIONS
from cld_core.errors import DataError, UsageError, WrongSourceError, did_you_mean
from cld_core.files import replacing, sync_folder, write_json
from cld_core.imports import resolve
from cld_core.sanitize import one_line

from . import store
from .store import (
    ABOUT,
    CHANNELS,
    IMAGES,
    LABELS,
    PROGRESS,
    About,
    Split,
    SplitInfo,
    digest,
    partial_path,
    read_about,
)

LOCK = "lock"
_VERIFY_AT_ONCE = 256
# The place is the trouble, not the disk.
_WRONG_PLACE = (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the source.

    Attributes:
        fingerprint: changes when the part does.
        read: yields its images, uint8 of shape (n, 3, size, size), any number at a time.
        labels: the classes of its images, in the same order, if the plan has classes.
    """

    split: Split
    name: str
    fingerprint: str
    read: Callable[[], Iterable[np.ndarray]]
    labels: Sequence[int] = ()

    @property
    def identity(self) -> tuple[str, ...]:
        return (self.split, self.name, self.fingerprint)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to make: the parts, first those for training, and the number of images that each split must have.

    Attributes:
        expect: by split; a split that is missing may have any number.
        classes: the names of the classes of the images; empty if they have no labels.
    """

    name: str
    size: int
    source: str
    parts: Sequence[Part]
    expect: Mapping[str, int] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def digest(self) -> str:
        """Digest of the source's parts, by which a second preparation sees whether there is anything to do."""
        return digest("\x1f".join(itertools.chain.from_iterable(part.identity for part in self.parts)).encode())


# Gets the part that is being made, how many images of all splits are there, and how many there will be, if known.
ProgressCallback = Callable[[Part, int, int | None], None]


@dataclass(frozen=True)
class _Done:
    """A part whose images are on the disk."""

    identity: tuple[str, ...]
    images: int


@dataclass(frozen=True)
class _AllDone:
    """The finished parts of a preparation, and the size of its images in pixels."""

    size: int
    parts: tuple[_Done, ...]


def build(plan: Plan, out: Path, progress: ProgressCallback = lambda *_: None) -> About:
    """Make the data set ``out``, unless it exists, and return what it is.

    Raises:
        DataError: the source is damaged or short. Finished parts are kept.
        WrongSourceError: ``out`` is something else, or cannot be made.
    """
    about = _already_there(plan, out)
    if about is not None:
        return about
    partial = partial_path(out)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        lock = (partial / LOCK).open("ab")
    except OSError as error:
        kind = WrongSourceError if error.errno in _WRONG_PLACE else DataError
        raise kind(f"{partial} cannot be created: {error.strerror}. Choose another --out.") from error
    with lock:
        _require_sole_writer(lock, partial)
        job = _Job(plan, partial, progress)
        try:
            about = job.run()
            os.replace(partial, out)
            sync_folder(out.parent)
        except (DataError, OSError) as error:
            raise DataError(f"{one_line(error, 1000).rstrip('.')}. {job.what_is_kept()}") from error
        finally:
            # Without a finished part there is nothing to continue.
            if not job.done:
                _remove(partial)
    for leftover in (PROGRESS, LOCK):
        (out / leftover).unlink(missing_ok=True)
    return about


def _already_there(plan: Plan, out: Path) -> About | None:
    about = read_about(out)
    if about is not None:
        if (about.name, about.size, about.source_digest) == (plan.name, plan.size, plan.digest()):
            return about
        raise WrongSourceError(
            f"{out} already holds {about.name} at {about.size}x{about.size}, made from {about.source}. "
            "Remove that folder or choose another --out."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise WrongSourceError(f"{out} exists and is not a prepared data set. Choose another --out.")
    return None


def _require_sole_writer(lock: IO[bytes], partial: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        text = f"Another process is writing {partial}. Wait until it ends, then run this command again."
        raise DataError(text) from error
    except OSError:
        pass  # A file system without locks: then the user must start one at a time.


def _remove(partial: Path) -> None:
    """Remove the folder; with files in it that are not of a preparation, those stay, and the folder with them."""
    with contextlib.suppress(OSError):
        for name in (IMAGES, LABELS, ABOUT, PROGRESS, LOCK):
            (partial / name).unlink(missing_ok=True)
        partial.rmdir()


class _Job:
    def __init__(self, plan: Plan, partial: Path, progress: ProgressCallback) -> None:
        self.plan = plan
        self._images_file = partial / IMAGES
        self._partial = partial
        self._shape = (CHANNELS, plan.size, plan.size)
        self._row_bytes = CHANNELS * plan.size * plan.size
        self._progress = progress
        splits = {part.split for part in plan.parts}
        self._expected = sum(plan.expect[split] for split in splits) if splits <= set(plan.expect) else None
        self.done = self._kept()

    @property
    def _count(self) -> int:
        return sum(done.images for done in self.done)

    def what_is_kept(self) -> str:
        if not self.done:
            return "0 images were finished, so nothing is kept. Fix that and run the same command again."
        return (
            f"The finished part is kept in {self._partial}: {self._count} images, {len(self.done)} of "
            f"{len(self.plan.parts)} pieces. Fix the source and run the same command again to continue from there."
        )

    def run(self) -> About:
        header = _npy_header(0, self._shape)
        with open(self._images_file, "r+b" if self.done else "w+b") as file:
            file.write(header)
            file.truncate(len(header) + self._count * self._row_bytes)
            file.seek(0, os.SEEK_END)
            for part in self.plan.parts[len(self.done) :]:
                self._append(part, file)
            splits = self._splits()
            file.seek(0)
            file.write(_npy_header(self._count, self._shape))
            file.flush()
            os.fsync(file.fileno())
        about = About(
            name=self.plan.name,
            size=self.plan.size,
            splits=splits,
            bytes=self._images_file.stat().st_size,
            classes=self.plan.classes,
            labels=self._write_labels() if self.plan.classes else "",
            source=self.plan.source,
            source_digest=self.plan.digest(),
        )
        about.write(self._partial)
        return about

    def _kept(self) -> list[_Done]:
        """The leading parts that are finished and unchanged in the source."""
        kept: list[_Done] = []
        before = find_record(_AllDone, self._partial / PROGRESS)
        if before is None or before.size != self.plan.size:
            return kept
        with contextlib.suppress(OSError):
            there = self._images_file.stat().st_size - len(_npy_header(0, self._shape))
            for part, done in zip(self.plan.parts, before.parts, strict=False):
                size = done.images * self._row_bytes
                if part.identity != done.identity or not 0 <= size <= there:
                    break
                kept.append(done)
                there -= size
        return kept

    def _append(self, part: Part, file: IO[bytes]) -> None:
        images = 0
        for some in part.read():
            if some.dtype != np.uint8 or some.shape[1:] != self._shape:
                text = f"{part.name} has images of {some.dtype} and shape {some.shape[1:]}"
                raise DataError(f"{text}, not uint8 of shape {self._shape}.")
            file.write(np.ascontiguousarray(some).data)
            images += len(some)
            self._progress(part, self._count + images, self._expected)
        if self.plan.classes and len(part.labels) != images:
            raise DataError(f"{part.name} has {len(part.labels)} labels for {images} images.")
        file.flush()
        os.fsync(file.fileno())
        done = [*self.done, _Done(part.identity, images)]
        write_json(self._partial / PROGRESS, to_plain(_AllDone(self.plan.size, tuple(done))))
        self.done = done

    def _splits(self) -> dict[Split, SplitInfo]:
        """The number and the digest of the images of each split, read back from the disk."""
        counts = {}
        for split in dict.fromkeys(part.split for part in self.plan.parts):
            counts[split] = sum(entry.images for entry in self.done if entry.identity[0] == split)
            self._check_count(split, counts[split])
        offset = len(_npy_header(0, self._shape))
        images = np.memmap(self._images_file, np.uint8, "r", offset, (self._count, *self._shape))
        ends = itertools.accumulate(counts.values())
        return {
            split: SplitInfo(count=counts[split], digest=digest(images[end - counts[split] : end]))
            for split, end in zip(counts, ends, strict=True)
        }

    def _check_count(self, split: Split, count: int) -> None:
        if not count:
            raise DataError(f"{self.plan.source} has no images for {split}.")
        expected = self.plan.expect.get(split, count)
        if count == expected:
            return
        raise DataError(f"{split} has {count} images, but {expected} are expected.")

    def _write_labels(self) -> str:
        labels = np.concatenate([np.asarray(part.labels, np.int64) for part in self.plan.parts])
        with replacing(self._partial / LABELS) as file:
            np.save(file, labels, allow_pickle=False)
        return digest(labels)


def _npy_header(count: int, shape: tuple[int, ...]) -> bytes:
    """The beginning of a file of uint8 of shape (count, *shape); its length does not depend on the count."""
    header = io.BytesIO()
    about = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
    np.lib.format.write_array_header_1_0(header, about)
    return header.getvalue()


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
    progress: ProgressCallback = lambda *_: None,
) -> About:
    """Make the data set ``out`` from ``source``: continue an earlier attempt, and do nothing if it is complete.

    Args:
        name: one of `names`.
        source: for cifar10 the official archive or its folder, for celebahq256 GLOW's TFRecords in a folder or a
            .tar, or a folder of published LMDB files, for folder a folder or a zip file of pictures.
        size: height and width in pixels; required for a folder, fixed for the others.
        split: share of a folder's pictures kept for validation (`cld_core.data.folder`).
        expect: number of images that each split must have; None: as published; {}: any number.
        progress: called often; see `ProgressCallback`.

    Raises:
        UsageError: the name or an option does not fit.
        WrongSourceError: the source is missing or something else, or so is ``out``.
        DataError: the source is damaged or short. Finished parts are kept, and the message says where.
    """
    if name not in names():
        guess = did_you_mean(name, names())
        raise UsageError(f"No data set {name!r} can be prepared.{guess} Available: {', '.join(names())}.")
    plan = _plan(name, Path(source).expanduser(), size, split, expect)
    return build(plan, Path(out).expanduser(), progress)


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
