"""`cldctl data prepare` and `cldctl data verify`: from a download to the form on disk
(cld_core.data.store).

A data set is made from a plan, part by part; a part is what is read at once: a picture, a shard, a
batch file. Threads read parts ahead, and their images are appended to DIR.partial/images.npy. Now
and then, when they are on the disk, DIR.partial/progress.json notes how many parts are finished,
and the digests of their images. A later attempt whose source begins with the same parts, and which
finds the same images, cuts off what lies behind them, and continues there; otherwise it begins
again. At the end the folder is renamed to DIR, so that a data set is complete or absent.
"""

import errno
import fcntl
import hashlib
import io
import itertools
import math
import os
import tarfile
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np

from cld_core.codec import find_record, to_plain
from cld_core.config.data import ImageDataSpec
from cld_core.config.registry import SECTIONS
from cld_core.errors import DataError, UsageError, WrongSourceError, did_you_mean
from cld_core.files import replacing, sync_folder, write_json
from cld_core.registration import resolve
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
    blake2b,
    partial_path,
)

LOCK = "lock"
_AT_ONCE = 256
# Parts that are read ahead, and the threads that do it.
_AHEAD = 8
# Bytes of images after which finished parts are noted.
NOTE_EVERY = 64 << 20
# The place is the trouble, not the disk.
_WRONG_PLACE = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
)
# How a .tar begins, after the name of its first file and what is known of it.
_TAR_AT, _TAR = 257, b"ustar"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the source.

    Attributes:
        fingerprint: changes when the part does.
        read: gives its images, uint8 of shape (n, channels, size, size); called in a thread.
        labels: the classes of its images, in the same order, if the plan has classes.
    """

    split: Split
    name: str
    fingerprint: str
    read: Callable[[], np.ndarray]
    labels: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to make: the parts, first those for training, and the number of images that each split
    must have.

    Attributes:
        channels: 1 if the images are grey, 3 if they have colours.
        expect: by split; a split that is missing may have any number.
        classes: the names of the classes of the images; empty if they have no labels.
    """

    name: str
    size: int
    source: str
    parts: Sequence[Part]
    channels: int = CHANNELS
    expect: Mapping[str, int] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def digest(self, count: int | None = None) -> str:
        """Digest of the first ``count`` parts or of all, by which a later preparation sees what is
        left to do."""
        texts = (
            text
            for part in self.parts[:count]
            for text in (part.split, part.name, part.fingerprint)
        )
        return blake2b("\x1f".join(texts).encode())

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image."""
        return (self.channels, self.size, self.size)


# Gets the part that is being made, how many images of all splits are there, and how many there will
# be, if known.
ProgressCallback = Callable[[Part, int, int | None], None]


@dataclass(frozen=True)
class _Done:
    """What is on the disk: the first parts of a plan, by their number and digest, and the images of
    each split."""

    size: int
    parts: int
    digest: str
    splits: Mapping[Split, SplitInfo]

    @property
    def images(self) -> int:
        return sum(info.count for info in self.splits.values())


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
        raise kind(
            f"{partial} cannot be created: {error.strerror}. Choose another --out."
        ) from error
    with lock:
        _require_sole_writer(lock, partial)
        job = _Job(plan, partial, progress)
        try:
            about = job.run()
            os.replace(partial, out)
            sync_folder(out.parent)
        except (DataError, OSError) as error:
            kept = (
                "0 images were finished, so nothing is kept. Fix that and run the same command "
                "again."
            )
            if (done := job.done).parts:
                part = f"{done.images} images, {done.parts} of {len(plan.parts)} pieces"
                fix = "Fix the source and run the same command again to continue from there."
                kept = f"The finished part is kept in {partial}: {part}. {fix}"
            raise DataError(f"{one_line(error, 1000).rstrip('.')}. {kept}") from error
        finally:
            # Without a finished part there is nothing to continue.
            if not job.done.parts:
                _remove(partial)
    for leftover in (PROGRESS, LOCK):
        (out / leftover).unlink(missing_ok=True)
    return about


def _already_there(plan: Plan, out: Path) -> About | None:
    about = store.read_about(out)
    if about is not None:
        if (about.name, about.shape[1:], about.source_digest) == (
            plan.name,
            plan.shape,
            plan.digest(),
        ):
            store.find(out, plan.name)
            if about.classes:
                store.read_labels(out, about, "train")
            return about
        text = f"{out} already holds {about.words} ({about.name}), made from {about.source}"
        raise WrongSourceError(f"{text}. Remove that folder or choose another --out.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise WrongSourceError(
            f"{out} exists and is not a prepared data set. Choose another --out."
        )
    return None


def _require_sole_writer(lock: IO[bytes], partial: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        text = (
            f"Another process is writing {partial}. Wait until it ends, then run this command "
            f"again."
        )
        raise DataError(text) from error
    except OSError:
        pass  # A file system without locks: then the user must start one at a time.


def _remove(partial: Path) -> None:
    """Remove the folder; with files in it that are not of a preparation, those stay, and the folder
    with them."""
    with suppress(OSError):
        for name in (IMAGES, LABELS, ABOUT, PROGRESS, LOCK):
            (partial / name).unlink(missing_ok=True)
        partial.rmdir()


class _Job:
    def __init__(self, plan: Plan, partial: Path, progress: ProgressCallback) -> None:
        self._plan = plan
        self._partial = partial
        self._progress = progress
        self._images_file = partial / IMAGES
        self._header_bytes = len(_npy_header(0, plan.shape))
        self.done, self._hashes = self._kept()

    def run(self) -> About:
        plan = self._plan
        with open(self._images_file, "r+b" if self.done.parts else "w+b") as file:
            file.write(_npy_header(0, plan.shape))
            file.truncate(self._end_of(self.done.images))
            file.seek(0, os.SEEK_END)
            with closing(self._read()) as parts:
                self._append(file, parts)
            self._require_expected()
            file.seek(0)
            file.write(_npy_header(self.done.images, plan.shape))
            file.flush()
            os.fsync(file.fileno())
        about = About(
            name=plan.name,
            size=plan.size,
            splits=self.done.splits,
            bytes=self._end_of(self.done.images),
            channels=plan.channels,
            classes=plan.classes,
            labels=self._write_labels() if plan.classes else "",
            source=plan.source,
            source_digest=plan.digest(),
        )
        write_json(self._partial / ABOUT, to_plain(about))
        return about

    def _kept(self) -> tuple[_Done, dict[Split, Any]]:
        """What an earlier attempt has finished, and the hashes of its images by split.

        It is nothing if the source does not begin with it any more, or if the images are not those
        that were written.
        """
        size, digest, file = self._plan.size, self._plan.digest, self._images_file
        nothing, done = _Done(size, 0, digest(0), {}), find_record(_Done, self._partial / PROGRESS)
        if done is None or (done.size, done.digest) != (size, digest(done.parts)):
            return nothing, {}
        if not self._header_bytes < self._end_of(done.images) <= store.bytes_of(file):
            return nothing, {}
        images = np.memmap(
            file, np.uint8, "r", self._header_bytes, (done.images, *self._plan.shape)
        )
        hashes, first = dict[Split, Any](), 0
        for split, info in done.splits.items():
            hashes[split] = _hash(images, slice(first, first + info.count))
            if hashes[split].hexdigest() != info.digest:
                return nothing, {}
            first += info.count
        return done, hashes

    def _end_of(self, images: int) -> int:
        """Bytes of the file with so many images."""
        return self._header_bytes + images * math.prod(self._plan.shape)

    def _append(self, file: IO[bytes], parts: Iterable[tuple[Part, np.ndarray]]) -> None:
        number, images = (
            self.done.parts,
            Counter({split: info.count for split, info in self.done.splits.items()}),
        )
        splits = {part.split for part in self._plan.parts}
        expected = (
            sum(self._plan.expect[it] for it in splits)
            if splits <= set(self._plan.expect)
            else None
        )
        try:
            for part, some in parts:
                if some.dtype != np.uint8 or some.shape[1:] != self._plan.shape:
                    text = f"{part.name} has images of {some.dtype} and shape {some.shape[1:]}"
                    raise DataError(f"{text}, not uint8 of shape {self._plan.shape}.")
                if self._plan.classes and len(part.labels) != len(some):
                    raise DataError(
                        f"{part.name} has {len(part.labels)} labels for {len(some)} images."
                    )
                content = np.ascontiguousarray(some)
                file.write(content.data)
                # A copy: whoever interrupts this leaves the hash of whole parts.
                read = self._hashes.get(part.split, hashlib.blake2b(digest_size=16)).copy()
                read.update(content)
                self._hashes[part.split] = read
                number += 1
                images[part.split] += len(some)
                self._progress(part, images.total(), expected)
                if self._end_of(images.total()) - self._end_of(self.done.images) >= NOTE_EVERY:
                    self._note(file, number, images)
        finally:
            self._note(file, number, images)

    def _note(self, file: IO[bytes], parts: int, images: Mapping[Split, int]) -> None:
        """Note how many parts are finished, once their images are on the disk."""
        file.flush()
        os.fsync(file.fileno())
        if parts:
            splits = {
                name: SplitInfo(count=images[name], digest=it.hexdigest())
                for name, it in self._hashes.items()
            }
            done = _Done(self._plan.size, parts, self._plan.digest(parts), splits)
            write_json(self._partial / PROGRESS, to_plain(done))
            self.done = done

    def _read(self) -> Generator[tuple[Part, np.ndarray], None, None]:
        """The parts that are left, with their images."""
        left = iter(self._plan.parts[self.done.parts :])
        with ThreadPoolExecutor(min(_AHEAD, os.cpu_count() or 1)) as pool:
            waiting = deque(
                (part, pool.submit(part.read)) for part in itertools.islice(left, _AHEAD)
            )
            try:
                while waiting:
                    part, images = waiting.popleft()
                    yield part, images.result()
                    waiting.extend(
                        (part, pool.submit(part.read)) for part in itertools.islice(left, 1)
                    )
            finally:
                pool.shutdown(cancel_futures=True)

    def _require_expected(self) -> None:
        for split in dict.fromkeys(part.split for part in self._plan.parts):
            count = self.done.splits[split].count
            expected = self._plan.expect.get(split, count)
            if not count:
                raise DataError(f"{self._plan.source} has no images for {split}.")
            if count != expected:
                raise DataError(f"{split} has {count} images, but {expected} are expected.")

    def _write_labels(self) -> str:
        labels = np.concatenate([np.asarray(part.labels, np.int64) for part in self._plan.parts])
        with replacing(self._partial / LABELS) as file:
            np.save(file, labels, allow_pickle=False)
        return blake2b(labels)


def _hash(
    images: np.ndarray, rows: slice, progress: Callable[[int, int], None] = lambda *_: None
) -> Any:
    """The hash of some images, which are read a few at a time."""
    found = hashlib.blake2b(digest_size=16)
    for first in range(rows.start, rows.stop, _AT_ONCE):
        last = min(first + _AT_ONCE, rows.stop)
        found.update(images[first:last].data)
        progress(last, len(images))
    return found


def _npy_header(count: int, shape: tuple[int, ...]) -> bytes:
    """The beginning of a file of uint8 of shape (count, *shape); its length does not depend on the
    count."""
    header = io.BytesIO()
    about = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
    np.lib.format.write_array_header_1_0(header, about)
    return header.getvalue()


def names() -> list[str]:
    """The sets of images that can be prepared."""
    return [
        name
        for name, variant in SECTIONS["data"].variants.items()
        if issubclass(variant.spec, ImageDataSpec)
    ]


def prepare(
    name: str,
    source: str | Path,
    out: str | Path,
    *,
    size: int | None = None,
    split: float | None = None,
    channels: int | None = None,
    expect: Mapping[str, int] | None = None,
    progress: ProgressCallback = lambda *_: None,
) -> About:
    """Make the data set ``out`` from ``source``: continue an earlier attempt, and do nothing if it
    is complete.

    Args:
        name: one of `names`.
        source: for cifar10 the official archive or its folder, for celebahq256 GLOW's TFRecords in
            a folder or a .tar, or a folder of published LMDB files, for folder a folder, a zip file
            or a .tar of pictures, for idx a folder of idx files (`cld_core.data.idx`).
        size: height and width in pixels; required for a folder, fixed for the others.
        split: share of a folder's pictures kept for validation (`cld_core.data.folder`).
        channels: what a folder's pictures become: 1, grey, or 3, coloured; None: 1 if all of them
            are grey.
        expect: number of images that each split must have; None: as published; {}: any number.
        progress: called often; see `ProgressCallback`.

    Raises:
        UsageError: the name or an option does not fit.
        WrongSourceError: the source is missing or something else, or so is ``out``.
        DataError: the source is damaged or short. Finished parts are kept, and the message says
            where.
    """
    if name not in names():
        guess = did_you_mean(name, names())
        raise UsageError(
            f"No data set {name!r} can be prepared.{guess} Available: {', '.join(names())}."
        )
    spec = SECTIONS["data"].variants[name].spec
    assert issubclass(spec, ImageDataSpec), f"{name} is not a set of images"
    plan_of: Callable[..., Plan] = resolve(spec.preparation)
    source = Path(source).expanduser()
    if spec is ImageDataSpec:
        if size is None:
            raise UsageError(
                "Pictures in a folder can be resized to any size. Choose one: --size 64, for "
                "example."
            )
        plan = plan_of(source, size, split, channels)
    else:
        if size not in (None, spec.own_pixels):
            own = (
                "the size in its files" if spec.own_pixels is None else f"{spec.own_pixels} pixels"
            )
            raise UsageError(
                f"{name} has {own}, not {size}. Omit --size, or prepare it as a folder."
            )
        if split is not None:
            raise UsageError(f"{name} has its own validation split. Omit --split.")
        if channels is not None:
            raise UsageError(f"{name} has its own channels. Omit --channels.")
        plan = plan_of(source, expect=expect)
    return build(plan, Path(out).expanduser(), progress)


def verify(path: str | Path, progress: Callable[[int, int], None] = lambda *_: None) -> About:
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
        if _hash(images, about.rows(split), progress).hexdigest() != info.digest:
            again = f"Remove {root} and prepare it again: {store.prepare_hint(about.name, root)}"
            raise DataError(
                f"The {split} images in {root} are not those that were prepared. {again}"
            )
        if about.classes:
            store.read_labels(root, about, split)
    return about


@dataclass(frozen=True)
class Member:
    """A file: its path below the source, with slashes, and ``read()`` its bytes; ``path`` if it is
    in a folder."""

    name: str
    length: int
    read: Callable[[], bytes]
    path: Path | None = None


def members(source: Path, wanted: str, *, is_compressed: bool = False) -> list[Member]:
    """The files in ``source``, by name; in a folder, those that are not below a hidden one.

    Args:
        wanted: what can be passed, for messages.
        is_compressed: an archive is a .tar that may be compressed. To read each of many files in it
            takes long.

    Raises:
        WrongSourceError: it is neither a folder nor such an archive.
        DataError: it is damaged, or cannot be read.
    """
    if not source.is_dir() and not source.is_file():
        raise WrongSourceError(
            f"{source} does not exist, or is no file. Pass {wanted} as --source."
        )
    try:
        return sorted(_kind(source, is_compressed)(source), key=lambda member: member.name)
    except (
        Exception
    ) as error:  # zipfile and tarfile raise whatever the numbers in a damaged file lead to
        if isinstance(error, WrongSourceError):
            raise WrongSourceError(f"{error}. Pass {wanted} as --source.") from error
        text = f"{source} cannot be listed, or is not complete ({one_line(error)})"
        raise DataError(f"{text}. Check its permissions, or fetch or make it again.") from error


def _kind(source: Path, is_compressed: bool) -> Callable[[Path], Iterator[Member]]:
    if source.is_dir():
        return _in_folder
    with source.open("rb") as file:
        start = file.read(_TAR_AT + len(_TAR))
    if is_compressed or start.endswith(_TAR):
        return _in_tar
    # An empty file may have been anything, and some zip files begin with a program that unpacks
    # them.
    if not start or start.startswith(b"PK") or zipfile.is_zipfile(source):
        return _in_zip
    raise WrongSourceError(
        f"{source} is neither a folder nor a zip file nor a .tar without compression"
    )


def _in_folder(source: Path) -> Iterator[Member]:
    """Follows links, and enters each folder once."""
    entered = set()
    for at, folders, files in os.walk(source, followlinks=True):
        folders[:] = [name for name in sorted(folders) if not name.startswith(".")]
        real = os.path.realpath(at)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        for path in (Path(at, name) for name in files):
            # Neither broken links nor pipes.
            if path.is_file():
                yield Member(
                    path.relative_to(source).as_posix(), path.stat().st_size, path.read_bytes, path
                )


def _in_zip(source: Path) -> Iterator[Member]:
    archive = zipfile.ZipFile(source)
    for entry in archive.infolist():
        if entry.filename and not entry.is_dir():
            yield Member(entry.filename, entry.file_size, partial(archive.read, entry))


def _in_tar(source: Path) -> Iterator[Member]:
    with tarfile.open(source) as archive:
        for entry in archive:
            if entry.isfile():
                # Many begin with "./".
                name = PurePosixPath(entry.name).as_posix()
                yield Member(name, entry.size, partial(_read_of_tar, source, entry))
        # tarfile stops without a word where a header is damaged or missing.
        assert archive.fileobj is not None, "it is open"
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no end of the archive at byte {archive.offset}")


def _read_of_tar(source: Path, entry: tarfile.TarInfo) -> bytes:
    with tarfile.open(source) as archive:
        file = archive.extractfile(entry)
        assert file is not None, "it is a regular file"
        return file.read()
