"""CIFAR-10's batches are pickles: only what an array needs is obeyed, and nothing takes years or the whole memory."""

import os
import pickle
import struct

import numpy as np
import pytest

from cld_core.data.cifar10 import _read_batch, _reconstruct
from cld_core.data.prepare import prepare
from cld_core.errors import DataError

from .formats import cifar_batch, cifar_rows

ROWS = cifar_rows(3, 0)
SOUND = cifar_batch(ROWS)


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_any_protocol(protocol, order):
    content = {b"data": np.array(ROWS, order=order), b"labels": [1, 2, 3], b"filenames": [b"a", b"\xff" * 300]}
    assert np.array_equal(_read_batch(pickle.dumps(content, protocol), "x"), ROWS)


def refused(data: bytes) -> str:
    with pytest.raises(DataError) as caught:
        _read_batch(data, "batch")
    assert str(caught.value).isprintable()
    return str(caught.value)


# A dictionary whose key is a tuple of two tuples of two tuples ...: its hash would take 2^60 steps.
NESTED = b"\x80\x04}" + b")" + b"2\x86" * 60 + b"Ns."


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "data",
    [
        NESTED,
        b"\x80\x04(" + NESTED[3:-2] + b"d.",
        b"\x80\x04}r" + struct.pack("<I", 2**32 - 1) + b".",
        b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
        b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b".",
        b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b".",
        b"\x80\x04\x8b" + struct.pack("<i", 2**31 - 1) + b".",
        b"I" + b"9" * 10**6 + b"\n.",
        b"(" * 10**6,
        b"\x80\x04\x8f(" + b")" + b"2\x86" * 60 + b"\x90.",
        b"\x80\x04}\x8c\x01a" + b")" + b"2\x86" * 60 + b"s.",
        b"cnumpy\ndtype\n}\x8c\x0c__defaults__)sb.",
        b"cnumpy\nndarray\n)\x81.",
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"c\x1b[31m\nevil\n.",
        b"\x80\x04]\x94h\x00a.",
        b"Pwhere\n.",
        b"",
        b".",
        b"\x80\xff.",
        SOUND[:-100],
        pickle.dumps({b"data": [1, 2]}, 2),
        pickle.dumps({b"data": np.zeros(3)}, 2),
        pickle.dumps({b"data": np.zeros((2, 3072), np.uint16)}, 2),
        pickle.dumps({b"data": np.zeros((2, 3071), np.uint8)}, 2),
        pickle.dumps({b"data": np.array([{}], object)}, 2),
    ],
    ids=range(27),
)
def test_what_is_not_obeyed(data):
    refused(data)


def test_our_own_functions_stay_what_they_are():
    refused(b"cnumpy.core.multiarray\n_reconstruct\n}S'__kwdefaults__'\n}sb.")
    assert _reconstruct.__kwdefaults__ is None


def test_pipes_and_long_files_among_the_batches(tmp_path):
    os.mkfifo(tmp_path / "data_batch_1")
    with pytest.raises(DataError, match=r"has no data_batch_1"):
        prepare("cifar10", tmp_path, tmp_path / "out", expect={})
    with (tmp_path / "data_batch_2").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(DataError, match="larger than"):
        prepare("cifar10", tmp_path, tmp_path / "out", expect={})
