"""CelebA-HQ from the TFRecords of GLOW (`celeba-tfr` or its .tar), or from published LMDB files.

Shards are named `train/train-r08-s-0000-of-0120.tfrecords`: r08 means 2^8 = 256 pixels, and 0120
shards belong together. A record has the features `shape` (int, H W C) and `data` (raw uint8 bytes,
H W C).
"""

import re
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from cld_core.config.keys import listed
from cld_core.errors import DataError, UsageError, WrongSourceError
from cld_core.sanitize import one_line

from .prepare import Member, Plan, SourcePart, members
from .store import CHANNELS, SPLITS, LmdbReader, Split, published

SIZE = 256
OFFICIAL_COUNTS = {"train": 27_000, "validation": 3_000}


def plan_celebahq(source: Path) -> Plan:
    """A plan of the shards in ``source``, or of the images in its LMDB files.

    Raises:
        DataError: some shards are missing, or the archive cannot be listed.
        WrongSourceError: ``source`` has no such shards and no LMDB files, or is something else.
        UsageError: the package tfrecord is not installed.
    """
    lmdbs = {split: published(source, split) for split in SPLITS}
    if any(lmdbs.values()):
        parts = [part for split in SPLITS for part in _lmdb_parts(source, split, lmdbs[split])]
    else:
        parts = _shard_parts(source)
    return Plan(
        name=f"celebahq{SIZE}",
        size=SIZE,
        source=source.name,
        parts=parts,
        expect=OFFICIAL_COUNTS,
    )


def _lmdb_parts(source: Path, split: Split, reader: LmdbReader | None) -> Iterator[SourcePart]:
    if reader is None:
        raise DataError(
            f"{source} has LMDB files, but none for {split}. "
            "Fetch it and run the same command again."
        )
    count, *_, size = reader.shape
    if size != SIZE:
        raise WrongSourceError(f"{reader.path} has images of {size}x{size}, not {SIZE}x{SIZE}.")
    for index in range(count):
        yield SourcePart(
            split=split,
            name=str(index),
            fingerprint=reader.about,
            read=partial(reader.__getitem__, [index]),
        )


def _shard_parts(source: Path) -> list[SourcePart]:
    files = members(source, "the folder celeba-tfr or celeba-tfr.tar")
    by_split = {split: _complete(files, split, source) for split in SPLITS}
    try:
        import tfrecord  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "TFRecords are read by the package tfrecord, which is not installed. "
            "Install it: pip install 'cldctl[tfrecord]'"
        ) from error
    parts = []
    for split, shards in by_split.items():
        for name, shard in shards.items():
            read = partial(_of_shard, name, shard)
            fingerprint = f"{shard.length} bytes"
            parts.append(SourcePart(split=split, name=name, fingerprint=fingerprint, read=read))
    return parts


def _of_shard(name: str, shard: Member) -> np.ndarray:
    from tfrecord.reader import tfrecord_loader

    images: list[np.ndarray] = []
    shape = (SIZE, SIZE, CHANNELS)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = shard.path or Path(folder) / "shard"
            if shard.path is None:
                path.write_bytes(shard.read())
            for features in tfrecord_loader(str(path), None, {"shape": "int", "data": "byte"}):
                stored_shape = tuple(features["shape"].tolist())
                if stored_shape != shape:
                    raise ValueError(f"the image has the shape {stored_shape}")
                images.append(np.frombuffer(features["data"], np.uint8).reshape(shape))
    except Exception as error:  # the package and its protocol buffers may raise anything
        raise DataError(
            f"{name}: record {len(images)} is not an image of {SIZE}x{SIZE} raw pixels "
            f"({one_line(error).rstrip('.')}). Fetch this file again."
        ) from error
    return np.array(images, np.uint8).reshape(-1, *shape).transpose(0, 3, 1, 2)


def _complete(files: Sequence[Member], split: Split, source: Path) -> dict[str, Member]:
    """The shards of a split in order, by name.

    Raises:
        DataError: some are missing.
        WrongSourceError: all are missing.
    """
    prefix = f"{split}-r{SIZE.bit_length() - 1:02d}-s-"
    by_name = {PurePosixPath(file.name).name: file for file in files}
    pattern = re.compile(rf"{prefix}\d{{4}}-of-(\d{{4}})\.tfrecords")
    totals = [int(match[1]) for match in map(pattern.fullmatch, by_name) if match]
    if not totals:
        raise WrongSourceError(
            f"{source} has no shards {split}-*.tfrecords of {SIZE}x{SIZE} images. Pass GLOW's "
            "celeba-tfr, complete with train and validation, or a folder of LMDB files as --source."
        )
    total = max(totals)
    names = [f"{prefix}{index:04d}-of-{total:04d}.tfrecords" for index in range(total)]
    missing = [name for name in names if name not in by_name]
    if missing:
        raise DataError(
            f"{source} lacks {len(missing)} of {total} shards of {split}: {listed(missing)}. "
            "Fetch them and run the same command again; finished parts are kept."
        )
    return {name: by_name[name] for name in names}
