"""Small files that others may have made: whatever lies there, reading ends, within bounds."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from cld_core.small_files import (
    MAX_DEPTH,
    descriptor_for_writing,
    existing_object,
    opened,
    parse_json,
    read_bytes,
    read_json,
    read_object,
    real,
    text,
    whole,
)


def _nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_a_regular_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    assert read_bytes(file) == b"content"
    assert read_bytes(file, limit=7) == b"content"


@pytest.mark.parametrize("size", [0, 1, 2**16, 200_000])
@pytest.mark.parametrize("said", ["as it is", "it has shrunk", "it has grown"])
@pytest.mark.parametrize("at_once", [1000, 2**30])
def test_all_of_a_file_is_read_whatever_its_status_says(
    size: int, said: str, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, content = tmp_path / "file", os.urandom(size)
    file.write_bytes(content)
    real_fstat, real_read = os.fstat, os.read

    def fstat(descriptor: int) -> os.stat_result:
        values = list(real_fstat(descriptor))
        values[6] += {"as it is": 0, "it has shrunk": 10, "it has grown": -min(size, 10)}[said]
        return os.stat_result(values)

    monkeypatch.setattr(os, "fstat", fstat)
    monkeypatch.setattr(os, "read", lambda descriptor, most: real_read(descriptor, min(most, at_once)))
    assert read_bytes(file) == content
    assert read_bytes(file, limit=size) == content


def test_a_file_that_is_too_large_is_refused_without_being_read(tmp_path: Path) -> None:
    file = tmp_path / "large"
    with file.open("wb") as opened_file:
        opened_file.truncate(2**40)
    with pytest.raises(OSError, match="larger than 1024 bytes") as refused:
        read_bytes(file, limit=1024)
    assert refused.value.errno == errno.EFBIG


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_anything_but_a_regular_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "path"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path = Path("/dev/zero")
    with pytest.raises(OSError):
        read_bytes(path)
    assert read_json(path) is None


def test_links_are_followed_only_where_the_caller_says_so(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("{}")
    link.symlink_to(target)
    with pytest.raises(OSError) as refused, opened(link):
        pass
    assert refused.value.errno == errno.ELOOP
    assert read_bytes(link, follow=True) == b"{}"


@pytest.mark.parametrize("text", ["", "{", _nested(MAX_DEPTH + 1), _nested(100_000), "[" * 100_000])
def test_what_is_not_json_within_bounds(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        parse_json(text)
    file = tmp_path / "file.json"
    file.write_text(text)
    assert read_json(file) is None


def test_json_of_the_deepest_allowed_level() -> None:
    assert parse_json(_nested(MAX_DEPTH)) == json.loads(_nested(MAX_DEPTH))


@pytest.mark.parametrize(("text", "content"), [('{"a": 1}', {"a": 1}), ("[1]", {}), ("null", {}), ("{", {})])
def test_an_object(text: str, content: dict[str, int], tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.write_text(text)
    assert read_object(file) == content
    assert read_object(tmp_path / "none") == {}


@pytest.mark.parametrize("value", [True, None, "1", 1.0, -1, 2**63, 10**400, [], {}])
def test_what_is_no_count(value):
    assert whole(value) is None


@pytest.mark.parametrize("value", [True, None, "1", float("nan"), float("inf"), 1e300, 10**400, [], {}])
def test_what_is_no_number(value):
    assert real(value) is None


def test_values_that_are_of_their_types():
    assert (whole(0), whole(7), whole(-1, least=-1)) == (0, 7, -1)
    assert (real(-1.5), real(3)) == (-1.5, 3)
    assert (text(""), text("ä"), text(1), text("\udcff")) == ("", "ä", None, None)


def test_json_is_utf_8(tmp_path):
    file = tmp_path / "file"
    file.write_bytes('{"a": 1}'.encode("utf-16"))
    assert read_json(file) is None


def test_a_file_is_changed_in_place_unless_it_is_a_link(tmp_path):
    file, link, pipe = tmp_path / "file", tmp_path / "link", tmp_path / "pipe"
    os.close(descriptor_for_writing(file))
    file.write_text("kept")
    os.close(descriptor_for_writing(file))
    assert file.read_text() == "kept"
    link.symlink_to(file)
    os.mkfifo(pipe)
    for other in (link, pipe, tmp_path):
        with pytest.raises(OSError):
            descriptor_for_writing(other)


def test_what_is_missing_is_another_matter_than_what_cannot_be_read(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    assert existing_object(file) is None
    for content, expected in (("{", None), ("[]", None), ('{"a": 1}', {"a": 1})):
        file.write_text(content)
        assert existing_object(file) == expected
    os.mkfifo(tmp_path / "pipe")
    assert existing_object(tmp_path / "pipe") is None

    def failing(*arguments, **options):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "open", failing)
    with pytest.raises(OSError, match="Input/output"):
        existing_object(file)
