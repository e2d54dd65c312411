"""`cldctl data prepare` and `cldctl data verify`: from a download to the form on disk
(cld_core.data.store).

A data set is made from a plan, part by part. A part is what is read at once: a picture, a shard, a
batch file. Threads read parts ahead, and their images are appended to DIR.partial/images.npy. From
time to time, when they are on the disk, DIR.partial/progress.json notes the number of finished
parts and the digests of their images. A later attempt continues after them if its source begins
with the same parts, and the images are the same; otherwise it starts over. At the end the folder is
renamed to DIR, so that a data set is complete or absent.
"""

import errno
import fcntl
import hashlib
import io
import math
import os
import tarfile
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np

from cld_core.config.data import ImageDataSpec
from cld_core.config.keys import Shape
from cld_core.config.registry import SECTIONS
from cld_core.errors import DataError, UsageError, WrongSourceError, did_you_mean
from cld_core.files import replacing, sync_folder, write_json
from cld_core.plugins import resolve
from cld_core.records import find_record, record, to_plain
from cld_core.sanitize import one_line

from . import store
from .store import (
    ABOUT,
    CHANNELS,
    IMAGES,
    LABELS,
    PROGRESS,
    DatasetInfo,
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
# Errors of a path, not of a disk.
_WRONG_PLACE = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
)
# A .tar has this mark at this offset.
_TAR = b"ustar"
_TAR_AT = 257


@record
class SourcePart:
    """A part of the source.

    Attributes:
        fingerprint: changes when the part does.
        read: returns its images, uint8 of shape (n, channels, size, size); called in a thread.
        labels: the class of each of its images, if the plan has classes.
    """

    split: Split
    name: str
    fingerprint: str
    read: Callable[[], np.ndarray]
    labels: Sequence[int] = ()


@record
class Plan:
    """A plan of a data set: the parts of its source, and the form of its images.

    Attributes:
        parts: the parts, those for training first.
        channels: 1 for grey images, 3 for coloured ones.
        expect: the number of images by split; a split that is missing may have any number.
        classes: the names of the classes of the images; empty without labels.
    """

    name: str
    size: int
    source: str
    parts: Sequence[SourcePart]
    channels: int = CHANNELS
    expect: Mapping[str, int] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def digest(self, count: int | None = None) -> str:
        """Digest of the first ``count`` parts, or of all."""
        texts: list[str] = []
        for part in self.parts[:count]:
            texts += [part.split, part.name, part.fingerprint]
        return blake2b("\x1f".join(texts).encode())

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an image."""
        return (self.channels, self.size, self.size)


# Takes the part that was finished, the number of images so far, and the number of all images, if
# known.
ProgressCallback = Callable[[SourcePart, int, int | None], None]


@dataclass(frozen=True)
class _Done:
    """What is on the disk: the number and digest of the finished parts, and the images by split."""

    size: int
    parts: int
    digest: str
    splits: Mapping[Split, SplitInfo]

    @property
    def images(self) -> int:
        return sum(info.count for info in self.splits.values())


def build(plan: Plan, out: Path, progress: ProgressCallback = lambda *_: None) -> DatasetInfo:
    """Make the data set ``out``, unless it exists, and return its description.

    Raises:
        DataError: the source is damaged or short. Finished parts are kept.
        WrongSourceError: ``out`` exists and is something else, or cannot be created.
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
            problem = one_line(error, 1000).rstrip(".")
            done = job.done
            if not done.parts:
                raise DataError(
                    f"{problem}. 0 images were finished, so nothing is kept. "
                    "Fix that and run the same command again."
                ) from error
            raise DataError(
                f"{problem}. The finished part is kept in {partial}: {done.images} images, "
                f"{done.parts} of {len(plan.parts)} pieces. Fix the source and run the same "
                "command again to continue from there."
            ) from error
        finally:
            # Without a finished part there is nothing to continue.
            if not job.done.parts:
                _remove(partial)
    for leftover in (PROGRESS, LOCK):
        (out / leftover).unlink(missing_ok=True)
    return about


def _already_there(plan: Plan, out: Path) -> DatasetInfo | None:
    about = store.read_about(out)
    if about is not None:
        identity = (about.name, about.shape[1:], about.source_digest)
        if identity != (plan.name, plan.shape, plan.digest()):
            raise WrongSourceError(
                f"{out} already holds {about.words} ({about.name}), made from {about.source}. "
                "Remove that folder or choose another --out."
            )
        images = store.find(out, plan.name)
        if about.classes:
            images.labels("train")
        return about
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise WrongSourceError(
            f"{out} exists and is not a prepared data set. Choose another --out."
        )
    return None


