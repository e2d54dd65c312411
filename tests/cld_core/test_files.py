"""Files: reading is bounded, whatever is there; writing is all or nothing, and is retried."""

import errno
import io
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest

from cld_core import files
from tests.support.failing import Failing


@pytest.mark.parametrize("size", [0, 1, 2**16, 200_000])
@pytest.mark.parametrize("error", [0, 10, -10])
@pytest.mark.parametrize("at_once", [1000, 2**30])
def test_all_of_a_file_is_read_even_if_its_status_has_another_size(
    size, error, at_once, tmp_path, monkeypatch
):
    file = tmp_path / "file"
    content = os.urandom(size)
    file.write_bytes(content)
    real_fstat = os.fstat
    real_read = os.read

    def fstat(descriptor):
        values = list(real_fstat(descriptor))
        values[6] = max(0, values[6] + error)
        return os.stat_result(values)

    monkeypatch.setattr(os, "fstat", fstat)
    monkeypatch.setattr(
        os, "read", lambda descriptor, most: real_read(descriptor, min(most, at_once))
    )
    assert files.read_bytes(file) == content
    assert files.read_bytes(file, limit=size) == content


def test_a_file_that_is_too_large_is_refused_without_being_read(tmp_path):
    file = tmp_path / "large"
    with file.open("wb") as opened_file:
        opened_file.truncate(2**40)
    with pytest.raises(OSError, match="larger than 1024 bytes") as refused:
        files.read_bytes(file, limit=1024)
    assert refused.value.errno == errno.EFBIG


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_anything_but_a_regular_file_is_refused_at_once(kind, tmp_path):
    path = {"pipe": tmp_path / "pipe", "device": Path("/dev/zero"), "folder": tmp_path}[kind]
    if kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(OSError):
        files.read_bytes(path)
    assert files.read_object(path) == {}


def test_links_are_followed_only_where_the_caller_says_so(tmp_path):
    target = tmp_path / "target"
    link = tmp_path / "link"
    target.write_text("{}")
    link.symlink_to(target)
    with pytest.raises(OSError) as refused, files.opened(link):
        pass
    assert refused.value.errno == errno.ELOOP
    assert files.read_bytes(link, follow=True) == b"{}"


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000 + "]" * 100_000, "[" * 100_000])
def test_texts_that_are_not_json_are_refused(text):
    with pytest.raises(ValueError):
        files.parse_json(text)


def test_a_file_is_changed_in_place_unless_it_is_a_link(tmp_path):
    file = tmp_path / "file"
    link = tmp_path / "link"
    os.close(files.descriptor_for_writing(file))
    file.write_text("kept")
    os.close(files.descriptor_for_writing(file))
    assert file.read_text() == "kept"
    link.symlink_to(file)
    for other in (link, tmp_path):
        with pytest.raises(OSError):
            files.descriptor_for_writing(other)


def test_an_object_that_is_missing_differs_from_one_that_cannot_be_read(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    assert files.existing_object(file) is None
    for content, expected in (("{", None), ("[]", None), ('{"a": 1}', {"a": 1})):
        file.write_text(content)
        assert files.existing_object(file) == expected
    os.mkfifo(tmp_path / "pipe")
    assert files.existing_object(tmp_path / "pipe") is None
    monkeypatch.setattr(os, "open", Mock(side_effect=OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError, match="Input/output"):
        files.existing_object(file)


def test_replacing_is_all_or_nothing(tmp_path):
    path = tmp_path / "file.json"
    files.write_json(path, {"a": 1})

    def fail():
        with files.replacing(path) as file:
            file.write(b"half")
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert files.read_object(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["file.json"]


def test_lines_of_many_writers_do_not_mix(tmp_path):
    path = tmp_path / "lines"
    text = json.dumps({"text": "x" * 3000})
    with ThreadPoolExecutor(8) as pool:
        pool.map(lambda _: [files.append_line(path, text) for _ in range(20)], range(8))
    # A writer that looked while another one wrote may have closed a complete line: an empty line,
    # which is skipped.
    assert [line for line in path.read_text().splitlines() if line] == [text] * 160


def failing(times, error=errno.ENOSPC):
    """A call that fails so many times."""
    return Failing(lambda: None, lambda call: call <= times, OSError(error, "the disk"))


@pytest.mark.parametrize(
    "error", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EAGAIN]
)
def test_a_temporary_error_is_retried(error, disk_clock):
    files.retried(call := failing(5, error), 60.0)
    assert call.calls == 6
    assert 0 < disk_clock.now < 60


def test_retries_end_at_the_deadline_or_on_request(disk_clock):
    with pytest.raises(OSError, match="the disk"):
        files.retried(failing(float("inf")), 60.0)
    assert 45 < disk_clock.now <= 60
    disk_clock.now = 0.0
    with pytest.raises(OSError, match="the disk"):
        files.retried(failing(float("inf")), 60.0, stop=lambda: disk_clock.now > 3)
    assert disk_clock.now < 10


@pytest.mark.parametrize("error", [errno.EACCES, errno.ENOENT, errno.ENAMETOOLONG, errno.EISDIR])
def test_another_error_is_not_retried(error, disk_clock):
    with pytest.raises(OSError, match="the disk"):
        files.retried(failing(1, error), 60.0)
    assert disk_clock.now == 0
    assert not files.passes(ValueError())


def test_a_log_that_cannot_be_written_ends_nothing(monkeypatch):
    full = Mock(side_effect=OSError(errno.ENOSPC, "full"))
    monkeypatch.setattr(sys, "stdout", Mock(spec=io.StringIO, write=full, flush=full))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    files.forgive_output()
    files.forgive_output()
    print("lost", flush=True)
    print("kept", file=sys.stderr, flush=True)
    assert sys.stderr.getvalue() == "kept\n"
