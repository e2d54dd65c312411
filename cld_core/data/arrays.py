"""Data sets of arrays, in files or in memory: found, checked, measured for scaling. Loads no torch.

    X.npy              the examples, an array (N, d), (N, C, L) or (N, C, H, W);
                       labels in X_labels.npy beside it
    X.npz              x, or its only array; optionally labels, test and test_labels
    X.safetensors      likewise
    FOLDER             train and test, each a file as above;
                       test may be called validation, valid or val

They are memory-mapped, except for compressed archives. Without test examples, a share of the
examples is set apart: a random number of its own decides for each row, so that adding rows never
moves others.
"""

import functools
import hashlib
import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cld_core import npz
from cld_core.classes import Classes
from cld_core.config.data import ArraysSpec, StoredDataSpec
from cld_core.config.keys import Shape, listed
from cld_core.errors import DataError, LabelCountError, WrongSourceError
from cld_core.sanitize import one_line

from .format import GREY_LEVELS, MOST_NUMBERS, TEST_NAMES, DataFormat, Split

# Larger arrays stay on disk, because every rank of a machine would hold a copy, and only a sample
# of them is checked and hashed.
MEMORY_BYTES = 2 << 30
SUFFIXES = (".npy", ".npz", ".safetensors")
# Functions that read or map the arrays of a file, by their names.
_Readers = dict[str, Callable[[], np.ndarray]]
# Names of arrays in a file, beside the examples.
_OTHERS = ("labels", "test", "test_labels")
# Numbers that are read at once.
_BLOCK = 1 << 20
# Bytes of the sample of a large array, which is evenly spread.
_SAMPLE_BYTES = 256 << 20
# Fewer training examples than this are worth a warning.
_FEW = 100
# With a mean of so many standard deviations, float32 has two digits for the differences.
_FAR = 1e5
# The largest number of float32, in which models compute.
_LARGEST = float(np.finfo(np.float32).max)
_WORDS: dict[Split, str] = {"train": "training", "validation": "test"}
# What an array may hold, and the kinds of numpy's types for it.
_NUMBERS = "real numbers"
_LABELS = "whole numbers or texts"
_KINDS = {_NUMBERS: "biuf", _LABELS: "biuU"}
_USE = "Use an array of examples (N, d), (N, C, L) or (N, C, H, W); for single numbers, x[:, None]"


