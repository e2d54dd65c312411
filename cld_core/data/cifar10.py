"""CIFAR-10 from the official `cifar-10-python.tar.gz` or from the batch files in it.

A batch is a pickle of Python 2: a dictionary with b"data", uint8 of shape (10000, 3072), each row an image with
its red, green and blue planes one after the other. Pickles can run code, so this one is read by an unpickler that
accepts an array and its type, and nothing else.
"""

import hashlib
import io
import pickle
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cld_core.data.build import Plan, Unit
from cld_core.data.store import Split
from cld_core.errors import DataError

ARCHIVE = "cifar-10-python.tar.gz"
FOLDER = "cifar-10-batches-py"
SIZE = 32
OFFICIAL_COUNTS = {"train": 50_000, "validation": 10_000}
_BATCHES: dict[Split, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
    "validation": ("test_batch",),
}
_WANTED = frozenset(name for names in _BATCHES.values() for name in names)
_LONGEST_BATCH = 256 << 20


@dataclass(frozen=True)
class _Batches:
    """The batches that could be read, by name, and the error that kept the others from being read."""

    files: Mapping[str, bytes]
    damage: Exception | None = None


def plan_cifar10(source: Path, expect: Mapping[str, int] | None = None) -> Plan:
    """The six batches of the archive or the folder ``source``, all of them in memory (184 MB).

    Raises:
        DataError: ``source`` does not exist. A missing or damaged batch raises when it is read.
    """
    if source.is_dir():
        batches = _in_folder(source / FOLDER if (source / FOLDER).is_dir() else source)
    elif source.is_file():
        batches = _in_archive(source)
    else:
        raise DataError(f"{source} does not exist. Pass {ARCHIVE} or its folder as --source, or add --download.")
    return Plan(
        name="cifar10",
        size=SIZE,
        source=source.name,
        units={split: [_unit(batches, name, source) for name in names] for split, names in _BATCHES.items()},
        expect=OFFICIAL_COUNTS if expect is None else expect,
    )


def _unit(batches: _Batches, name: str, source: Path) -> Unit:
    data = batches.files.get(name, b"")

    def read() -> Iterator[bytes]:
        if name in batches.files:
            return _images_of_batch(data, f"{source}: {name}")
        if batches.damage is not None:
            raise DataError(
                f"{name} could not be extracted from {source}, which is damaged or cut short ({batches.damage}). "
                f"Fetch {ARCHIVE} again."
            ) from batches.damage
        raise DataError(f"{source} has no {name}. Is it the official {ARCHIVE}? Fetch it again.")

    return Unit(name=name, fingerprint=hashlib.blake2b(data, digest_size=16).hexdigest(), read=read)


def _in_folder(folder: Path) -> _Batches:
    return _Batches({name: (folder / name).read_bytes() for name in _WANTED if (folder / name).is_file()})


def _in_archive(path: Path) -> _Batches:
    """The batches, extracted in one pass; of an archive that was cut, those before the cut.

    Other damage shows only in the checksum at the archive's end, so it makes all batches doubtful.
    """
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = Path(member.name).name
                file = archive.extractfile(member) if name in _WANTED and member.size <= _LONGEST_BATCH else None
                if file is not None:
                    files[name] = file.read()
            assert archive.fileobj is not None, "an open archive has a file"
            while archive.fileobj.read(1 << 20):
                pass
    except EOFError as error:
        return _Batches(files, error)
    except (tarfile.TarError, OSError, zlib.error) as error:
        # For a file of another kind, tarfile lists everything that it has tried.
        return _Batches({}, tarfile.TarError("it is not a tar archive") if "opened" in str(error) else error)
    return _Batches(files)


def _images_of_batch(data: bytes, name: str) -> Iterator[bytes]:
    rows = _read_batch(data, name)
    planes = rows.reshape(-1, 3, SIZE, SIZE)
    for image in planes.transpose(0, 2, 3, 1):
        yield image.tobytes()


def _read_batch(data: bytes, name: str) -> np.ndarray:
    """The images of a batch, uint8 of shape (n, 3072)."""
    try:
        batch = _BatchUnpickler(io.BytesIO(data), encoding="bytes").load()
        stored = batch[b"data"]
        if not isinstance(stored, _Array):
            raise TypeError(f"its data are a {type(stored).__name__}, not an array")
        rows = stored.to_numpy()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise DataError(f"{name} is not a batch of CIFAR-10 ({error!r}). Fetch {ARCHIVE} again.") from error
    if rows.ndim != 2 or rows.shape[1] != 3 * SIZE * SIZE:
        raise DataError(f"{name} has data of shape {rows.shape}, not (10000, 3072). Fetch {ARCHIVE} again.")
    return rows


@dataclass
class _Type:
    """Stands for numpy.dtype while a batch is read; only unsigned bytes occur."""

    code: Any

    def __setstate__(self, state: Any) -> None:
        """Ignore the byte order and the like, which a type of one byte does not have."""


@dataclass
class _Array:
    """Stands for numpy.ndarray while a batch is read: its state, kept to be checked."""

    state: tuple[Any, ...] = field(default=())

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def to_numpy(self) -> np.ndarray:
        _, shape, kind, fortran, raw = self.state
        if not isinstance(kind, _Type) or kind.code not in ("u1", b"u1") or not isinstance(raw, bytes):
            raise TypeError("its data are not unsigned bytes")
        return np.frombuffer(raw, dtype=np.uint8).reshape(shape, order="F" if fortran else "C")


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _type(code: Any, *_: Any) -> _Type:
    return _Type(code)


def _encode(text: str, encoding: str) -> bytes:
    """The way in which Python 3 writes bytes into a pickle that Python 2 can read."""
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"unexpected encoding {encoding!r}")
    return text.encode("latin1")


class _BatchUnpickler(pickle.Unpickler):
    """Accepts the names that a pickled array of bytes needs, and returns harmless stand-ins for them."""

    _known: ClassVar[dict[tuple[str, str], Callable[..., Any]]] = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _type,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._known[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which does not belong in it") from None
