"""Arrays of numbers, in files or in memory: found, looked at, measured for their scaling. Loads no
torch.

    X.npy              the examples, an array (N, d), (N, C, L) or (N, C, H, W); labels in
    X_labels.npy beside it X.npz              x or its only array; if there are: labels, test and
    test_labels; likewise X.safetensors FOLDER             train and test, each a file as above;
    test may be called validation, valid or val

They are memory-mapped, except for compressed archives. Without a test set, a share of the examples
is one: each row is in it or not by a random number of its own, so that more rows never move others.
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
from cld_core.errors import DataError, LabelCountError, WrongSourceError
from cld_core.sanitize import one_line

from .form import GREY_LEVELS, MOST_NUMBERS, TEST_NAMES, Form, Split

# Larger arrays stay on disk: every rank of a machine holds its own copy. They are not looked at as
# a whole.
MEMORY_BYTES = 2 << 30
SUFFIXES = (".npy", ".npz", ".safetensors")
# Of what is in a file, beside the examples.
_OTHERS = ("labels", "test", "test_labels")
# Numbers that are looked at together, and bytes of large arrays that are looked at or hashed,
# evenly spread.
_BLOCK, _SAMPLE_BYTES = 1 << 20, 256 << 20
# A test share of fewer examples says little.
_FEW = 100
_SHOWN = 8
# Beside a mean of so many standard deviations, float32 has two digits for what differs.
_FAR = 1e5
_CONSTANT = "a likelihood bound says nothing about such data. Remove them from the array"
_DIGITS = (
    "samples, in float32, lose digits of what differs. Subtract a number near their mean "
    "from the array"
)
# Of float32, in which models compute.
_LARGEST = float(np.finfo(np.float32).max)
_WORDS: dict[Split, str] = {"train": "training", "validation": "test"}
# What arrays hold, and its kinds in numpy.
_NUMBERS = "real numbers"
_LABELS = "whole numbers or texts"
_KINDS = {_NUMBERS: "biuf", _LABELS: "biuU"}
_USE = "Use an array of examples (N, d), (N, C, L) or (N, C, H, W); for single numbers, x[:, None]"


@dataclass(frozen=True, eq=False)
class Part:
    """The examples of a split: all rows of an array, or some.

    Attributes:
        x: (N, C, ...).
        rows: (n,), int64, rising: those of the split; None for all.
        labels: (n,), integers or texts as they were given; None without labels.
    """

    x: np.ndarray
    rows: np.ndarray | None = None
    labels: Any = None

    @property
    def count(self) -> int:
        """Of the examples."""
        return len(self.x if self.rows is None else self.rows)

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Its examples in order, a few at a time, each time with the number of the first; some of
        them, if many."""
        numbers = math.prod(self.x.shape[1:])
        size, n_bytes = max(1, _BLOCK // numbers), self.count * numbers * self.x.itemsize
        every = 1 if n_bytes <= MEMORY_BYTES else math.ceil(n_bytes / _SAMPLE_BYTES)
        for first in range(0, self.count, size * every):
            chosen = slice(first, first + size)
            yield first, self.x[chosen if self.rows is None else self.rows[chosen]]

    @functools.cached_property
    def digest(self) -> str:
        """BLAKE2b-128 of its examples and labels; of many, of some that are evenly spread."""
        found = hashlib.blake2b(
            f"{self.x.dtype.str} {self.count} {self.x.shape[1:]}".encode(), digest_size=16
        )
        for _, block in self.blocks():
            found.update(np.ascontiguousarray(block).data)
        if self.labels is not None:
            found.update("\n".join(map(str, self.labels.tolist())).encode())
        return found.hexdigest()


@dataclass(frozen=True, eq=False)
class Arrays:
    """Examples for training and for tests, as `given` and `find` return them. See `store.Prepared`.

    Attributes:
        where: they are, for messages.
        classes: those of the labels, with their numbers of training examples as weights; None
            without labels.
    """

    where: str
    splits: Mapping[Split, Part]
    classes: Classes | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return tuple(self.splits["train"].x.shape[1:])

    @property
    def grey_levels(self) -> int | None:
        """256 for images (1 or 3, H, W) of bytes; None for real numbers."""
        are_bytes = self.splits["train"].x.dtype == np.uint8
        return GREY_LEVELS if are_bytes and Form(shape=self.shape).kind == "images" else None

    def split(self, name: Split) -> Part:
        """Number and digest of the examples of a split."""
        return self.splits[name]

    def labels(self, split: Split) -> np.ndarray:
        """Those of the examples of a split, (n,), int64, each the index of a class."""
        return np.searchsorted(np.unique(self.splits["train"].labels), self.splits[split].labels)

    def stored(self, split: Split) -> tuple[np.ndarray, np.ndarray | None]:
        """An array (N, C, ...), on the disk or in memory, and which of its rows are those of a
        split; None: all."""
        return self.splits[split].x, self.splits[split].rows

    def verify(self, split: Split, examples: np.ndarray) -> None:
        """No digest is kept that what was loaded could be compared with."""

    def look(self) -> list[str]:
        """What people should know about the numbers, a line each: about some that are evenly
        spread, if they are many.

        Raises:
            DataError: some are not finite, or too large.
        """
        return [f"{self.where}: {text}." for text in self._warnings()]

    def form(self, spec: StoredDataSpec, warn: Callable[[str], object]) -> Form:
        """Their form: of real numbers, with the recipe's scaling, fitted to the training examples
        that `look` sees.

        Args:
            warn: told what people should know about them.

        Raises:
            DataError: as `look`.
        """
        assert isinstance(spec, ArraysSpec), "of the recipe that names them"
        for text in self.look():
            warn(text)
        if not self._measured:
            return Form(shape=self.shape, grey_levels=self.grey_levels)
        mean, std, low, high = self._measured
        bounds = float(low.min()), float(high.max())
        if spec.scaling == "none":
            return Form(shape=self.shape, bounds=bounds)
        scale, shift = (
            (std, mean) if spec.scaling == "standard" else (0.5 * (high - low), 0.5 * (high + low))
        )
        # What is constant is only shifted.
        scale = np.where(scale > 0, scale, 1.0)
        return Form(
            shape=self.shape,
            scale=tuple(scale.tolist()),
            shift=tuple(shift.tolist()),
            bounds=bounds,
        )

    @functools.cached_property
    def _measured(self) -> tuple[np.ndarray, ...]:
        """As `_measure`, of the training examples, after a look at all; empty for images, which
        have grey levels."""
        if self.grey_levels is not None:
            return ()
        self._measure("validation")
        return self._measure("train")

    def _measure(self, split: Split) -> tuple[np.ndarray, ...]:
        """Mean, standard deviation, smallest and largest number of each feature of vectors, or
        channel of others."""
        part, channels = self.splits[split], self.shape[0]
        n, origin = 0, np.zeros((channels, 1))
        total, squares = np.zeros(channels), np.zeros(channels)
        low, high = np.full(channels, np.inf), np.full(channels, -np.inf)
        for first, block in part.blocks():
            values = block.astype(np.float64).reshape(len(block), channels, -1)
            fits = (np.abs(values) <= _LARGEST).all((1, 2))
            if not fits.all():
                place = first + int(fits.argmin())
                row = place if part.rows is None else part.rows[place]
                text = (
                    f"row {row} ({_WORDS[split]}) has numbers that are not finite, or beyond "
                    f"float32"
                )
                fix = (
                    "Remove or correct all such rows: "
                    "x[numpy.isfinite(x.astype('f4')).reshape(len(x), -1).all(1)]"
                )
                raise _error(self.where, text, fix)
            low, high = np.minimum(low, values.min((0, 2))), np.maximum(high, values.max((0, 2)))
            # Numbers far from 0 keep their digits.
            origin = values.mean((0, 2))[:, None] if not n else origin
            values -= origin
            total, squares = total + values.sum((0, 2)), squares + np.square(values).sum((0, 2))
            n += values[:, 0].size
        mean = total / n
        return (
            origin[:, 0] + mean,
            np.sqrt(np.maximum(squares / n - np.square(mean), 0.0)),
            low,
            high,
        )

    def _warnings(self) -> Iterator[str]:
        train, shape = self.splits["train"], self.shape
        what = "column" if len(shape) == 1 else "channel"
        mean, std, low, high = self._measured or (np.zeros(0),) * 4
        far = (np.abs(mean) > _FAR * std) & (low < high)
        for which, how, text in (
            (low == high, "constant", _CONSTANT),
            (far, "far from 0", _DIGITS),
        ):
            if len(found := np.flatnonzero(which)):
                numbers = ", ".join(map(str, found[:_SHOWN])) + (
                    ", ..." if len(found) > _SHOWN else ""
                )
                yield f"{len(found)} of {shape[0]} {what}s are {how} ({what} {numbers}): {text}"
        if train.count < _FEW:
            yield f"{train.count} training examples are few: the model will repeat them"
        if len(shape) == 3 and min(shape[:2]) > 4 and shape[2] in (1, 3, 4):
            yield (
                f"examples of shape {shape} look like (H, W, C). If they are: x.transpose(0, 3, "
                f"1, 2)"
            )
        if len(shape) == 2 and shape[0] == shape[1] and train.x.dtype == np.uint8:
            yield (
                f"examples of shape {shape} are curves (C, L). If they are grey pictures: x[:, "
                f"None]"
            )


def _error(where: str, problem: str, fix: str) -> DataError:
    return DataError(f"{where}: {problem}. {fix}.")


def find(spec: ArraysSpec) -> Arrays:
    """The arrays that a recipe names; their numbers have not been looked at.

    Raises:
        WrongSourceError: there are none.
        DataError: they cannot be read, or not be used.
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
    """Examples that are in memory: arrays or tensors (N, ...), and labels (N,) if they have some.

    Args:
        test: the test examples; None: a ``share`` of x.
        where: what messages call them.

    Raises:
        DataError: they have a type or a shape that cannot be, are too few, or have labels that do
            not fit.
    """
    x = array(where, "examples", x)
    test = None if test is None else array(where, "test examples", test)
    labels = None if labels is None else array(where, "labels", labels, _LABELS)
    test_labels = None if test_labels is None else array(where, "test labels", test_labels, _LABELS)
    of_train, of_test = None, None
    if test is None:
        # The first of these numbers do not depend on how many there are.
        kept = np.random.RandomState(0).random_sample(len(x)) < share
        if labels is not None and labels.shape == x.shape[:1]:
            # What has a label that no other has is learned.
            kept &= np.isin(labels, labels[~kept])
        test, test_labels, of_train, of_test = (
            x,
            labels,
            np.flatnonzero(~kept),
            np.flatnonzero(kept),
        )
    if labels is not None and test_labels is None:
        raise _error(
            where, "the test examples have no labels", "Add some, or set data.labels=false"
        )
    train = _part(where, "train", x, of_train, labels)
    tests = _part(where, "validation", test, of_test, test_labels)
    if test.shape[1:] != x.shape[1:] or (test.dtype == np.uint8) != (x.dtype == np.uint8):
        kinds = [f"{some.dtype} of shape {some.shape[1:]}" for some in (test, x)]
        raise _error(
            where, f"test examples are {kinds[0]}, and those for training {kinds[1]}", _USE
        )
    if train.count < 2 or not tests.count:
        text = f"{train.count} examples for training and {tests.count} for tests are too few"
        raise _error(
            where, text, "Give more, another data.test_share, or a file of tests in data.test"
        )
    classes = None if labels is None else _classes(where, train.labels, tests.labels)
    return Arrays(where, {"train": train, "validation": tests}, classes)


def array(where: str, what: str, x: Any, holds: str = _NUMBERS) -> np.ndarray:
    """What was passed in Python, as an array: a tensor, a table or column of pandas, nested lists.

    Raises:
        DataError: it is something else, or does not hold numbers.
    """
    # numpy would take a data set of torch for nested lists, and anything else for one object.
    if not isinstance(x, Sequence) and not hasattr(x, "__array__"):
        raise DataError(
            f"{where}: the {what} are of type {type(x).__name__}, not an array. Pass one array of "
            f"all examples, "
            "such as torch.stack([x for x, *_ in dataset]) or numpy.stack(list(generator))."
        )
    try:
        found = np.atleast_1d(np.asarray(x.detach().cpu() if hasattr(x, "detach") else x))
        if found.dtype.kind in ("O", "T") and len({type(value) for value in found.flat}) == 1:
            # Python objects of one type, as pandas has texts.
            found = np.array(found.tolist())
    except (TypeError, ValueError, RuntimeError) as error:  # bfloat16, rows of different lengths
        text = f"the {what} are not an array ({one_line(error, 200).rstrip('.')})"
        raise _error(where, text, "Convert them to a numpy array; a tensor to float32") from error
    if found.dtype.kind not in _KINDS[holds]:
        raise DataError(
            f"{where}: the {what} have dtype {found.dtype}, not {holds}. Convert all of them."
        )
    return found


def _part(where: str, split: Split, x: Any, rows: Any, labels: Any) -> Part:
    """A split of which all is checked that its numbers need not be read for."""
    if not 2 <= x.ndim <= 4 or not 1 <= math.prod(x.shape[1:]) <= MOST_NUMBERS:
        raise _error(where, f"{_WORDS[split]} examples are an array of shape {x.shape}", _USE)
    if labels is None:
        return Part(x, rows)
    if len(labels) != len(x):
        raise LabelCountError(
            f"{where}: there are {len(labels):,} labels for {len(x):,} {_WORDS[split]} examples. "
            "Give one label for each example."
        )
    if labels.ndim != 1:
        found = f"labels are an array of shape {labels.shape}"
        raise _error(where, found, "Give one label for each example")
    return Part(x, rows, labels if rows is None else labels[rows])


def _classes(where: str, train: Any, test: Any) -> Classes:
    names, counts = np.unique(train, return_counts=True)
    if len(unknown := np.setdiff1d(test, names)):
        text = f"no training example has the label {one_line(unknown[0], 80)} of a test example"
        raise _error(where, text, "Correct the labels")
    try:
        return Classes(tuple(map(str, names.tolist())), tuple(map(float, counts)))
    except ValueError as error:
        raise _error(where, f"labels: {error}", "Use numbers or short texts") from error


@functools.lru_cache(maxsize=1)
def _opened(spec: ArraysSpec, stamps: object) -> Arrays:
    """The arrays of files with these times and sizes."""
    path = Path(str(spec.path)).expanduser()
    found = _read(_split_file(path, ("train",)) if path.is_dir() else path)
    if spec.test is not None or path.is_dir():
        tests = _read(
            _split_file(path, TEST_NAMES) if spec.test is None else Path(spec.test).expanduser()
        )
        found |= {"test": tests["x"], "test_labels": tests.get("labels")}
    if spec.labels and found.get("labels") is None:
        fix = (
            "Save them (N,) as labels in the archive, or beside X.npy in X_labels.npy; or set "
            "data.labels=false"
        )
        raise WrongSourceError(f"{path}: there are no labels, which data.labels=true needs. {fix}.")
    if not spec.labels:
        found |= {"labels": None, "test_labels": None}
    arrays = given(**found, share=spec.test_share, where=str(path))
    if spec.flip and len(arrays.shape) != 3:
        text = (
            f"data.flip=true mirrors pictures (C, H, W), and examples of {path} are {arrays.shape}"
        )
        raise DataError(f"{text}. Set it to false.")
    return arrays


def _files(spec: ArraysSpec) -> Iterator[Path]:
    """The files that the arrays of a recipe may be in."""
    for text in filter(None, (spec.path, spec.test)):
        path = Path(text).expanduser()
        yield from sorted(path.iterdir()) if path.is_dir() else (path, _labels_beside(path))


def _labels_beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}_labels.npy")


def _split_file(folder: Path, names: tuple[str, ...]) -> Path:
    found = [
        file
        for name in names
        for suffix in SUFFIXES
        if (file := folder / f"{name}{suffix}").is_file()
    ]
    if not found:
        fix = "Put train.npy and test.npy there (or .npz, .safetensors), or name a file"
        raise WrongSourceError(f"{folder} has no {names[0]}.npy. {fix}.")
    return found[0]


def _read(path: Path) -> dict[str, Any]:
    """``x``, and as far as they are in a file, `_OTHERS`.

    Raises:
        WrongSourceError: there is no such file, it is of another kind, or which of its arrays is
            meant is not known.
        DataError: it is damaged.
    """
    if not path.is_file():
        raise WrongSourceError(f"{path.absolute()}: there is no such file. Correct the path.")
    readers: dict[str, Callable[[Path], dict[str, Callable[[], np.ndarray]]]]
    readers = {".npy": _npy, ".npz": _npz, ".safetensors": _safetensors}
    if path.suffix not in readers:
        fix = "Save an array: numpy.save('x.npy', x)"
        raise WrongSourceError(
            f"{path}: this is not a file of arrays ({', '.join(SUFFIXES)}). {fix}."
        )
    try:
        found = readers[path.suffix](path)
        examples = ["x"] if "x" in found else [name for name in found if name not in _OTHERS]
        if len(examples) != 1:
            names = one_line(", ".join(sorted(found)), 200) or "none"
            raise WrongSourceError(
                f"{path}: which of its arrays ({names}) are the examples? Call them x."
            )
        return {
            "x": found[examples[0]](),
            **{name: found[name]() for name in _OTHERS if name in found},
        }
    except DataError:
        raise
    except (
        Exception
    ) as error:  # zipfile, zlib, numpy and safetensors raise whatever they like for a damaged file
        text = f"cannot be read as arrays ({one_line(error, 200).rstrip('.')})"
        raise DataError(f"{path}: {text}. Save it again, without objects.") from error


def _npy(path: Path) -> dict[str, Callable[[], np.ndarray]]:
    beside = _labels_beside(path)
    labels = {"labels": lambda: _mapped(beside)} if beside.is_file() else {}
    return {"x": lambda: _mapped(path), **labels}


def _npz(path: Path) -> dict[str, Callable[[], np.ndarray]]:
    with zipfile.ZipFile(path) as archive:
        return {
            it.filename.removesuffix(".npy"): functools.partial(_of_archive, path, it)
            for it in archive.infolist()
        }


def _of_archive(path: Path, member: zipfile.ZipInfo) -> np.ndarray:
    if member.compress_type != zipfile.ZIP_STORED:
        with np.load(path, allow_pickle=False) as archive:
            return np.asarray(archive[member.filename])
    with path.open("rb") as file:
        # The name and more of the member, whose lengths are here, lie before its content.
        file.seek(member.header_offset + 26)
        lengths = np.frombuffer(file.read(4), "<u2")
    return _mapped(path, member.header_offset + 30 + int(lengths.sum()))


def _mapped(path: Path, offset: int = 0) -> np.ndarray:
    """The array of an .npy file that begins somewhere in a file."""
    with path.open("rb") as file:
        file.seek(offset)
        shape, in_fortran, dtype = npz.header(file)
        return _map(path, dtype, file.tell(), shape, "F" if in_fortran else "C")


def _map(
    path: Path, dtype: Any, offset: int, shape: tuple[int, ...], order: Literal["C", "F"] = "C"
) -> np.ndarray:
    if np.dtype(dtype).hasobject:
        raise ValueError("it holds Python objects")
    # An array of numpy's own type, whose parts are copies in memory and not maps.
    return np.asarray(np.memmap(path, dtype, "r", offset, shape, order))


_TYPES = {
    "BOOL": "?",
    **{f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "FIU" for size in (1, 2, 4, 8)},
}


def _safetensors(path: Path) -> dict[str, Callable[[], np.ndarray]]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))

    def tensor(about: Mapping[str, Any]) -> np.ndarray:
        if about["dtype"] not in _TYPES:
            raise ValueError(f"it holds {about['dtype']}, which numpy does not have: save float32")
        return _map(
            path,
            _TYPES[about["dtype"]],
            8 + length + about["data_offsets"][0],
            tuple(about["shape"]),
        )

    return {
        name: functools.partial(tensor, about)
        for name, about in header.items()
        if name != "__metadata__"
    }
