"""CelebA-HQ from the TFRecords of GLOW (`celeba-tfr`), a folder or its .tar, or from published LMDB files.

Shards are named `train/train-r08-s-0000-of-0120.tfrecords`: r08 means 2^8 = 256 pixels, and 0120 shards belong
together. A record has the features `shape` (int, H W C) and `data` (raw uint8 bytes, H W C).
"""

import re
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from cld_core.errors import DataError, UsageError, WrongSourceError
from cld_core.sanitize import one_line

from .lmdb_images import LmdbReader, published
from .prepare import Part, Plan
from .store import CHANNELS, SPLITS, Split

OFFICIAL_COUNTS = {"train": 27_000, "validation": 3_000}
_SHARD = re.compile(r".*-s-(?P<index>\d{4})-of-(?P<shards>\d{4})\.tfrecords$")


@dataclass(frozen=True)
class _Shard:
    """A file, or a member of the archive ``path``."""

    name: str
    bytes: int
    path: Path
    member: tarfile.TarInfo | None = None

    def unpacked(self, folder: Path) -> Path:
        """A path under which it can be read; a member is unpacked into ``folder``."""
        if self.member is None:
            return self.path
        with tarfile.open(self.path, "r:") as archive:
            archive.extract(self.member.replace(name="shard"), folder, filter="data")
        return folder / "shard"


def plan_celebahq(source: Path, size: int = 256, expect: Mapping[str, int] | None = None) -> Plan:
    """The shards of ``size`` x ``size`` pixels in ``source``, or the images in its LMDB files.

    Raises:
        DataError: some shards are missing, or the archive cannot be listed.
        WrongSourceError: there are no such shards at all, or ``source`` is something else.
        UsageError: ``size`` is not a power of two, or the package tfrecord is not installed.
    """
    if size.bit_count() != 1:
        raise UsageError(f"CelebA-HQ has sizes that are powers of two, not {size}. Pass --size 256.")
    lmdbs = {split: published(source, split) for split in SPLITS}
    if any(lmdbs.values()):
        parts = [part for split in SPLITS for part in _lmdb_parts(source, split, lmdbs[split], size)]
    else:
        parts = _shard_parts(source, size)
    return Plan(
        name=f"celebahq{size}",
        size=size,
        source=source.name,
        parts=parts,
        expect=OFFICIAL_COUNTS if expect is None else expect,
    )


def _lmdb_parts(source: Path, split: Split, reader: LmdbReader | None, size: int) -> Iterator[Part]:
    if reader is None:
        raise DataError(f"{source} has LMDB files, but none for {split}. Fetch it and run the same command again.")
    if reader.size != size:
        raise WrongSourceError(f"{reader.path} has images of {reader.size}x{reader.size}, not {size}x{size}.")
    for index in range(reader.n):
        yield Part(split=split, name=str(index), fingerprint=reader.about, read=partial(reader.read, (index,)))


def _shard_parts(source: Path, size: int) -> list[Part]:
    log = size.bit_length() - 1
    shards = _list(source)
    by_split = {split: _complete(shards, split, log, source) for split in SPLITS}
    try:
        import tfrecord  # noqa: F401
    except ImportError as error:
        text = "TFRecords are read by the package tfrecord, which is not installed"
        raise UsageError(f"{text}. Install it: pip install 'cldctl[tfrecord]'") from error
    return [
        Part(split=split, name=shard.name, fingerprint=f"{shard.bytes} bytes", read=partial(_of_shard, shard, size))
        for split in SPLITS
        for shard in by_split[split]
    ]


def _of_shard(shard: _Shard, size: int) -> np.ndarray:
    from tfrecord.reader import tfrecord_loader

    images: list[np.ndarray] = []
    shape = (size, size, CHANNELS)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = shard.unpacked(Path(folder))
            for features in tfrecord_loader(str(path), None, {"shape": "int", "data": "byte"}):
                found = tuple(features["shape"].tolist())
                if found != shape:
                    raise ValueError(f"the image has the shape {found}")
                images.append(np.frombuffer(features["data"], np.uint8).reshape(shape))
    except Exception as error:  # the package and its protocol buffers raise whatever they like
        text = f"{shard.name}: record {len(images)} is not an image of {size}x{size} raw pixels"
        raise DataError(f"{text} ({one_line(error).rstrip('.')}). Fetch this file again.") from error
    return np.array(images, np.uint8).reshape(-1, *shape).transpose(0, 3, 1, 2)


def _list(source: Path) -> list[_Shard]:
    if source.is_dir():
        # Neither broken links nor pipes.
        paths = [path for path in sorted(source.rglob("*.tfrecords")) if path.is_file()]
        return [_Shard(path.name, path.stat().st_size, path) for path in paths]
    if not source.is_file():
        raise WrongSourceError(f"{source} does not exist. Pass the folder celeba-tfr or celeba-tfr.tar as --source.")
    members: list[tarfile.TarInfo] | None = None
    try:
        with tarfile.open(source, "r:") as archive:
            members = []
            members.extend(archive)
    except (tarfile.TarError, OSError) as error:
        if members is None:
            text = f"{source} is not a .tar archive, or compressed ({one_line(error)})"
            raise WrongSourceError(f"{text}. Unpack it, and pass the folder as --source.") from error
        raise DataError(f"{source} is not a complete .tar archive ({one_line(error)}). Fetch it again.") from error
    return [_Shard(PurePosixPath(it.name).name, it.size, source, it) for it in members if it.isfile()]


def _complete(shards: list[_Shard], split: Split, log: int, source: Path) -> list[_Shard]:
    """The shards of a split in order.

    Raises:
        DataError: some are missing; WrongSourceError: all are.
    """
    prefix = f"{split}-r{log:02d}-s-"
    numbered, total = {}, 0
    for shard in shards:
        match = _SHARD.match(shard.name)
        if match is not None and shard.name.startswith(prefix):
            numbered[int(match["index"])], total = shard, int(match["shards"])
    if not numbered:
        raise WrongSourceError(
            f"{source} has no shards named {prefix}0000-of-NNNN.tfrecords. "
            "Pass GLOW's celeba-tfr, complete with train and validation, or a folder of LMDB files as --source."
        )
    missing = [f"{prefix}{index:04d}-of-{total:04d}.tfrecords" for index in range(total) if index not in numbered]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise DataError(
            f"{source} lacks {len(missing)} of {total} shards of {split}: {', '.join(missing[:5])}{more}. "
            "Fetch them and run the same command again; finished parts are kept."
        )
    return [numbered[index] for index in range(total)]
