"""Whether a plug-in registers the data: a name is known for the content of its file, or a process is asked."""

import json
import subprocess
from types import SimpleNamespace

import pytest

from cld_core.config import load
from cld_core.errors import RecipeError
from cldctl import caches
from cldctl.runs import plugins
from tests.support.paths import RECIPES


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


def forgotten():
    """As in a new command, which remembers nothing by itself."""
    plugins._asked.cache_clear()


def require(plugin, name="ring", **how):
    """Whether the plug-in registers the data, as a new command finds out; returns what it says."""
    forgotten()
    recipe = load(RECIPES / "toy.yaml", [f"data.name={name}", f"data.plugin={plugin}"])
    said = []
    plugins.require_registered(recipe, str, said.append, **how)
    return said


def answer(*names):
    return {"names": list(names), "data": {}}


def test_the_same_file_is_asked_about_once(file, started, tmp_path):
    for _ in range(2):
        assert require(file) == []
    assert started.count == 1
    copy = tmp_path / "copy.py"
    copy.write_bytes(file.read_bytes())
    require(copy)
    assert started.count == 1, "the content counts"
    file.write_text("A = 2\n")
    started.answer = answer("other")
    with pytest.raises(RecipeError, match="registers other"):
        require(file)
    assert started.count == 2


def test_a_name_is_refused_only_by_a_process_that_was_asked_now(file, started):
    """The plug-in may import another file, which has changed since."""
    require(file)
    started.answer = answer("ring", "ring2")
    require(file, "ring2")
    assert started.count == 2
    require(file, "ring2")
    assert started.count == 2, "and is remembered"
    started.answer = answer("ring")
    with pytest.raises(RecipeError, match="registers ring"):
        require(file, "ring3")
    with pytest.raises(RecipeError, match="registers ring"):
        require(file, "ring2")


def test_in_a_sweep_one_value_has_to_come_from_the_plug_in(file, started):
    require(file, "diamond", swept=("diamond", "ring"))
    require(file, "diamond", swept=("diamond", "ring"))
    assert started.count == 1
    with pytest.raises(RecipeError, match=r"registers ring, but no value of 'data\.name' comes from it\. Add ring to"):
        require(file, "diamond", swept=("diamond", "gaussian"))
    assert started.count == 2, "asked again before it is refused"


def test_problems_are_not_remembered(file, started):
    started.answer = {"problem": "it cannot be imported"}
    with pytest.raises(RecipeError, match="it cannot be imported"):
        require(file)
    started.answer = answer("ring")
    require(file)
    assert started.count == 2


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"names": 5}', b'{"names": [5]}', b"\xff", b"[" * 100_000])
def test_a_damaged_answer_is_ignored(file, started, damage):
    require(file)
    (kept,) = caches.folder().glob("plugin-*.json")
    assert kept.parent.stat().st_mode & 0o077 == 0
    kept.write_bytes(damage)
    require(file)
    require(file)
    assert started.count == 2, "and replaced"
