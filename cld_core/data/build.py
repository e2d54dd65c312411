"""Makes a data set on disk from a plan, part by part; it can be resumed after each, and is complete or absent.

A part is what is read and written at once: a shard, a batch file, some hundred pictures. The images are appended to
DIR.partial/images.npy; when those of a part are on the disk, it is added to DIR.partial/progress.json. A later attempt
keeps the leading parts that are unchanged in their source, cuts off what lies behind them, and continues there. At the
end the folder is renamed to DIR.
"""

import contextlib
import errno
import fcntl
import io
import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from cld_core.codec import find_record, to_plain
from cld_core.errors import DataError, WrongSourceError
from cld_core.files import replacing, sync_folder, write_json
from cld_core.sanitize import one_line

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
_SECONDS_BETWEEN_REPORTS = 0.1
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


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of a preparation; ``images`` and ``expected`` count all splits, ``expected`` is None if unknown."""

    split: str
    part: str
    parts_done: int
    parts: int
    images: int
    expected: int | None


ProgressCallback = Callable[[Progress], None]


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


def build(plan: Plan, out: Path, progress: ProgressCallback | None = None) -> About:
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
    def __init__(self, plan: Plan, partial: Path, callback: ProgressCallback | None) -> None:
        self.plan = plan
        self._images_file = partial / IMAGES
        self._partial = partial
        self._shape = (CHANNELS, plan.size, plan.size)
        self._row_bytes = CHANNELS * plan.size * plan.size
        self._callback = callback
        self._reported = float("-inf")
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
            self._report(part, images)
        if self.plan.classes and len(part.labels) != images:
            raise DataError(f"{part.name} has {len(part.labels)} labels for {images} images.")
        file.flush()
        os.fsync(file.fileno())
        done = [*self.done, _Done(part.identity, images)]
        write_json(self._partial / PROGRESS, to_plain(_AllDone(self.plan.size, tuple(done))))
        self.done = done
        self._report(part, 0, now=True)

    def _report(self, part: Part, images: int, *, now: bool = False) -> None:
        if self._callback is None or (not now and time.monotonic() < self._reported + _SECONDS_BETWEEN_REPORTS):
            return
        self._reported = time.monotonic()
        self._callback(
            Progress(
                split=part.split,
                part=part.name,
                parts_done=len(self.done),
                parts=len(self.plan.parts),
                images=self._count + images,
                expected=self._expected,
            )
        )

    def _splits(self) -> dict[Split, SplitInfo]:
        """The number and the digest of the images of each split, read back from the disk."""
        counts = {}
        for split in dict.fromkeys(part.split for part in self.plan.parts):
            done = [entry for entry in self.done if entry.identity[0] == split]
            counts[split] = sum(entry.images for entry in done)
            self._check_count(split, counts[split], done)
        offset = len(_npy_header(0, self._shape))
        images = np.memmap(self._images_file, np.uint8, "r", offset, (self._count, *self._shape))
        ends = itertools.accumulate(counts.values())
        return {
            split: SplitInfo(count=counts[split], digest=digest(images[end - counts[split] : end]))
            for split, end in zip(counts, ends, strict=True)
        }

    def _check_count(self, split: Split, count: int, parts: Sequence[_Done]) -> None:
        if not count:
            raise DataError(f"{self.plan.source} has no images for {split}.")
        expected = self.plan.expect.get(split, count)
        if count == expected:
            return
        usual, _ = Counter(part.images for part in parts).most_common(1)[0]
        odd = [f"{part.identity[1]} ({part.images})" for part in parts if part.images != usual]
        named = f" Most pieces have {usual}, but not {', '.join(odd[:5])}." if odd else ""
        raise DataError(f"{split} has {count} images, but {expected} are expected.{named}")

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
