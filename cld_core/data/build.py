"""Builds a data set on disk from a plan, unit by unit; it can be resumed after each, and is complete or absent.

A unit is what is read and written at once: a shard, a batch file, some hundred pictures. After a unit, its images and
its entry in DIR.partial/progress.json are on disk. A later attempt keeps the leading units that are unchanged in its
source and continues after them. At the end the folder is renamed to DIR.
"""

import errno
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import lmdb

from cld_core.data.lmdb_store import LmdbWriter
from cld_core.data.store import (
    CHANNELS,
    PROGRESS,
    SPLITS,
    Checksum,
    Manifest,
    Split,
    SplitInfo,
    lmdb_path,
    partial_path,
    read_manifest,
    write_manifest,
)
from cld_core.errors import DataError, WrongSourceError
from cld_core.files import sync_folder
from cld_core.sanitize import one_line

from . import image_labels, unfinished
from .unfinished import Done

_SECONDS_BETWEEN_REPORTS = 0.1
# The place is the trouble, not the disk.
_WRONG_PLACE = (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A part of the source: ``read()`` yields images as raw RGB bytes, ``fingerprint`` changes when the part does.

    ``labels()`` are the indices of their classes, in the same order, if the plan has classes.
    """

    name: str
    fingerprint: str
    read: Callable[[], Iterable[bytes]]
    labels: Callable[[], Sequence[int]] = tuple


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to build: the units of each split, and in ``expect`` the number of images that they must give.

    ``classes`` names the classes of the images; empty if they have no labels.
    """

    name: str
    size: int
    source: str
    units: Mapping[Split, Sequence[Unit]]
    expect: Mapping[str, int] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def digest(self) -> str:
        """Digest of the source's units, by which a second preparation sees whether there is anything to do."""
        checksum = Checksum()
        for split in SPLITS:
            for unit in self.units.get(split, ()):
                checksum.add("\x1f".join((split, unit.name, unit.fingerprint)).encode())
        return checksum.state


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of a preparation; ``images`` and ``expected`` count all splits, ``expected`` is None if unknown."""

    split: str
    unit: str
    units_done: int
    units: int
    images: int
    expected: int | None


ProgressCallback = Callable[[Progress], None]


def build(plan: Plan, out: Path, progress: ProgressCallback | None = None) -> Manifest:
    """Make the data set ``out``, unless it exists, and return its manifest.

    Raises:
        DataError: the source is damaged or short. Finished units are kept.
        WrongSourceError: ``out`` is something else, or cannot be made.
    """
    digest = plan.digest()
    done_before = _already_there(plan, out, digest)
    if done_before is not None:
        return done_before
    partial = partial_path(out)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        unfinished.require_own(partial)
    except OSError as error:
        kind = WrongSourceError if error.errno in _WRONG_PLACE else DataError
        raise kind(f"{partial} cannot be created: {error.strerror}. Choose another --out.") from error
    with unfinished.sole_writer(partial):
        try:
            return _build(plan, digest, partial, out, progress)
        except BaseException:
            unfinished.remove_if_useless(partial)
            raise


def _build(plan: Plan, digest: str, partial: Path, out: Path, progress: ProgressCallback | None) -> Manifest:
    job = _Job(plan, partial, progress)
    try:
        splits: dict[str, SplitInfo] = {split: job.build_split(split) for split in SPLITS if split in plan.units}
        manifest = Manifest(name=plan.name, size=plan.size, splits=splits, source=plan.source, source_digest=digest)
        write_manifest(partial, _with_labels(plan, partial, manifest))
        os.replace(partial, out)
        sync_folder(out.parent)
    except (DataError, lmdb.Error, OSError) as error:
        raise DataError(f"{one_line(error, 1000).rstrip('.')}. {job.what_is_kept()}") from error
    for leftover in (PROGRESS, unfinished.LOCK):
        (out / leftover).unlink(missing_ok=True)
    made = read_manifest(out)
    assert made is not None, "the manifest has just been written"
    return made


def _with_labels(plan: Plan, root: Path, manifest: Manifest) -> Manifest:
    """The manifest after the labels of all splits are written, if the plan has classes.

    Raises:
        DataError: there is not one for each image.
    """
    if not plan.classes:
        return manifest
    splits = {}
    for split, info in manifest.splits.items():
        labels = [label for unit in plan.units[cast(Split, split)] for label in unit.labels()]
        if len(labels) != info.count:
            raise DataError(f"{plan.source} has {len(labels)} labels for {info.count} images of {split}.")
        splits[split] = replace(info, labels=image_labels.write(root, split, labels))
    return replace(manifest, splits=splits, classes=plan.classes)


def _already_there(plan: Plan, out: Path, digest: str) -> Manifest | None:
    manifest = read_manifest(out)
    if manifest is not None:
        if (manifest.name, manifest.size, manifest.source_digest) == (plan.name, plan.size, digest):
            return manifest
        raise WrongSourceError(
            f"{out} already holds {manifest.name} at {manifest.size}x{manifest.size}, made from {manifest.source}. "
            "Remove that folder or choose another --out."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise WrongSourceError(f"{out} exists and is not a prepared data set. Choose another --out.")
    return None


class _Job:
    def __init__(self, plan: Plan, partial: Path, callback: ProgressCallback | None) -> None:
        self.plan = plan
        self.partial = partial
        self.done = self._load()
        self._callback = callback
        self._reported = float("-inf")
        known = all(split in plan.expect for split in plan.units)
        self._expected = sum(plan.expect[split] for split in plan.units) if known else None
        self._units = sum(len(units) for units in plan.units.values())

    def _load(self) -> dict[Split, list[Done]]:
        """The leading units that are finished and unchanged in the source."""
        before = unfinished.read(self.partial, self.plan.size)
        kept: dict[Split, list[Done]] = {split: [] for split in self.plan.units}
        for split, units in self.plan.units.items():
            for unit, done in zip(units, before.get(split, ()), strict=False):
                if (unit.name, unit.fingerprint) != (done.name, done.fingerprint):
                    break
                kept[split].append(done)
        return kept

    def _save(self) -> None:
        unfinished.write(self.partial, self.plan.size, self.done)

    def what_is_kept(self) -> str:
        images = sum(unit.images for units in self.done.values() for unit in units)
        units = sum(len(units) for units in self.done.values())
        if not units:
            return "0 images were finished, so nothing is kept. Fix that and run the same command again."
        return (
            f"The finished part is kept in {self.partial}: {images} images, {units} of {self._units} pieces. "
            "Fix the source and run the same command again to continue from there."
        )

    def build_split(self, split: Split) -> SplitInfo:
        done = self.done[split]
        path = lmdb_path(self.partial, split)
        if not done:
            (path / "data.mdb").unlink(missing_ok=True)
        with LmdbWriter(path) as writer:
            for unit in self.plan.units[split][len(done) :]:
                self._build_unit(split, unit, writer)
            count = sum(unit.images for unit in done)
            self._check_count(split, count)
            writer.cut(count)
            entries = writer.close()
        if entries != count:
            raise DataError(f"{path} has {entries} entries, not {count}. Remove {self.partial} and start again.")
        return SplitInfo(
            count=count,
            file_bytes=os.path.getsize(path / "data.mdb"),
            checksum=done[-1].checksum if done else "",
        )

    def _build_unit(self, split: Split, unit: Unit, writer: LmdbWriter) -> None:
        done = self.done[split]
        checksum = Checksum(done[-1].checksum if done else "")
        length = self.plan.size * self.plan.size * CHANNELS
        images: list[bytes] = []
        for image in unit.read():
            if len(image) != length:
                size = self.plan.size
                raise DataError(f"{unit.name}: an image has {len(image)} bytes, not {size} x {size} x 3 = {length}.")
            checksum.add(image)
            images.append(image)
            self._report(split, unit, len(images))
        writer.put(sum(unit.images for unit in done), images)
        done.append(Done(name=unit.name, fingerprint=unit.fingerprint, images=len(images), checksum=checksum.state))
        try:
            self._save()
        except BaseException:
            done.pop()  # Not on the disk, so not kept.
            raise
        self._report(split, unit, 0, now=True)

    def _report(self, split: Split, unit: Unit, images: int, *, now: bool = False) -> None:
        if self._callback is None or (not now and time.monotonic() < self._reported + _SECONDS_BETWEEN_REPORTS):
            return
        self._reported = time.monotonic()
        finished = [unit for units in self.done.values() for unit in units]
        self._callback(
            Progress(
                split=split,
                unit=unit.name,
                units_done=len(finished),
                units=self._units,
                images=sum(unit.images for unit in finished) + images,
                expected=self._expected,
            )
        )

    def _check_count(self, split: Split, count: int) -> None:
        if not count:
            raise DataError(f"{self.plan.source} has no images for {split}.")
        expected = self.plan.expect.get(split, count)
        if count == expected:
            return
        usual, _ = Counter(unit.images for unit in self.done[split]).most_common(1)[0]
        odd = [f"{unit.name} ({unit.images})" for unit in self.done[split] if unit.images != usual]
        named = f" Most pieces have {usual}, but not {', '.join(odd[:5])}." if odd else ""
        raise DataError(f"{split} has {count} images, but {expected} are expected.{named}")
