"""Files are written whole or not at all, and lines of several writers do not mix."""

import json
import os
import threading

import pytest

from cld_core.run.atomic import append_line, replacing, write_json
from cld_core.small_files import read_json


def test_replacing_is_all_or_nothing(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})

    def fail():
        with replacing(path) as file:
            file.write(b"half")
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["file.json"]


def test_lines_of_many_writers_do_not_mix(tmp_path):
    path = tmp_path / "lines"
    text = json.dumps({"text": "x" * 3000})
    threads = [threading.Thread(target=lambda: [append_line(path, text) for _ in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A writer that looked while another one wrote may have closed a complete line: an empty line, which is skipped.
    assert [line for line in path.read_text().splitlines() if line] == [text] * 160
