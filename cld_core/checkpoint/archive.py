"""Files of torch.save that anybody may have made, looked at before torch reads them.

torch unpickles with `weights_only`, so nothing in them runs. It does unpack what is compressed, though, of any size,
and it hashes the keys of dictionaries: a tuple of two tuples of two tuples and so on takes years.
"""

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from cld_core.errors import CheckpointError, WrongCheckpointError
from cld_core.files import opened
from cld_core.sanitize import one_line

# How a zip archive begins, and a pickle of protocol 2, which torch writes, or later.
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
# The object, and what the form of torch before 1.6 has around it.
_PICKLES = 5
_MOST_MEMBERS = 100_000
# Tuples in tuples, counted as often as they are met.
_HEAVIEST = 100_000
_SUMMED = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "REDUCE", "FROZENSET", "NEWOBJ", "NEWOBJ_EX", "BUILD")


class NotPlain(Exception):
    """What is wrong with a file."""


def require_kind(path: Path) -> None:
    """Refuse a file that does not begin as one of torch; an empty one may have been cut.

    Raises:
        WrongCheckpointError
    """
    try:
        with opened(path, follow=True) as file:
            start = file.read(len(_ZIP))
    except OSError:
        return  # What reads it says why.
    if start and not _ZIP.startswith(start) and not start.startswith(_PICKLE):
        text = f"{path}: not a checkpoint: it cannot be read as plain tensors, and does not begin as a file of torch"
        raise WrongCheckpointError(f"{text}. Pass one that the published code wrote.")


def require_plain(path: Path) -> None:
    """Refuse a file whose content would unpack to more than it has, or whose pickle cannot be read in time.

    What else is wrong with it is for torch to notice.

    Raises:
        CheckpointError: names what it is.
    """
    try:
        look(path)
    except (OSError, NotPlain) as error:
        raise CheckpointError(
            f"{path}: cannot be read as plain tensors ({one_line(error)}). Use another file."
        ) from error


def look(path: Path) -> bool:
    """Whether it is a zip archive, whose tensors can be mapped, rather than a file of the form before torch 1.6.

    Raises:
        NotPlain: says why the file must not be read.
        OSError: it cannot be.
    """
    with opened(path, follow=True) as file:
        return _look(file)


def _look(file: IO[bytes]) -> bool:
    length = file.seek(0, 2)
    file.seek(0)
    is_archive = file.read(4) == _ZIP
    file.seek(0)
    if not is_archive:
        for _ in range(_PICKLES):
            _weigh(file)
        return False
    try:
        archive = zipfile.ZipFile(file)
        entries = archive.infolist()
    except Exception as error:  # zipfile raises whatever the numbers in a damaged file lead to
        raise NotPlain(f"{type(error).__name__}: {error}") from error
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise NotPlain("it is compressed, which torch.save does not do")
    if len(entries) > _MOST_MEMBERS or sum(entry.file_size for entry in entries) > length:
        raise NotPlain("its parts have more bytes than the file")
    for entry in entries:
        if entry.filename != entry.orig_filename:
            raise NotPlain("the name of a part has a NUL")
        # torch finds its pickle whatever the case of its name, and whatever the name in front of the content is.
        if entry.filename.lower().endswith(".pkl"):
            try:
                with archive.open(entry) as part:
                    _weigh(part)
            # Damaged, in a form of zip that Python does not know, or encrypted.
            except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
                raise NotPlain(f"its pickle cannot be read: {error}") from error
    return True


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
                    raise NotPlain("it has tuples in tuples without end")
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
    except Exception:  # Of any kind, as pickletools meets bytes that are not a pickle; torch stops there, too.
        return
