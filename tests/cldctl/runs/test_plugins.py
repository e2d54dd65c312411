"""What a plug-in registers is asked of a process once for each content of its file."""

import json
import os
import subprocess
from types import SimpleNamespace

import pytest

from cldctl import caches
from cldctl.runs import plugins


@pytest.fixture
def started(monkeypatch):
    """The processes that were started; each answers with the one that is next."""
    started = SimpleNamespace(count=0, answer={"names": ["ring"], "data": {}})

    def run(command, **how):
        started.count += 1
        return subprocess.CompletedProcess(command, 0, json.dumps(started.answer), "")

    monkeypatch.setattr(plugins.subprocess, "run", run)
    return started


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "ring.py"
    file.write_text("A = 1\n")
    return file


def ask(plugin, name=None):
    """As a new command does, which remembers nothing by itself."""
    plugins._asked.cache_clear()
    return plugins.ask(str(plugin), name)


def test_the_same_file_is_asked_about_once(file, started, tmp_path):
    for _ in range(2):
        assert list(ask(file).names) == ["ring"]
    assert started.count == 1
    copy = tmp_path / "copy.py"
    copy.write_bytes(file.read_bytes())
    ask(copy)
    assert started.count == 1, "the content counts"
    file.write_text("A = 2\n")
    started.answer = {"names": ["other"], "data": {}}
    assert list(ask(file).names) == ["other"]
    assert started.count == 2


@pytest.mark.parametrize("what", ["sys.executable", "__version__", "metadata.version"])
def test_another_python_torch_or_cldctl_is_asked_again(file, started, monkeypatch, what):
    ask(file)
    changed = (lambda package: "0.0") if what == "metadata.version" else "other"
    monkeypatch.setattr(f"cldctl.runs.plugins.{what}", changed)
    ask(file)
    assert started.count == 2


def test_problems_are_not_remembered(file, started):
    started.answer = {"problem": "it cannot be imported"}
    assert ask(file).problem == "it cannot be imported"
    started.answer = {"names": ["ring"], "data": {}}
    assert ask(file).problem is None
    assert started.count == 2


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"names": 5}', b'{"names": [5]}', b"\xff", b"[" * 100_000])
def test_a_damaged_answer_is_ignored(file, started, damage):
    ask(file)
    (remembered,) = caches.folder().glob("plugin-*.json")
    assert remembered.parent.stat().st_mode & 0o077 == 0
    remembered.write_bytes(damage)
    assert list(ask(file).names) == ["ring"]
    ask(file)
    assert started.count == 2, "and replaced"


def test_modules_and_data_are_asked_about_each_time(file, started):
    """They may depend on files that nobody has looked at."""
    for plugin, name in (("a.module", None), (file, "ring")):
        before = started.count
        for _ in range(2):
            ask(plugin, name)
        assert started.count == before + 2


def test_without_a_cache_it_is_asked_each_time(file, started, monkeypatch):
    monkeypatch.setattr(caches, "folder", lambda: None)
    for count in (1, 2):
        ask(file)
        assert started.count == count


def test_old_answers_are_removed(file, started):
    ask(file)
    (old,) = caches.folder().glob("plugin-*.json")
    os.utime(old, (0, 0))
    file.write_text("A = 2\n")
    ask(file)
    (new,) = caches.folder().glob("plugin-*.json")
    assert new != old