@dataclass(frozen=True, eq=False)
class SplitRows:
    """The examples of a split: all rows of an array, or some.

    Attributes:
        x: (N, C, ...).
        rows: (n,), int64, rising, the rows of the split; None for all.
        labels: (n,), integers or texts as in the data set; None without labels.
    """

    x: np.ndarray
    rows: np.ndarray | None = None
    labels: Any = None

    @property
    def count(self) -> int:
        """The number of examples."""
        return len(self.x if self.rows is None else self.rows)

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """The examples in order, or a sample of them if they are large, in blocks.

        Each comes with the number of its first example.
        """
        numbers = math.prod(self.x.shape[1:])
        size = max(1, _BLOCK // numbers)
        stride = size
        n_bytes = self.count * numbers * self.x.itemsize
        if n_bytes > MEMORY_BYTES:
            stride *= math.ceil(n_bytes / _SAMPLE_BYTES)
        for first in range(0, self.count, stride):
            block = slice(first, first + size)
            yield first, self.x[block if self.rows is None else self.rows[block]]

    @functools.cached_property
    def digest(self) -> str:
        """BLAKE2b-128 of type, shape, examples (or the sample of `blocks`) and labels."""
        header = f"{self.x.dtype.str} {self.count} {self.x.shape[1:]}".encode()
        hasher = hashlib.blake2b(header, digest_size=16)
        for _, block in self.blocks():
            hasher.update(np.ascontiguousarray(block).data)
        if self.labels is not None:
            hasher.update("\n".join(map(str, self.labels.tolist())).encode())
        return hasher.hexdigest()


@dataclass(frozen=True, eq=False)
class Arrays:
    """Examples for training and tests. `store.Prepared` has the same properties and methods.

    Attributes:
        where: the file or folder, or a name for messages.
        classes: the classes of the labels, weighted by their numbers of training examples; None
            without labels.
    """

    where: str
    splits: Mapping[Split, SplitRows]
    classes: Classes | None

    @property
    def shape(self) -> Shape:
        """The shape of one example, (C, ...)."""
        return tuple(self.splits["train"].x.shape[1:])

    @property
    def grey_levels(self) -> int | None:
        """256 for images (1 or 3, H, W) of bytes; None for real numbers."""
        if (
            self.splits["train"].x.dtype != np.uint8
            or DataFormat(shape=self.shape).kind != "images"
        ):
            return None
        return GREY_LEVELS

    def split(self, name: Split) -> SplitRows:
        """Number and digest of the examples of a split."""
        return self.splits[name]

    def labels(self, split: Split) -> np.ndarray:
        """The labels of a split, (n,), int64, each the index of a class."""
        return np.searchsorted(np.unique(self.splits["train"].labels), self.splits[split].labels)

    def stored(self, split: Split) -> tuple[np.ndarray, np.ndarray | None]:
        """An array (N, C, ...), on disk or in memory, and its rows of a split; None for all."""
        return self.splits[split].x, self.splits[split].rows

    def verify(self, split: Split, examples: np.ndarray) -> None:
        """Does nothing: the data set has no digest to compare the loaded examples with."""

    def look(self) -> Iterator[str]:
        """Warnings about the numbers, or about the sample of `SplitRows.blocks`.

        Raises:
            DataError: some numbers are not finite, or too large.
        """
        shape = self.shape
        train = self.splits["train"]
        if self._measured:
            mean, std, low, high = self._measured
            constant = np.flatnonzero(low == high)
            if len(constant):
                yield (
                    f"{self.where}: {self._named(constant, 'constant')}: a likelihood bound says "
                    "nothing about such data. Remove them from the array."
                )
            far = np.flatnonzero((np.abs(mean) > _FAR * std) & (low < high))
            if len(far):
                yield (
                    f"{self.where}: {self._named(far, 'far from 0')}: samples, in float32, lose "
                    "digits of what differs. Subtract a number near their mean from the array."
                )
        if train.count < _FEW:
            yield (
                f"{self.where}: {train.count} training examples are few: the model will repeat "
                "them."
            )
        if len(shape) == 3 and min(shape[:2]) > 4 and shape[2] in (1, 3, 4):
            yield (
                f"{self.where}: examples of shape {shape} look like (H, W, C). If they are: "
                "x.transpose(0, 3, 1, 2)."
            )
        if len(shape) == 2 and shape[0] == shape[1] and train.x.dtype == np.uint8:
            yield (
                f"{self.where}: examples of shape {shape} are curves (C, L). If they are grey "
                "pictures: x[:, None]."
            )

    def form(self, spec: StoredDataSpec, warn: Callable[[str], object]) -> DataFormat:
        """The form of the examples; for real numbers, with the recipe's scaling fitted to them.

        Args:
            warn: called with each warning of `look`.

        Raises:
            DataError: some numbers are not finite, or too large.
        """
        assert isinstance(spec, ArraysSpec), "the data set of the recipe is one of arrays"
        for text in self.look():
            warn(text)
        if not self._measured:
            return DataFormat(shape=self.shape, grey_levels=self.grey_levels)
        mean, std, low, high = self._measured
        bounds = (float(low.min()), float(high.max()))
        if spec.scaling == "none":
            return DataFormat(shape=self.shape, bounds=bounds)
        if spec.scaling == "standard":
            scale = std
            shift = mean
        else:
            scale = 0.5 * (high - low)
            shift = 0.5 * (high + low)
        # Constant features are only shifted.
        scale = np.where(scale > 0, scale, 1.0)
        return DataFormat(
            shape=self.shape,
            scale=tuple(scale.tolist()),
            shift=tuple(shift.tolist()),
            bounds=bounds,
        )

    @functools.cached_property
    def _measured(self) -> tuple[np.ndarray, ...]:
        """`_measure` of the training examples, after a check of all; empty for images of bytes."""
        if self.grey_levels is not None:
            return ()
        self._measure("validation")
        return self._measure("train")

    def _measure(self, split: Split) -> tuple[np.ndarray, ...]:
        """Mean, standard deviation, minimum and maximum of each feature (of vectors) or channel."""
        part = self.splits[split]
        measured = []
        for first, block in part.blocks():
            values = block.astype(np.float64).reshape(len(block), self.shape[0], -1)
            fits = (np.abs(values) <= _LARGEST).all((1, 2))
            if not fits.all():
                number = first + int(fits.argmin())
                row = number if part.rows is None else part.rows[number]
                raise DataError(
                    f"{self.where}: row {row} ({_WORDS[split]}) has numbers that are not finite, "
                    "or beyond float32. Remove or correct all such rows: "
                    "x[numpy.isfinite(x.astype('f4')).reshape(len(x), -1).all(1)]."
                )
            axes = (0, 2)
            measured.append(
                (
                    len(values),
                    values.mean(axes),
                    values.var(axes),
                    values.min(axes),
                    values.max(axes),
                )
            )
        counts, means, variances, lows, highs = map(np.array, zip(*measured, strict=True))
        low = lows.min(0)
        high = highs.max(0)
        mean = np.average(means, 0, counts)
        # The law of total variance. Constant numbers have a variance of their rounding.
        variance = np.average(variances + np.square(means - mean), 0, counts)
        return mean, np.sqrt(np.where(low < high, variance, 0.0)), low, high

    def _named(self, numbers: np.ndarray, how: str) -> str:
        """A phrase for messages: the columns or channels ``numbers``, and ``how`` they are."""
        what = "column" if len(self.shape) == 1 else "channel"
        which = listed([str(number) for number in numbers])
        return f"{len(numbers)} of {self.shape[0]} {what}s are {how} ({what} {which})"


def find(spec: ArraysSpec) -> Arrays:
    """The arrays that a recipe names; their numbers have not been checked.

    Raises:
        WrongSourceError: there are no arrays.
        DataError: the arrays cannot be read, or cannot be used.
    """
    if spec.path is None:
        raise WrongSourceError(
            "data.path is null: the data were given in Python. Name a file of arrays."
        )
    stamps = [
        (str(file), file.stat().st_mtime_ns, file.stat().st_size)
        for file in _files(spec)
        if file.is_file()
    ]
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
    """Examples in memory: arrays or tensors (N, ...), and optionally labels (N,).

    Args:
        test: the test examples; None for a ``share`` of x.
        where: a name for messages.

    Raises:
        DataError: the examples have an unsuitable type or shape, are too few, or have labels that
            do not fit.
    """
    x = array(where, "examples", x)
    if test is not None:
        test = array(where, "test examples", test)
    if labels is not None:
        labels = array(where, "labels", labels, _LABELS)
    if test_labels is not None:
        test_labels = array(where, "test labels", test_labels, _LABELS)
    train_rows = None
    test_rows = None
    if test is None:
        # The numbers of the first rows do not depend on how many rows there are.
        is_test = np.random.RandomState(0).random_sample(len(x)) < share
        if labels is not None and labels.shape == x.shape[:1]:
            # Examples whose label is in no training example become training examples.
            is_test &= np.isin(labels, labels[~is_test])
        train_rows = np.flatnonzero(~is_test)
        test_rows = np.flatnonzero(is_test)
        test = x
        test_labels = labels
    if labels is not None and test_labels is None:
        raise DataError(
            f"{where}: the test examples have no labels. Add some, or set data.labels=false."
        )
    train = _part(where, "train", x, train_rows, labels)
    tests = _part(where, "validation", test, test_rows, test_labels)
    if test.shape[1:] != x.shape[1:] or (test.dtype == np.uint8) != (x.dtype == np.uint8):
        raise DataError(
            f"{where}: test examples are {test.dtype} of shape {test.shape[1:]}, and those for "
            f"training {x.dtype} of shape {x.shape[1:]}. {_USE}."
        )
    if train.count < 2 or not tests.count:
        raise DataError(
            f"{where}: {train.count} examples for training and {tests.count} for tests are too "
            "few. Give more, another data.test_share, or a file of tests in data.test."
        )
    classes = None if labels is None else _classes(where, train.labels, tests.labels)
    return Arrays(where, {"train": train, "validation": tests}, classes)


def array(where: str, what: str, x: Any, holds: str = _NUMBERS) -> np.ndarray:
    """Convert a tensor, a table or column of pandas, or nested lists to an array.

    Raises:
        DataError: x is something else, or has values of another kind than ``holds``.
    """
    # numpy would take a data set of torch for nested lists, and anything else for one object.
    if not isinstance(x, Sequence) and not hasattr(x, "__array__"):
        raise DataError(
            f"{where}: the {what} are of type {type(x).__name__}, not an array. Pass one array of "
            "all examples, such as torch.stack([x for x, *_ in dataset]) or "
            "numpy.stack(list(generator))."
        )
    try:
        values = np.atleast_1d(np.asarray(x.detach().cpu() if hasattr(x, "detach") else x))
        if values.dtype.kind in ("O", "T") and len({type(value) for value in values.flat}) == 1:
            # Python objects of one type, as pandas has texts.
            values = np.array(values.tolist())
    except (TypeError, ValueError, RuntimeError) as error:  # bfloat16, rows of different lengths
        raise DataError(
            f"{where}: the {what} are not an array ({one_line(error, 200).rstrip('.')}). "
            "Convert them to a numpy array; a tensor to float32."
        ) from error
    if values.dtype.kind not in _KINDS[holds]:
        raise DataError(
            f"{where}: the {what} have dtype {values.dtype}, not {holds}. Convert all of them."
        )
    return values


def _part(where: str, split: Split, x: Any, rows: Any, labels: Any) -> SplitRows:
    """A split, with everything checked except its numbers."""
    if not 2 <= x.ndim <= 4 or not 1 <= math.prod(x.shape[1:]) <= MOST_NUMBERS:
        raise DataError(
            f"{where}: {_WORDS[split]} examples are an array of shape {x.shape}. {_USE}."
        )
    if labels is None:
        return SplitRows(x, rows)
    if len(labels) != len(x):
        raise LabelCountError(
            f"{where}: there are {len(labels):,} labels for {len(x):,} {_WORDS[split]} examples. "
            "Give one label for each example."
        )
    if labels.ndim != 1:
        raise DataError(
            f"{where}: labels are an array of shape {labels.shape}. "
            "Give one label for each example."
        )
    return SplitRows(x, rows, labels if rows is None else labels[rows])


def _classes(where: str, train: Any, test: Any) -> Classes:
    names, counts = np.unique(train, return_counts=True)
    if len(unknown := np.setdiff1d(test, names)):
        raise DataError(
            f"{where}: no training example has the label {one_line(unknown[0], 80)} of a test "
            "example. Correct the labels."
        )
    try:
        return Classes(tuple(map(str, names.tolist())), tuple(map(float, counts)))
    except ValueError as error:
        raise DataError(f"{where}: labels: {error}. Use numbers or short texts.") from error


@functools.lru_cache(maxsize=1)
def _opened(spec: ArraysSpec, stamps: object) -> Arrays:
    """The arrays of files with these times and sizes, which are part of the key of the cache."""
    path = Path(str(spec.path)).expanduser()
    content = _read(_split_file(path, ("train",)) if path.is_dir() else path)
    test_file = None
    if spec.test is not None:
        test_file = Path(spec.test).expanduser()
    elif path.is_dir():
        test_file = _split_file(path, TEST_NAMES)
    if test_file is not None:
        tests = _read(test_file)
        content["test"] = tests["x"]
        content["test_labels"] = tests.get("labels")
    if spec.labels and content.get("labels") is None:
        raise WrongSourceError(
            f"{path}: there are no labels, which data.labels=true needs. Save them (N,) as labels "
            "in the archive, or beside X.npy in X_labels.npy; or set data.labels=false."
        )
    if not spec.labels:
        content["labels"] = None
        content["test_labels"] = None
    arrays = given(**content, share=spec.test_share, where=str(path))
    if spec.flip and len(arrays.shape) != 3:
        raise DataError(
            f"data.flip=true mirrors pictures (C, H, W), and examples of {path} are "
            f"{arrays.shape}. Set it to false."
        )
    return arrays


def _files(spec: ArraysSpec) -> Iterator[Path]:
    """The files that may hold the arrays of a recipe."""
    for text in filter(None, (spec.path, spec.test)):
        path = Path(text).expanduser()
        yield from sorted(path.iterdir()) if path.is_dir() else (path, _labels_beside(path))


def _labels_beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}_labels.npy")


