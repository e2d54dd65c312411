"""CIFAR-10 from the official `cifar-10-python.tar.gz` or from the batch files in it.

A batch is a pickle of Python 2: a dictionary with b"data", uint8 of shape (10000, 3072), each row an image with
its red, green and blue planes one after the other, and b"labels", a list of their classes. Pickles can run code, so
this one is read by an unpickler that accepts an array and its type, and nothing else.
"""

import contextlib
import hashlib
import io
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np

from cld_core.data.build import Plan, Unit
from cld_core.data.store import Split
from cld_core.errors import DataError, WrongSourceError
from cld_core.files import opened, read_bytes
from cld_core.sanitize import one_line

from . import tar

ARCHIVE = "cifar-10-python.tar.gz"
FOLDER = "cifar-10-batches-py"
SIZE = 32
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
OFFICIAL_COUNTS = {"train": 50_000, "validation": 10_000}
_BATCHES: dict[Split, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
    "validation": ("test_batch",),
}
_WANTED = frozenset(name for names in _BATCHES.values() for name in names)
# Twice a batch, and five times the archive unpacked.
_LONGEST_BATCH, _LONGEST_ARCHIVE = 64 << 20, 1 << 30


@dataclass(frozen=True)
class _Batches:
    """The batches that could be read, by name, and the error that kept the others from being read."""

    files: Mapping[str, bytes]
    damage: Exception | None = None


def plan_cifar10(source: Path, expect: Mapping[str, int] | None = None) -> Plan:
    """The six batches of the archive or the folder ``source``, all of them in memory (184 MB).

    Raises:
        WrongSourceError: ``source`` does not exist, or has nothing of CIFAR-10. A batch that is missing or damaged
            raises DataError when it is read.
    """
    if source.is_dir():
        batches = _in_folder(source / FOLDER if (source / FOLDER).is_dir() else source)
    elif source.is_file():
        batches = _in_archive(source)
    else:
        text = f"{source} does not exist. Pass {ARCHIVE} or its folder as --source, or add --download."
        raise WrongSourceError(text)
    if not batches.files and (source.is_dir() or not tar.begins_as_archive(source)):
        text = f"{source} has no {_BATCHES['train'][0]} and no other batch of CIFAR-10"
        raise WrongSourceError(f"{text}. Pass {ARCHIVE} or its folder as --source.")
    return Plan(
        name="cifar10",
        size=SIZE,
        source=source.name,
        units={split: [_unit(batches, name, source) for name in names] for split, names in _BATCHES.items()},
        expect=OFFICIAL_COUNTS if expect is None else expect,
        classes=CLASSES,
    )


def _unit(batches: _Batches, name: str, source: Path) -> Unit:
    data = batches.files.get(name, b"")

    def read() -> Iterator[bytes]:
        if name in batches.files:
            return _images_of_batch(data, f"{source}: {name}")
        if batches.damage is not None:
            why = f"which is damaged or cut short ({one_line(batches.damage)})"
            text = f"{name} could not be extracted from {source}, {why}. Fetch {ARCHIVE} again."
            raise DataError(text) from batches.damage
        raise DataError(f"{source} has no {name}. Is it the official {ARCHIVE}? Fetch it again.")

    fingerprint = hashlib.blake2b(data, digest_size=16).hexdigest()
    return Unit(name=name, fingerprint=fingerprint, read=read, labels=partial(_read_labels, data, f"{source}: {name}"))


def _in_folder(folder: Path) -> _Batches:
    try:
        # A link to a file is followed, a pipe is not waited for.
        found = [folder / name for name in sorted(_WANTED) if (folder / name).is_file()]
        return _Batches({path.name: read_bytes(path, limit=_LONGEST_BATCH, follow=True) for path in found})
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {one_line(error)}. Fetch {ARCHIVE} again.") from error


def _in_archive(path: Path) -> _Batches:
    """The batches, extracted in one pass; of an archive that was cut, those before the cut.

    Other damage shows only in the checksum at the archive's end, so it makes all batches doubtful.
    """
    files: dict[str, bytes] = {}
    try:
        with opened(path, follow=True) as file:
            archive = tar.Reader(tar.decompressed(file), most=_LONGEST_ARCHIVE)
            for member in archive.members():
                name = PurePosixPath(member.name).name
                if name in _WANTED and member.size <= _LONGEST_BATCH:
                    files[name] = archive.read(member)
            archive.rest()
    except EOFError as error:
        return _Batches(files, error)
    except (tar.TarError, *tar.DAMAGE) as error:
        return _Batches({}, error)
    return _Batches(files)


