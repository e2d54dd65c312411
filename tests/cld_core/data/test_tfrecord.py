import io
import struct

import pytest

from cld_core.data.tfrecord import masked_crc32c, parse_example, read_records
from cld_core.errors import DataError

from .formats import celebahq_images, example, image_example, tfrecord


def records_of(data: bytes) -> list[bytes]:
    return list(read_records(io.BytesIO(data), "shard"))


def test_the_checksum_is_crc32c():
    crc = 0xE3069283  # of "123456789", the check value of CRC-32C
    assert masked_crc32c(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32


def test_records_come_back_as_they_were_written():
    records = [b"", b"x", bytes(range(256)) * 300]
    assert records_of(tfrecord(records)) == records
    assert records_of(b"") == []


@pytest.mark.parametrize("at", [0, 7, 8, 11, 12, 60, -1, -4, -5])
def test_any_flipped_byte_is_found(at):
    data = bytearray(tfrecord([b"first", b"second" * 10]))
    start = 16 + len(b"first")
    data[start + at if at >= 0 else at] ^= 1
    with pytest.raises(DataError, match=r"shard: record 1 at byte 21 .*Fetch this file again"):
        records_of(bytes(data))


@pytest.mark.parametrize("cut", range(1, 28))
def test_a_file_that_ends_within_a_record_is_found(cut):
    data = tfrecord([b"first", b"second string"])  # the second record has 29 bytes
    with pytest.raises(DataError, match="record 1 at byte 21 is cut short"):
        records_of(data[:-cut])


def test_a_file_of_something_else_is_found():
    with pytest.raises(DataError, match="not a TFRecord file"):
        records_of(b"\x89PNG\r\n\x1a\n and so on, and so on")


def test_a_length_beyond_reason_is_refused_without_reading_it():
    header = struct.pack("<Q", 1 << 50)
    with pytest.raises(DataError, match="claims"):
        records_of(header + struct.pack("<I", masked_crc32c(header)))


def test_features_of_an_image():
    image = celebahq_images(1, 16)[0]
    features = parse_example(image_example(image, label=3))
    assert features["shape"] == [16, 16, 3]
    assert features["label"] == [3]
    assert features["data"] == [image.tobytes()]


def test_numbers_of_any_sign_and_length_and_kinds_that_are_not_read():
    numbers = [0, 1, 127, 128, 300, 2**31, 2**63 - 1, -1, -(2**63)]
    features = parse_example(example(numbers=numbers, weights=[0.5, 1.5], names=[b"a", b"", b"c"]))
    assert features == {"numbers": numbers, "names": [b"a", b"", b"c"]}


def test_numbers_that_are_not_packed():
    number = b"\x08\xac\x02"  # field 1, varint 300
    int64_list = b"\x1a" + bytes([2 * len(number)]) + 2 * number
    entry = b"\x0a\x01k" + b"\x12" + bytes([len(int64_list)]) + int64_list
    features = b"\x0a" + bytes([len(entry)]) + entry
    assert parse_example(b"\x0a" + bytes([len(features)]) + features) == {"k": [300, 300]}