def _split_file(folder: Path, names: tuple[str, ...]) -> Path:
    """The file in a folder that has one of these names, or the first of several."""
    for name in names:
        for suffix in SUFFIXES:
            file = folder / f"{name}{suffix}"
            if file.is_file():
                return file
    raise WrongSourceError(
        f"{folder} has no {names[0]}.npy. "
        "Put train.npy and test.npy there (or .npz, .safetensors), or name a file."
    )


def _read(path: Path) -> dict[str, Any]:
    """The array ``x`` of a file, and the arrays of `_OTHERS` that are in the file or beside it.

    Raises:
        WrongSourceError: there is no such file, it is of another kind, or it has several arrays of
            which none is called x.
        DataError: the file is damaged.
    """
    if not path.is_file():
        raise WrongSourceError(f"{path.absolute()}: there is no such file. Correct the path.")
    readers = {".npy": _npy, ".npz": _npz, ".safetensors": _safetensors}
    if path.suffix not in readers:
        raise WrongSourceError(
            f"{path}: this is not a file of arrays ({', '.join(SUFFIXES)}). "
            "Save an array: numpy.save('x.npy', x)."
        )
    try:
        by_name = readers[path.suffix](path)
        candidates = ["x"] if "x" in by_name else [name for name in by_name if name not in _OTHERS]
        if len(candidates) != 1:
            names = one_line(", ".join(sorted(by_name)), 200) or "none"
            raise WrongSourceError(
                f"{path}: which of its arrays ({names}) are the examples? Call them x."
            )
        arrays = {"x": by_name[candidates[0]]()}
        for name in _OTHERS:
            if name in by_name:
                arrays[name] = by_name[name]()
        return arrays
    except DataError:
        raise
    except Exception as error:
        # zipfile, zlib, numpy and safetensors may raise anything for a damaged file.
        raise DataError(
            f"{path}: cannot be read as arrays ({one_line(error, 200).rstrip('.')}). "
            "Save it again, without objects."
        ) from error


