"""Arrays of numbers, in files or in memory: found, looked at, measured for their scaling. Loads no torch.

    X.npy              the examples, an array (N, d), (N, C, L) or (N, C, H, W); labels in X_labels.npy beside it
    X.npz              x or its only array; if there are: labels, test and test_labels; likewise X.safetensors
    FOLDER             train and test, each a file as above; test may be called validation, valid or val

They are memory-mapped, except for compressed archives. Without a test set, a share of the examples is one: each row is
in it or not by a hash of its number alone, so that more rows never move others.
"""

import functools
import hashlib
import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cld_core.classes import Classes
from cld_core.config.data import ArraysSpec, StoredDataSpec
from cld_core.errors import DataError, WrongSourceError
from cld_core.sanitize import one_line

from .form import GREY_LEVELS, SPLITS, Form, Scaling, Split

# Larger arrays stay on disk: every rank of a machine holds its own copy. They are not looked at as a whole.
MEMORY_BYTES = 2 << 30
SUFFIXES = (".npy", ".npz", ".safetensors")
_TESTS = ("test", "validation", "valid", "val")
# Of what is in a file, beside the examples.
_OTHERS = ("labels", "test", "test_labels")
# Numbers that are looked at together, and bytes of large arrays that are looked at or hashed, evenly spread.
_BLOCK, _SAMPLE_BYTES = 1 << 20, 256 << 20
# A test share of fewer examples says little.
_FEW = 100
_SHOWN = 8
# Of float32, in which models compute.
_LARGEST = float(np.finfo(np.float32).max)

Scalings = Literal["standard", "range", "none"]


