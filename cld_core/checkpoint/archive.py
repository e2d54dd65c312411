"""Files of torch.save that anybody may have made, looked at before torch reads them.

torch unpickles with `weights_only`, so nothing in them runs. It does unpack what is compressed, though, of any size,
and it hashes the keys of dictionaries: a tuple of two tuples of two tuples and so on takes years.
"""

import contextlib
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from cld_core.errors import CheckpointError
from cld_core.small_files import opened
from cld_core.texts import one_line

# The object, and what the form of torch before 1.6 has around it.
_PICKLES = 5
_MOST_MEMBERS = 100_000
# Tuples in tuples, counted as often as they are met.
_HEAVIEST = 100_000
_SUMMED = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "REDUCE", "FROZENSET", "NEWOBJ", "NEWOBJ_EX", "BUILD")


class _Refused(Exception):
    """What is wrong with a file."""


def require_plain(path: Path) -> None:
    """Refuse a file whose content would unpack to more than it has, or whose pickle cannot be read in time.

    What else is wrong with it is for torch to notice.

    Raises:
        CheckpointError: names what it is.
    """
    try:
        with opened(path, follow=True) as file:
            _look(file)
    except (OSError, _Refused) as error:
        raise CheckpointError(
            f"{path}: cannot be read as plain tensors ({one_line(error)}). Use another file."
        ) from error


def _look(file: IO[bytes]) -> None:
    length = file.seek(0, 2)
    file.seek(0)
    is_archive = file.read(4) == b"PK\x03\x04"
    file.seek(0)
    if not is_archive:
        for _ in range(_PICKLES):
            _weigh(file)
        return
    try:
        archive = zipfile.ZipFile(file)
        entries = archive.infolist()
    except Exception as error:  # zipfile raises whatever the numbers in a damaged file lead to
        raise _Refused(f"{type(error).__name__}: {error}") from error
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise _Refused("it is compressed, which torch.save does not do")
    if len(entries) > _MOST_MEMBERS or sum(entry.file_size for entry in entries) > length:
        raise _Refused("its parts have more bytes than the file")
    for entry in entries:
        if entry.filename.endswith(".pkl"):
            with contextlib.suppress(zipfile.BadZipFile), archive.open(entry) as part:
                _weigh(part)


def _weigh(file: IO[bytes]) -> None:
    """Follow a pickle without making anything, and refuse tuples that are too heavy to be hashed."""
    stack: list[Any] = []
    memo: dict[Any, int] = {}
    for opcode, argument in _opcodes(file):
        match opcode.name:
            case "MARK":
                stack.append(None)
            case "DUP":
                stack.append(stack[-1] if stack else 1)
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1] if stack and stack[-1] else 1
            case "MEMOIZE":
                memo[len(memo)] = stack[-1] if stack and stack[-1] else 1
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo.get(argument, 1))
            case name:
                weight = 1 + sum(_popped(stack, opcode))
                if weight > _HEAVIEST:
                    raise _Refused("it has tuples in tuples without end")
                stack.extend([weight if name in _SUMMED else 1] * len(opcode.stack_after))


def _popped(stack: list[Any], opcode: Any) -> list[int]:
    """The weights of what an opcode takes from the stack."""
    taken = []
    if pickletools.markobject in opcode.stack_before:
        while stack and (weight := stack.pop()) is not None:
            taken.append(weight)
        before = opcode.stack_before.index(pickletools.markobject)
    else:
        before = len(opcode.stack_before)
    for _ in range(min(before, len(stack))):
        taken.append(stack.pop() or 1)
    return taken


def _opcodes(file: IO[bytes]) -> Iterator[tuple[Any, Any]]:
    """The opcodes of a pickle, as far as it is one."""
    try:
        for opcode, argument, _ in pickletools.genops(file):
            yield opcode, argument
    except Exception:  # torch stops there, too
        return
