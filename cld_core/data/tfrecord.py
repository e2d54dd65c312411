"""TFRecord files of tf.train.Example messages, read without TensorFlow.

A record is: length (uint64), masked CRC-32C of these 8 bytes (uint32), data, masked CRC-32C of the data (uint32);
all little-endian. The data here are protocol-buffer messages, whose wire format is read as far as needed:

    Example  { Features features = 1 }              BytesList { repeated bytes value = 1 }
    Features { map<string, Feature> feature = 1 }   Int64List { repeated int64 value = 1 }
    Feature  { oneof { BytesList = 1, FloatList = 2, Int64List = 3 } }
"""

import struct
from collections.abc import Iterator
from typing import Protocol

import google_crc32c

from cld_core.errors import DataError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MASK_DELTA = 0xA282EAD8
# A record of one image of 4096 pixels a side fits; a longer one means that the length itself is nonsense.
_LONGEST_RECORD = 64 << 20
# An image has three: shape, data, label. The values of a list are numbers, such as those of a shape.
_MOST_FEATURES, _MOST_VALUES = 1000, 1000

Feature = list[bytes] | list[int]


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def masked_crc32c(data: bytes) -> int:
    """CRC-32C, rotated right by 15 bits and shifted by a constant, as TFRecord stores it."""
    crc: int = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def read_records(file: Readable, name: str) -> Iterator[bytes]:
    """The records of a TFRecord ``file``; ``name`` stands for it in messages.

    Raises:
        DataError: the file ends within a record, or a checksum is wrong.
    """
    offset = 0
    number = 0

    def broken(what: str) -> DataError:
        return DataError(f"{name}: record {number} at byte {offset} {what}. Fetch this file again.")

    while header := file.read(12):
        if len(header) < 12:
            raise broken("is cut short in its header")
        length, header_crc = struct.unpack("<QI", header)
        if masked_crc32c(header[:8]) != header_crc:
            raise broken("has a wrong checksum of its length: the file is damaged or not a TFRecord file")
        if length > _LONGEST_RECORD:
            raise broken(f"claims {length} bytes")
        data = file.read(length)
        footer = file.read(4)
        if len(data) < length or len(footer) < 4:
            raise broken(f"is cut short: it has {len(data)} of {length} bytes")
        if masked_crc32c(data) != struct.unpack("<I", footer)[0]:
            raise broken("has a wrong checksum of its data: the file is damaged")
        yield data
        offset += 16 + length
        number += 1


def parse_example(data: bytes) -> dict[str, Feature]:
    """The features of a serialised tf.train.Example that are lists of bytes or of integers.

    Raises:
        ValueError: ``data`` is not such a message.
    """
    features: dict[str, Feature] = {}
    for field, value in _fields(memoryview(data)):
        if field != 1:
            continue
        for inner, entry in _fields(_message(value)):
            if inner == 1:
                name, feature = _map_entry(_message(entry))
                if feature is not None:
                    features[name] = feature
                if len(features) > _MOST_FEATURES:
                    raise ValueError(f"more than {_MOST_FEATURES} features")
    return features


def _map_entry(entry: memoryview) -> tuple[str, Feature | None]:
    name = ""
    feature: Feature | None = None
    for field, value in _fields(entry):
        if field == 1:
            name = bytes(_message(value)).decode()
        elif field == 2:
            feature = _feature(_message(value))
    return name, feature


def _feature(message: memoryview) -> Feature | None:
    for kind, value in _fields(message):
        if kind == 1:
            items = [_message(item) for field, item in _fields(_message(value)) if field == 1]
            if len(items) > _MOST_VALUES:
                raise ValueError(f"a list of more than {_MOST_VALUES} values")
            return [bytes(item) for item in items]
        if kind == 3:
            return _integers(_message(value))
    return None


def _integers(message: memoryview) -> list[int]:
    """The values of an Int64List, which may be packed into one field or have one field each."""
    values: list[int] = []
    for field, value in _fields(message):
        if field != 1:
            continue
        if isinstance(value, int):
            values.append(_signed(value))
            if len(values) > _MOST_VALUES:
                raise ValueError(f"a list of more than {_MOST_VALUES} numbers")
            continue
        at = 0
        while at < len(value):
            number, at = _varint(value, at)
            values.append(_signed(number))
            if len(values) > _MOST_VALUES:
                raise ValueError(f"a list of more than {_MOST_VALUES} numbers")
    return values


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number instead of a message")
    return value


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message in order: number, and value as an integer or as bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        field, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            number, at = _varint(message, at)
            yield field, number
            continue
        if kind == _BYTES:
            length, at = _varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"unknown wire type {kind}")
        if at + length > len(message):
            raise ValueError("a field reaches past the end of its message")
        yield field, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("a number is cut short")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise ValueError("a number has more than 64 bits")