def _require_sole_writer(lock: IO[bytes], partial: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DataError(
            f"Another process is writing {partial}. Wait until it ends, then run this command "
            "again."
        ) from error
    except OSError:
        pass  # Without locks in the file system, users must not start two preparations at once.


def _remove(partial: Path) -> None:
    """Remove the files of a preparation, and the folder unless it has others."""
    # Files that stay only take space.
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

    def run(self) -> DatasetInfo:
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
        about = DatasetInfo(
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
        """The parts that an earlier attempt finished, and the hashes of its images by split.

        Both are empty if the source does not begin with the same parts, or if the images are not
        those that were written.
        """
        plan = self._plan
        file = self._images_file
        nothing = _Done(plan.size, 0, plan.digest(0), {})
        done = find_record(_Done, self._partial / PROGRESS)
        if done is None or (done.size, done.digest) != (plan.size, plan.digest(done.parts)):
            return nothing, {}
        if not self._header_bytes < self._end_of(done.images) <= store.bytes_of(file):
            return nothing, {}
        images = np.memmap(file, np.uint8, "r", self._header_bytes, (done.images, *plan.shape))
        hashes = dict[Split, Any]()
        first = 0
        for split, info in done.splits.items():
            hashes[split] = _hash(images, slice(first, first + info.count))
            if hashes[split].hexdigest() != info.digest:
                return nothing, {}
            first += info.count
        return done, hashes

    def _end_of(self, images: int) -> int:
        """Bytes of the file with this number of images."""
        return self._header_bytes + images * math.prod(self._plan.shape)

    def _append(self, file: IO[bytes], parts: Iterable[tuple[SourcePart, np.ndarray]]) -> None:
        plan = self._plan
        number = self.done.parts
        counts = Counter({split: info.count for split, info in self.done.splits.items()})
        expected = None
        splits = {part.split for part in plan.parts}
        if splits <= set(plan.expect):
            expected = sum(plan.expect[split] for split in splits)
        try:
            for part, images in parts:
                if images.dtype != np.uint8 or images.shape[1:] != plan.shape:
                    raise DataError(
                        f"{part.name} has images of {images.dtype} and shape {images.shape[1:]}, "
                        f"not uint8 of shape {plan.shape}."
                    )
                if plan.classes and len(part.labels) != len(images):
                    raise DataError(
                        f"{part.name} has {len(part.labels)} labels for {len(images)} images."
                    )
                content = np.ascontiguousarray(images)
                file.write(content.data)
                # A copy, so that an interruption leaves the hash of whole parts.
                hasher = self._hashes.get(part.split, hashlib.blake2b(digest_size=16)).copy()
                hasher.update(content)
                self._hashes[part.split] = hasher
                number += 1
                counts[part.split] += len(images)
                self._progress(part, counts.total(), expected)
                if self._end_of(counts.total()) - self._end_of(self.done.images) >= NOTE_EVERY:
                    self._note(file, number, counts)
        finally:
            self._note(file, number, counts)

    def _note(self, file: IO[bytes], parts: int, counts: Mapping[Split, int]) -> None:
        """Note the number of finished parts, once their images are on the disk."""
        file.flush()
        os.fsync(file.fileno())
        if parts:
            splits = {
                split: SplitInfo(count=counts[split], digest=hasher.hexdigest())
                for split, hasher in self._hashes.items()
            }
            done = _Done(self._plan.size, parts, self._plan.digest(parts), splits)
            write_json(self._partial / PROGRESS, to_plain(done))
            self.done = done

    def _read(self) -> Generator[tuple[SourcePart, np.ndarray], None, None]:
        """The parts that are left, with their images."""
        parts = deque(self._plan.parts[self.done.parts :])
        ahead = deque[tuple[SourcePart, Future[np.ndarray]]]()
        with ThreadPoolExecutor(min(_AHEAD, os.cpu_count() or 1)) as pool:
            try:
                while parts or ahead:
                    while parts and len(ahead) < _AHEAD:
                        ahead.append((parts[0], pool.submit(parts.popleft().read)))
                    part, images = ahead.popleft()
                    yield part, images.result()
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
    hasher = hashlib.blake2b(digest_size=16)
    for first in range(rows.start, rows.stop, _AT_ONCE):
        last = min(first + _AT_ONCE, rows.stop)
        hasher.update(images[first:last].data)
        progress(last, len(images))
    return hasher


def _npy_header(count: int, shape: Shape) -> bytes:
    """The header of an .npy file of uint8 (count, *shape), of the same length for every count."""
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
) -> DatasetInfo:
    """Make the data set ``out`` from ``source``, or continue an earlier attempt.

    A complete data set is left as it is.

    Args:
        name: one of `names`.
        source: for cifar10 the official archive or its folder, for celebahq256 GLOW's TFRecords in
            a folder or a .tar, or a folder of published LMDB files, for folder a folder, a zip file
            or a .tar of pictures, for idx a folder of idx files (`cld_core.data.idx`).
        size: height and width in pixels; required for a folder, fixed for the others.
        split: share of a folder's pictures for validation (`cld_core.data.folder`).
        channels: the channels of a folder's images: 1 for grey or 3 for coloured ones; None for 1
            if all pictures are grey.
        expect: number of images that each split must have; None for those published, {} for any.
        progress: called after each part; see `ProgressCallback`.

    Raises:
        UsageError: there is no such name, or an option does not fit it.
        WrongSourceError: the source is missing or something else, or ``out`` is something else.
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
            raise UsageError(
                f"Images of {name} have {spec.own_pixels or 'their own number of'} pixels a side, "
                f"not {size}. Omit --size, or prepare them as a folder."
            )
        if split is not None:
            raise UsageError(f"{name} has its own validation split. Omit --split.")
        if channels is not None:
            raise UsageError(f"{name} has its own channels. Omit --channels.")
        plan = plan_of(source)
        if expect is not None:
            plan = replace(plan, expect=expect)
    return build(plan, Path(out).expanduser(), progress)


def verify(path: str | Path, progress: Callable[[int, int], None] = lambda *_: None) -> DatasetInfo:
    """Read every image of the prepared data set ``path`` and compare it with what was prepared.

    Args:
        progress: called with the number of images read and the total.

    Raises:
        WrongSourceError: there is no prepared data set.
        DataError: the images differ.
    """
    root = Path(path)
    about = store.read_about(root)
    if about is None:
        raise WrongSourceError(f"{root} has no {store.ABOUT}: {store.prepare_hint('NAME', root)}")
    prepared = store.find(root, about.name)
    images = np.load(root / store.IMAGES, mmap_mode="r", allow_pickle=False)
    for split, info in about.splits.items():
        if _hash(images, about.rows(split), progress).hexdigest() != info.digest:
            raise DataError(
                f"The {split} images in {root} are not those that were prepared. "
                f"Remove {root} and prepare it again: {prepared.hint}"
            )
        if about.classes:
            prepared.labels(split)
    return about


@dataclass(frozen=True)
class Member:
    """A file of a folder or an archive.

    Attributes:
        name: its path below the source, with slashes.
        length: its size in bytes.
        read: returns its content.
        path: the path of the file, if it is in a folder.
    """

    name: str
    length: int
    read: Callable[[], bytes]
    path: Path | None = None


def members(source: Path, what: str, *, is_compressed: bool = False) -> list[Member]:
    """The files in ``source``, by name; in a folder, those that are not below a hidden one.

    Args:
        what: the kind of source that is needed, for messages.
        is_compressed: an archive is a .tar that may be compressed, which is slow to read file by
            file.

    Raises:
        WrongSourceError: ``source`` is neither a folder nor such an archive.
        DataError: ``source`` is damaged, or cannot be read.
    """
    if not source.is_dir() and not source.is_file():
        raise WrongSourceError(f"{source} does not exist, or is no file. Pass {what} as --source.")
    try:
        return sorted(_kind(source, is_compressed)(source), key=lambda member: member.name)
    except WrongSourceError as error:
        raise WrongSourceError(f"{error}. Pass {what} as --source.") from error
    except Exception as error:  # zipfile and tarfile may raise anything for a damaged file
        raise DataError(
            f"{source} cannot be listed, or is not complete ({one_line(error)}). "
            "Check its permissions, or fetch or make it again."
        ) from error


def _kind(source: Path, is_compressed: bool) -> Callable[[Path], Iterator[Member]]:
    if source.is_dir():
        return _in_folder
    with source.open("rb") as file:
        start = file.read(_TAR_AT + len(_TAR))
    if is_compressed or start.endswith(_TAR):
        return _in_tar
    # An empty file may have been anything. Some zip files begin with a program that unpacks them.
    if not start or start.startswith(b"PK") or zipfile.is_zipfile(source):
        return _in_zip
    raise WrongSourceError(
        f"{source} is neither a folder nor a zip file nor a .tar without compression"
    )


def _in_folder(source: Path) -> Iterator[Member]:
    """The files below a folder. Links are followed, and each folder is entered once."""
    entered = set()
    for folder, subfolders, files in os.walk(source, followlinks=True):
        subfolders[:] = [name for name in sorted(subfolders) if not name.startswith(".")]
        real = os.path.realpath(folder)
        if real in entered:
            subfolders.clear()
            continue
        entered.add(real)
        for file in files:
            path = Path(folder, file)
            # Skips broken links and pipes.
            if path.is_file():
                name = path.relative_to(source).as_posix()
                yield Member(name, path.stat().st_size, path.read_bytes, path)


def _in_zip(source: Path) -> Iterator[Member]:
    archive = zipfile.ZipFile(source)
    for entry in archive.infolist():
        if entry.filename and not entry.is_dir():
            yield Member(entry.filename, entry.file_size, partial(archive.read, entry))


def _in_tar(source: Path) -> Iterator[Member]:
    with tarfile.open(source) as archive:
        for entry in archive:
            if entry.isfile():
                # Removes "./", which many names begin with.
                name = PurePosixPath(entry.name).as_posix()
                yield Member(name, entry.size, partial(_read_of_tar, source, entry))
        # tarfile stops silently at a damaged or missing header.
        assert archive.fileobj is not None, "the archive is open"
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no end of the archive at byte {archive.offset}")


def _read_of_tar(source: Path, entry: tarfile.TarInfo) -> bytes:
    with tarfile.open(source) as archive:
        file = archive.extractfile(entry)
        assert file is not None, "the entry is a regular file"
        return file.read()