def _images_of_batch(data: bytes, name: str) -> Iterator[bytes]:
    rows = _read_batch(data, name)
    planes = rows.reshape(-1, 3, SIZE, SIZE)
    for image in planes.transpose(0, 2, 3, 1):
        yield image.tobytes()


@contextlib.contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Raise whatever a damaged pickle leads to as `DataError`."""
    try:
        yield
    except Exception as error:
        what = f"{type(error).__name__}: {one_line(error)}"
        raise DataError(f"{name} is not a batch of CIFAR-10 ({what}). Fetch {ARCHIVE} again.") from error


def _read_labels(data: bytes, name: str) -> list[int]:
    """The labels of a batch."""
    with _refusing(name):
        labels = _BatchUnpickler(io.BytesIO(data), encoding="bytes").load()[b"labels"]
        if not isinstance(labels, list) or not all(type(label) is int for label in labels):
            raise TypeError("its labels are not a list of numbers")
        if not all(0 <= label < len(CLASSES) for label in labels):
            raise ValueError(f"its labels are not of {len(CLASSES)} classes")
    return labels


def _read_batch(data: bytes, name: str) -> np.ndarray:
    """The images of a batch, uint8 of shape (n, 3072)."""
    with _refusing(name):
        batch = _BatchUnpickler(io.BytesIO(data), encoding="bytes").load()
        stored = batch[b"data"]
        if not isinstance(stored, _Array):
            raise TypeError(f"its data are a {type(stored).__name__}, not an array")
        rows = stored.to_numpy()
    if rows.ndim != 2 or rows.shape[1] != 3 * SIZE * SIZE:
        raise DataError(
            f"{name} has data of shape {one_line(rows.shape, 60)}, not (10000, 3072). Fetch {ARCHIVE} again."
        )
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
        raise pickle.UnpicklingError("unexpected encoding")
    return text.encode("latin1")


_OPCODES = (
    *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK, pickle.DUP),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2),
    *(pickle.LONG, pickle.LONG1, pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING),
    *(pickle.UNICODE, pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE8),
    *(pickle.BINBYTES, pickle.SHORT_BINBYTES, pickle.BINBYTES8),
    *(pickle.TUPLE, pickle.EMPTY_TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.LIST, pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT),
    *(pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.GET, pickle.BINGET, pickle.LONG_BINGET),
    *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE),
)


class _BatchUnpickler(pickle._Unpickler):
    """Accepts the names that a pickled array of bytes needs, and returns harmless stand-ins for them.

    It is the one that is written in Python, whose opcodes can be chosen: the other one fills the memory if an object is
    kept under a large number, and hashes nested tuples that would take years.
    """

    _known: ClassVar[dict[tuple[str, str], Callable[..., Any]]] = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _type,
        ("_codecs", "encode"): _encode,
    }

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._known[module, name]
        except (KeyError, TypeError):
            shown = f"{one_line(module, 60)}.{one_line(name, 60)}"
            raise pickle.UnpicklingError(f"it refers to {shown}, which does not belong in it") from None

    def _set_items(self) -> None:
        items = self.pop_mark()
        self._update(list(zip(items[::2], items[1::2], strict=True)))

    def _dictionary(self) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self._update(list(zip(items[::2], items[1::2], strict=True)))

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([(key, value)])

    def _update(self, items: list[tuple[Any, Any]]) -> None:
        if not all(isinstance(key, str | bytes | int) for key, _ in items):
            raise pickle.UnpicklingError("it has a dictionary of other things than names")
        if not isinstance(self.stack[-1], dict):
            raise pickle.UnpicklingError("it has items of no dictionary")
        self.stack[-1].update(items)

    def _build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _Array | _Type):
            raise pickle.UnpicklingError("it has the state of something other than an array")
        self.stack[-1].__setstate__(state)

    dispatch: ClassVar[dict[int, Any]] = {
        **{code[0]: pickle._Unpickler.dispatch[code[0]] for code in _OPCODES},
        pickle.DICT[0]: _dictionary,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.BUILD[0]: _build,
    }