@dataclass(frozen=True, eq=False)
class Part:
    """The examples of a split: all rows of an array, or some.

    Attributes:
        x: (N, C, ...).
        labels: (N,), integers or texts as they were given; None without labels.
        rows: (n,), int64, rising: those of the split; None for all.
    """

    x: np.ndarray
    labels: np.ndarray | None = None
    rows: np.ndarray | None = None

    @property
    def count(self) -> int:
        """Of the examples."""
        return len(self.x if self.rows is None else self.rows)

    @property
    def own_labels(self) -> np.ndarray:
        """(n,), those of the split."""
        assert self.labels is not None, "asked for of data with labels"
        return self.labels if self.rows is None else self.labels[self.rows]

    def blocks(self, *, whole: bool) -> Iterator[tuple[int, np.ndarray]]:
        """Its examples in order, a few at a time, each time with the number of the first of them.

        Args:
            whole: all; otherwise some that are evenly spread, if they are many.
        """
        size = max(1, _BLOCK // math.prod(self.x.shape[1:]))
        n_bytes = self.count * math.prod(self.x.shape[1:]) * self.x.itemsize
        every = 1 if whole or n_bytes <= MEMORY_BYTES else math.ceil(n_bytes / _SAMPLE_BYTES)
        for first in range(0, self.count, size * every):
            last = min(first + size, self.count)
            yield first, self.x[first:last] if self.rows is None else self.x[self.rows[first:last]]

    @functools.cached_property
    def digest(self) -> str:
        """BLAKE2b-128 of its examples and labels; of many, of some that are evenly spread."""
        found = hashlib.blake2b(f"{self.x.dtype.str} {self.count} {self.x.shape[1:]}".encode(), digest_size=16)
        for _, block in self.blocks(whole=False):
            found.update(np.ascontiguousarray(block).data)
        if self.labels is not None:
            found.update("\n".join(map(str, self.own_labels.tolist())).encode())
        return found.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Of the numbers of each feature of vectors, or channel of others, (C,) each: mean and so on, float64."""

    mean: np.ndarray
    std: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def constant(self) -> np.ndarray:
        """Which of them have one value alone."""
        return self.low == self.high

    def scaling(self, how: Scalings) -> Scaling | None:
        """What maps them to mean 0 and standard deviation 1, or to [-1, 1]. Constant ones are only shifted."""
        if how == "none":
            return None
        scale, shift = self.std, self.mean
        if how == "range":
            scale, shift = 0.5 * (self.high - self.low), 0.5 * (self.high + self.low)
        scale, shift = np.where(self.constant, 1.0, scale), np.where(self.constant, self.low, shift)
        return Scaling(scale=tuple(scale.tolist()), shift=tuple(shift.tolist()))


@dataclass(frozen=True, eq=False)
class Arrays:
    """Examples for training and for tests.

    Attributes:
        where: they are, for messages.

    Raises:
        DataError: they have a type or a shape that cannot be, are too few, or have labels that do not fit.
    """

    where: str
    splits: Mapping[Split, Part]
    classes: Classes | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        for split, part in self.splits.items():
            self._require_numbers(split, part)
        train, test = (self.splits[split] for split in SPLITS)
        if test.x.shape[1:] != train.x.shape[1:] or (test.x.dtype == np.uint8) != (train.x.dtype == np.uint8):
            raise self._error(f"test examples are {_kind(test.x)}, and those for training {_kind(train.x)}", _SAVE)
        if train.count < 2:
            raise self._error(f"{train.count} examples for training are too few", "Give at least two")
        if not test.count:
            fix = "Raise data.test_share, or name a file of them in data.test"
            raise self._error(f"no example of {train.count} is left for tests", fix)
        if train.labels is not None:
            object.__setattr__(self, "classes", self._classes())

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return tuple(self.splits["train"].x.shape[1:])

    @property
    def grey_levels(self) -> int | None:
        """256 for images (1 or 3, H, W) of bytes; None for real numbers."""
        are_bytes = self.splits["train"].x.dtype == np.uint8
        return GREY_LEVELS if are_bytes and Form(shape=self.shape).are_pictures else None

    def labels(self, split: Split) -> np.ndarray:
        """Those of the examples of a split, (n,), int64, each the index of a class."""
        found: np.ndarray = np.searchsorted(self._names, self.splits[split].own_labels)
        return found.astype(np.int64)

    def count(self, split: Split) -> int:
        """How many examples a split has."""
        return self.splits[split].count

    def digest(self, split: Split) -> str:
        """Of the examples of a split and their labels; of many, of some that are evenly spread."""
        return self.splits[split].digest

    def stored(self, split: Split) -> tuple[np.ndarray, np.ndarray | None]:
        """An array (N, C, ...), on the disk or in memory, and which of its rows are those of a split; None: all."""
        return self.splits[split].x, self.splits[split].rows

    def verify(self, split: Split, examples: np.ndarray) -> None:
        """No digest is kept that what was loaded could be compared with."""

    def look(self, *, whole: bool = False) -> list[str]:
        """What people should know about the numbers, a line each.

        Args:
            whole: look at all; otherwise at some that are evenly spread, if they are many.

        Raises:
            DataError: some are not finite, or too large.
        """
        return self._warnings(self._measured(whole=whole))

    def form(self, spec: StoredDataSpec, warn: Callable[[str], object]) -> Form:
        """Their form: of real numbers, with the recipe's scaling, fitted to all training examples in one pass.

        Args:
            warn: told what people should know about them.

        Raises:
            DataError: as `look`.
        """
        assert isinstance(spec, ArraysSpec), "of the recipe that names them"
        measure = self._measured(whole=True)
        for text in self._warnings(measure):
            warn(text)
        if measure is None:
            return Form(shape=self.shape, grey_levels=self.grey_levels)
        bounds = float(measure.low.min()), float(measure.high.max())
        return Form(shape=self.shape, scaling=measure.scaling(spec.scaling), bounds=bounds)

    @functools.cached_property
    def _names(self) -> np.ndarray:
        """The different labels of training examples, in order."""
        names: np.ndarray = np.unique(self.splits["train"].own_labels)
        return names

    def _classes(self) -> Classes:
        for split, part in self.splits.items():
            labels = part.labels
            if labels is None:
                raise self._error(f"the {split} examples have no labels", "Add some, or set data.labels=false")
            if labels.shape != part.x.shape[:1]:
                found = f"labels of shape {labels.shape} for {len(part.x)} {split} examples"
                raise self._error(found, "Give one label for each example")
            if labels.dtype.kind not in "biuUS":
                raise self._error(f"labels are {labels.dtype}", "Save whole numbers or texts")
        if len(unknown := np.setdiff1d(self.splits["validation"].own_labels, self._names)):
            text = f"no training example has the label {one_line(unknown[0], 80)} of a test example"
            raise self._error(text, "Correct the labels")
        counts = np.bincount(self.labels("train"), minlength=len(self._names))
        texts = [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in self._names]
        try:
            return Classes(tuple(texts), tuple(map(float, counts)))
        except ValueError as error:
            raise self._error(f"labels: {error}", "Save numbers or short texts") from error

    def _require_numbers(self, split: Split, part: Part) -> None:
        x, fix = part.x, _SAVE
        if x.dtype.kind not in "biuf":
            raise self._error(f"{split} examples are {x.dtype}, not real numbers", "Save them as float32")
        if x.ndim == 1:
            raise self._error(f"{split} examples are single numbers", "Save x[:, None], for vectors of one number")
        if not 2 <= x.ndim <= 4:
            raise self._error(f"{split} examples have shape {x.shape[1:]}", fix)
        try:
            Form(shape=x.shape[1:])
        except ValueError as error:
            raise self._error(f"{split}: {error}: {x.shape[1:]}", fix) from error

    def _measured(self, *, whole: bool) -> Measure | None:
        """Of the training examples; None for images of grey levels, which have nothing to measure."""
        if self.grey_levels is not None:
            return None
        self._measure("validation", whole)
        return self._measure("train", whole)

    def _measure(self, split: Split, whole: bool) -> Measure:
        part, channels = self.splits[split], self.shape[0]
        count, bad, first_bad = 0, 0, None
        mean, square = np.zeros(channels), np.zeros(channels)
        low, high = np.full(channels, np.inf), np.full(channels, -np.inf)
        for first, block in part.blocks(whole=whole):
            values = np.array(block, np.float64).reshape(len(block), channels, -1)
            if not (finite := np.isfinite(values).all((1, 2))).all():
                bad += int((~finite).sum())
                row = first + int(finite.argmin())
                first_bad = row if first_bad is None else first_bad
                continue
            low, high = np.minimum(low, values.min((0, 2))), np.maximum(high, values.max((0, 2)))
            size, own = len(values) * values.shape[2], values.mean((0, 2))
            # What is beyond float32 is refused below.
            with np.errstate(over="ignore", invalid="ignore"):
                values -= own[:, None]
                between = own - mean
                square += np.square(values).sum((0, 2)) + np.square(between) * (count * size / (count + size))
                mean += between * (size / (count + size))
            count += size
        if first_bad is not None:
            row = first_bad if part.rows is None else int(part.rows[first_bad])
            text = f"{bad:,} {split} examples have numbers that are not finite; the first is row {row}"
            raise self._error(text, "Remove or correct them: x[numpy.isfinite(x).reshape(len(x), -1).all(1)]")
        if (largest := max(abs(low.min()), abs(high.max()))) > _LARGEST:
            raise self._error(f"{split} examples have numbers up to {largest:.3g}", "Rescale them to fit float32")
        return Measure(mean=mean, std=np.sqrt(square / max(count, 1)), low=low, high=high)

    def _warnings(self, measure: Measure | None) -> list[str]:
        train, shape, said = self.splits["train"], self.shape, []
        if measure is not None and measure.constant.any():
            which = np.flatnonzero(measure.constant)
            more = ", ..." if len(which) > _SHOWN else ""
            what = "column" if len(shape) == 1 else "channel"
            numbers = ", ".join(map(str, which[:_SHOWN]))
            text = f"{len(which)} of {shape[0]} {what}s are constant ({what} {numbers}{more})"
            said.append(f"{text}: a likelihood bound says nothing about such data. Remove them from the array")
        if train.count < _FEW:
            said.append(f"{train.count} training examples are few: the model will repeat them")
        if len(shape) == 3 and min(shape[:2]) > 4 and shape[2] in (1, 3, 4):
            said.append(f"examples of shape {shape} look like (H, W, C). If they are: x.transpose(0, 3, 1, 2)")
        if len(shape) == 2 and shape[0] == shape[1] and train.x.dtype == np.uint8:
            said.append(f"examples of shape {shape} are curves (C, L). If they are grey pictures: x[:, None]")
        return [f"{self.where}: {text}." for text in said]

    def _error(self, problem: str, fix: str) -> DataError:
        return DataError(f"{self.where}: {problem}. {fix}.")


_SAVE = "Save an array of examples (N, d), (N, C, L) or (N, C, H, W), for both splits alike"


def _kind(x: np.ndarray) -> str:
    return f"{x.dtype} of shape {x.shape[1:]}"


def find(spec: ArraysSpec) -> Arrays:
    """The arrays that a recipe names; their numbers have not been looked at.

    Raises:
        WrongSourceError: there are none.
        DataError: they cannot be read, or not be used.
    """
    if spec.path is None:
        raise WrongSourceError("data.path is null: the data were given in Python. Name a file of arrays.")
    stamps = [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in _files(spec) if file.is_file()]
    return _opened(spec, tuple(stamps))


def given(
    x: Any,
    labels: Any = None,
    *,
    test: Any = None,
    test_labels: Any = None,
    share: float = 0.1,
    where: str = "the data",
) -> Arrays:
    """Examples that are in memory: arrays or tensors (N, ...), and labels (N,) if they have some.

    Args:
        test: the test examples; None: a ``share`` of x.
        where: what messages call them.

    Raises:
        DataError: they cannot be used.
    """
    x, labels, test, test_labels = map(_array, (x, labels, test, test_labels))
    if test is not None:
        return Arrays(where, {"train": Part(x, labels), "validation": Part(test, test_labels)})
    kept = _are_for_tests(len(x) if x.ndim else 0, share)
    rows = {"train": np.flatnonzero(~kept), "validation": np.flatnonzero(kept)}
    return Arrays(where, {split: Part(x, labels, rows[split]) for split in SPLITS})


def _array(x: Any) -> Any:
    """Of numpy; of a tensor, on whatever device."""
    if x is None:
        return None
    return np.asarray(x.detach().cpu() if hasattr(x, "detach") else x)


@functools.lru_cache(maxsize=1)
def _opened(spec: ArraysSpec, stamps: object) -> Arrays:
    """The arrays of files with these times and sizes."""
    path = Path(str(spec.path)).expanduser()
    is_folder = path.is_dir()
    found = _read(_split_file(path, ("train",)) if is_folder else path)
    other = Path(spec.test).expanduser() if spec.test is not None else None
    if is_folder and other is None:
        other = _split_file(path, _TESTS)
    if other is not None:
        found |= {"test_labels": None, **{_AS_TEST[name]: it for name, it in _read(other).items() if name in _AS_TEST}}
    if spec.labels and found.get("labels") is None:
        fix = "Save them (N,) as labels in the archive, or beside X.npy in X_labels.npy; or set data.labels=false"
        raise WrongSourceError(f"{path}: there are no labels, which data.labels=true needs. {fix}.")
    labels = (found.get("labels"), found.get("test_labels")) if spec.labels else (None, None)
    arrays = given(
        found["x"], labels[0], test=found.get("test"), test_labels=labels[1], share=spec.test_share, where=str(path)
    )
    if spec.flip and len(arrays.shape) != 3:
        text = f"data.flip=true mirrors pictures (C, H, W), and examples of {path} are {arrays.shape}"
        raise DataError(f"{text}. Set it to false.")
    return arrays


_AS_TEST = {"x": "test", "labels": "test_labels"}


def _are_for_tests(n: int, share: float) -> np.ndarray:
    """Which of n rows are kept for tests, bool (n,): by a hash (SplitMix64) of the row's number."""
    with np.errstate(over="ignore"):
        mixed = (np.arange(n, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    below: np.ndarray = (mixed ^ (mixed >> np.uint64(31))) < np.uint64(share * 2.0**64)
    return below


def _files(spec: ArraysSpec) -> Iterator[Path]:
    """The files that the arrays of a recipe may be in."""
    for text in filter(None, (spec.path, spec.test)):
        path = Path(text).expanduser()
        yield from sorted(path.iterdir()) if path.is_dir() else (path, _labels_beside(path))


def _labels_beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}_labels.npy")


def _split_file(folder: Path, names: tuple[str, ...]) -> Path:
    found = [file for name in names for suffix in SUFFIXES if (file := folder / f"{name}{suffix}").is_file()]
    if not found:
        fix = "Put train.npy and test.npy there (or .npz, .safetensors), or name a file"
        raise WrongSourceError(f"{folder} has no {names[0]}.npy. {fix}.")
    return found[0]


def _read(path: Path) -> dict[str, Any]:
    """``x``, and as far as they are in a file, `_OTHERS`.

    Raises:
        WrongSourceError: there is no such file, it is of another kind, or which of its arrays is meant is not known.
        DataError: it is damaged.
    """
    if not path.is_file():
        raise WrongSourceError(f"{path.absolute()}: there is no such file. Correct the path.")
    readers: dict[str, Callable[[Path], dict[str, Callable[[], np.ndarray]]]]
    readers = {".npy": _npy, ".npz": _npz, ".safetensors": _safetensors}
    if path.suffix not in readers:
        fix = "Save an array: numpy.save('x.npy', x)"
        raise WrongSourceError(f"{path}: this is not a file of arrays ({', '.join(SUFFIXES)}). {fix}.")
    try:
        found = readers[path.suffix](path)
        examples = ["x"] if "x" in found else [name for name in found if name not in _OTHERS]
        if len(examples) != 1:
            names = one_line(", ".join(sorted(found)), 200) or "none"
            raise WrongSourceError(f"{path}: which of its arrays ({names}) are the examples? Call them x.")
        return {"x": found[examples[0]](), **{name: found[name]() for name in _OTHERS if name in found}}
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib, numpy and safetensors raise whatever they like for a damaged file
        text = f"cannot be read as arrays ({one_line(error, 200).rstrip('.')})"
        raise DataError(f"{path}: {text}. Save it again, without objects.") from error


def _npy(path: Path) -> dict[str, Callable[[], np.ndarray]]:
    beside = _labels_beside(path)
    labels = {"labels": lambda: _mapped(beside)} if beside.is_file() else {}
    return {"x": lambda: _mapped(path), **labels}


def _npz(path: Path) -> dict[str, Callable[[], np.ndarray]]:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    return {it.filename.removesuffix(".npy"): functools.partial(_of_archive, path, it) for it in members}


def _of_archive(path: Path, member: zipfile.ZipInfo) -> np.ndarray:
    if member.compress_type != zipfile.ZIP_STORED:
        with np.load(path, allow_pickle=False) as archive:
            content: np.ndarray = archive[member.filename.removesuffix(".npy")]
            return content
    with path.open("rb") as file:
        # The name and more of the member, whose lengths are here, lie before its content.
        file.seek(member.header_offset + 26)
        lengths = file.read(4)
    sizes = (int.from_bytes(lengths[:2], "little"), int.from_bytes(lengths[2:], "little"))
    return _mapped(path, member.header_offset + 30 + sum(sizes))


def _mapped(path: Path, offset: int = 0) -> np.ndarray:
    """The array of an .npy file that begins somewhere in a file."""
    with path.open("rb") as file:
        file.seek(offset)
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, in_fortran, dtype = header(file)
        return _map(path, dtype, file.tell(), shape, "F" if in_fortran else "C")


def _map(path: Path, dtype: Any, offset: int, shape: tuple[int, ...], order: Literal["C", "F"] = "C") -> np.ndarray:
    if np.dtype(dtype).hasobject:
        raise ValueError("it holds Python objects")
    if not math.prod(shape):
        return np.empty(shape, dtype)
    # An array of numpy's own type, whose parts are copies in memory and not maps.
    return np.asarray(np.memmap(path, dtype, "r", offset, shape, order))


_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "?", "U8": "u1", "I8": "i1"}
_TYPES |= {f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "UI" for size in (2, 4, 8)}


def _safetensors(path: Path) -> dict[str, Callable[[], np.ndarray]]:
    from safetensors import safe_open

    with safe_open(path, "np"):  # It compares the header with the size of the file.
        pass
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))

    def tensor(about: Mapping[str, Any]) -> np.ndarray:
        if about["dtype"] not in _TYPES:
            raise ValueError(f"it holds {about['dtype']}, which numpy does not have: save float32")
        return _map(path, _TYPES[about["dtype"]], 8 + length + about["data_offsets"][0], tuple(about["shape"]))

    return {name: functools.partial(tensor, about) for name, about in header.items() if name != "__metadata__"}
