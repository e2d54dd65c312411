"""CelebA-HQ from the TFRecords of GLOW (`celeba-tfr`), a folder or its .tar, read shard by shard.

Shards are named `train/train-r08-s-0000-of-0120.tfrecords`: r08 means 2^8 = 256 pixels, and 0120 shards belong
together. A record has the features `shape` (int, H W C), `data` (raw uint8 bytes, H W C) and `label` (int, unused:
the models are unconditional).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from cld_core.data.build import Plan, Unit
from cld_core.data.store import SPLITS, Split
from cld_core.data.tfrecord import Readable, parse_example, read_records
from cld_core.errors import DataError, UsageError, WrongSourceError
from cld_core.files import opened
from cld_core.sanitize import one_line

from . import tar

OFFICIAL_COUNTS = {"train": 27_000, "validation": 3_000}
_SHARD = re.compile(r"(?P<split>train|validation)-r(?P<log>\d\d)-s-(?P<index>\d{4})-of-(?P<shards>\d{4})\.tfrecords$")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


_Opener = Callable[[], AbstractContextManager[Readable]]


@dataclass(frozen=True)
class _File:
    name: str
    length: int
    open: _Opener


def plan_celebahq(source: Path, size: int = 256, expect: Mapping[str, int] | None = None) -> Plan:
    """The shards of ``size`` x ``size`` pixels in ``source``.

    Raises:
        DataError: some shards are missing, or the archive cannot be listed.
        WrongSourceError: there are no such shards at all, or ``source`` is something else.
        UsageError: ``size`` is not a power of two.
    """
    log = size.bit_length() - 1
    if size < 1 or 1 << log != size:
        raise UsageError(f"CelebA-HQ has sizes that are powers of two, not {size}. Pass --size 256.")
    files = _list(source)
    by_split = {split: _shards(files, split, log) for split in SPLITS}
    _refuse_missing(by_split, source, log)
    units = {
        split: [
            Unit(name=file.name, fingerprint=f"{file.length} bytes", read=partial(_images, file, size))
            for file in by_split[split].values()
        ]
        for split in SPLITS
    }
    return Plan(
        name=f"celebahq{size}",
        size=size,
        source=source.name,
        units=units,
        expect=OFFICIAL_COUNTS if expect is None else expect,
    )


def _images(file: _File, size: int) -> Iterator[bytes]:
    """The raw RGB bytes of the shard's images."""
    wanted = [size, size, 3]
    with file.open() as records:
        for number, record in enumerate(read_records(records, file.name)):
            try:
                features = parse_example(record)
            except ValueError as error:
                raise DataError(f"{file.name}: record {number} is not a tf.train.Example: {error}.") from error
            shape, data = features.get("shape"), features.get("data")
            if shape != wanted:
                raise DataError(f"{file.name}: record {number} has the shape {one_line(shape, 60)}, not {wanted}.")
            if not data or not isinstance(data[0], bytes):
                raise DataError(f"{file.name}: record {number} has no feature `data` with the bytes of an image.")
            if len(data[0]) != size * size * 3:
                raise DataError(
                    f"{file.name}: record {number} has {len(data[0])} bytes of data, not {size * size * 3} "
                    "(raw pixels are expected, not a JPEG or PNG file)."
                )
            yield data[0]


def _list(source: Path) -> list[_File]:
    try:
        if source.is_dir():
            # Neither broken links nor pipes.
            return [_in_folder(path) for path in sorted(source.rglob("*.tfrecords")) if path.is_file()]
        if not source.is_file():
            text = f"{source} does not exist. Pass the folder celeba-tfr or celeba-tfr.tar as --source."
            raise WrongSourceError(text)
        if source.name.endswith(_COMPRESSED):
            text = "is compressed and cannot be read in pieces. Unpack it, and pass --source FOLDER"
            raise WrongSourceError(f"{source} {text}.")
        with opened(source, follow=True) as file:
            members = list(tar.Reader(file).members())
    except (tar.TarError, EOFError) as error:
        if not tar.begins_as_archive(source):
            text = f"{source} is not a .tar archive. Pass the folder celeba-tfr or celeba-tfr.tar as --source."
            raise WrongSourceError(text) from error
        raise DataError(f"{source} is not a complete .tar archive ({error}). Fetch it again.") from error
    except OSError as error:
        raise DataError(f"{source} cannot be read: {one_line(error)}. Check its permissions.") from error
    return [
        _File(PurePosixPath(member.name).name, member.size, partial(_Slice, source, member.offset, member.size))
        for member in members
    ]


def _in_folder(path: Path) -> _File:
    size = path.stat().st_size
    return _File(path.name, size, partial(_Slice, path, 0, size))


class _Slice(AbstractContextManager[Readable]):
    """A file, or a member of an uncompressed archive, read directly from its place in the archive."""

    def __init__(self, path: Path, offset: int, length: int) -> None:
        self._path = path
        self._at = offset
        self._end = offset + length

    def __enter__(self) -> "_Slice":
        self._file = open(self._path, "rb")
        self._file.seek(self._at)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        data = self._file.read(min(size, self._end - self._at))
        self._at += len(data)
        return data


def _shards(files: list[_File], split: Split, log: int) -> dict[tuple[int, int], _File]:
    """The shards of a split by (index, total number), in order."""
    shards = {}
    for file in files:
        match = _SHARD.match(file.name)
        if match and match["split"] == split and int(match["log"]) == log:
            shards[int(match["index"]), int(match["shards"])] = file
    return dict(sorted(shards.items()))


def _refuse_missing(by_split: Mapping[Split, dict[tuple[int, int], _File]], source: Path, log: int) -> None:
    for split, shards in by_split.items():
        if not shards:
            raise (DataError if any(by_split.values()) else WrongSourceError)(
                f"{source} has no shards named {split}-r{log:02d}-s-0000-of-NNNN.tfrecords. "
                "Pass GLOW's celeba-tfr, complete with train and validation, as --source."
            )
        totals = {total for _, total in shards}
        if len(totals) > 1:
            raise DataError(
                f"{source} mixes shards of {split} from sets of {sorted(totals)}. Keep the files of one set."
            )
        total = totals.pop()
        missing = [index for index in range(total) if (index, total) not in shards]
        if missing:
            names = ", ".join(f"{split}-r{log:02d}-s-{index:04d}-of-{total:04d}.tfrecords" for index in missing[:5])
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise DataError(
                f"{source} lacks {len(missing)} of {total} shards of {split}: {names}{more}. Fetch them and run "
                "the same command again; finished parts are kept."
            )