def _npy(path: Path) -> _Readers:
    readers: _Readers = {"x": functools.partial(_mapped, path)}
    labels = _labels_beside(path)
    if labels.is_file():
        readers["labels"] = functools.partial(_mapped, labels)
    return readers


def _npz(path: Path) -> _Readers:
    with zipfile.ZipFile(path) as archive:
        return {
            member.filename.removesuffix(".npy"): functools.partial(_of_archive, path, member)
            for member in archive.infolist()
        }


def _of_archive(path: Path, member: zipfile.ZipInfo) -> np.ndarray:
    if member.compress_type != zipfile.ZIP_STORED:
        with np.load(path, allow_pickle=False) as archive:
            return np.asarray(archive[member.filename])
    with path.open("rb") as file:
        # The content follows a header of 30 bytes, with the lengths of name and extra field at its
        # end, and these two.
        file.seek(member.header_offset + 26)
        lengths = np.frombuffer(file.read(4), "<u2")
    return _mapped(path, member.header_offset + 30 + int(lengths.sum()))


def _mapped(path: Path, offset: int = 0) -> np.ndarray:
    """The array of an .npy file that begins at an offset in another file."""
    with path.open("rb") as file:
        file.seek(offset)
        shape, in_fortran, dtype = npz.header(file)
        return _map(path, dtype, file.tell(), shape, "F" if in_fortran else "C")


def _map(
    path: Path, dtype: Any, offset: int, shape: Shape, order: Literal["C", "F"] = "C"
) -> np.ndarray:
    if np.dtype(dtype).hasobject:
        raise ValueError("it holds Python objects")
    # A plain array: what is taken from it by index is in memory and not a map.
    return np.asarray(np.memmap(path, dtype, "r", offset, shape, order))


_TYPES = {
    "BOOL": "?",
    **{f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "FIU" for size in (1, 2, 4, 8)},
}


def _safetensors(path: Path) -> _Readers:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))

    def tensor(about: Mapping[str, Any]) -> np.ndarray:
        dtype = about["dtype"]
        if dtype not in _TYPES:
            raise ValueError(f"it holds {dtype}, which numpy does not have: save float32")
        offset = 8 + length + about["data_offsets"][0]
        return _map(path, _TYPES[dtype], offset, tuple(about["shape"]))

    return {
        name: functools.partial(tensor, about)
        for name, about in header.items()
        if name != "__metadata__"
    }
