"""The run folder, its ledger and its atomic files."""

import json
import os
import subprocess
import sys
import threading

import pytest

from cld_core.errors import CldError, NotFoundError, UsageError
from cld_core.recipe import load
from cld_core.run import RunFolder, attempts_of, find_runs
from cld_core.run.atomic import append_line, read_json, replacing, write_json
from tests.support.paths import RECIPES

TOY = RECIPES / "toy.yaml"


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path / "mine", load(TOY), {"created": 1.0})


def test_a_new_run_holds_its_recipe(run):
    assert run.recipe() == load(TOY)
    assert run.identity()["name"] == "mine"
    assert run.progress() == {}
    assert run.checkpoint_steps() == []
    assert RunFolder.open(run.path).name == "mine"


def test_names_that_are_taken_or_cannot_be(tmp_path, run):
    with pytest.raises(UsageError, match=r"cldctl resume .*/mine`"):
        RunFolder.create(run.path, load(TOY), {})
    for name in ("-x", ".hidden", "a b", "x" * 101):
        with pytest.raises(UsageError, match="cannot name a run"):
            RunFolder.create(tmp_path / name, load(TOY), {})
        assert not (tmp_path / name).exists()


def test_an_unknown_run_names_the_nearest(tmp_path, run):
    with pytest.raises(NotFoundError, match="Did you mean 'mine'") as caught:
        RunFolder.open(tmp_path / "mime")
    assert caught.value.exit_code == 3


def test_runs_are_found_oldest_first(tmp_path, run):
    RunFolder.create(tmp_path / "a_later_one", load(TOY), {"created": 2.0})
    (tmp_path / "no_run").mkdir()
    assert [found.name for found in find_runs(tmp_path)] == ["mine", "a_later_one"]


def test_overrides_of_continuations_add_up(run):
    run.ledger.append("requested", steps=5, overrides=["train.steps=5", "optim.lr=0.1"])
    run.ledger.append("requested", steps=9, overrides=["train.steps=9"])
    recipe = run.recipe()
    assert (recipe.train.steps, recipe.optim.lr) == (9, 0.1)


def test_loads_no_torch():
    code = "import sys, cld_core, cld_core.run, cld_core.recipe, cld_core.stop; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


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


def test_a_torn_line_spoils_itself_alone(run):
    run.ledger.append("requested", steps=1)
    with run.ledger.path.open("a") as file:
        file.write('{"time": 1, "event": "sta')
    run.ledger.append("submitted", job_id="7")
    assert [event["event"] for event in run.ledger.events()] == ["requested", "submitted"]


def test_lines_of_many_writers_do_not_mix(tmp_path):
    path = tmp_path / "lines"
    text = json.dumps({"text": "x" * 3000})
    threads = [threading.Thread(target=lambda: [append_line(path, text) for _ in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A writer that looked while another wrote may have closed a line that was whole: an empty line, passed over.
    assert [line for line in path.read_text().splitlines() if line] == [text] * 160


def started(attempt: int, time: float = 0.0, **more):
    return {"event": "started", "time": time, "attempt": attempt, "job_id": str(attempt), "step": 10 * attempt, **more}


def test_attempts():
    events = [
        started(0, 1.0),
        started(1, 2.0, reached=12),
        {"event": "ended", "time": 3.0, "attempt": 1, "cause": "preempted", "step": 17, "detail": "SIGUSR2"},
        started(2, 4.0),
        {"event": "cancelled", "time": 4.5, "job_id": "2"},
        {"event": "ended", "time": 5.0, "attempt": 2, "cause": "terminated", "step": 25},
        started(3, 6.0, reached=99),
    ]
    made = attempts_of(events, {"attempt": 3, "step": 31})
    assert [entry.cause for entry in made] == ["killed", "preempted", "cancelled", None]
    assert [entry.ended for entry in made] == [2.0, 3.0, 5.0, None]
    assert [entry.last_step for entry in made] == [12, 17, 25, 31]
    assert made[1].detail == "SIGUSR2"


def test_a_folder_that_cannot_be_filled_is_gone_again(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cld_core.run.folder.write_text", full)
    with pytest.raises(CldError, match=r"mine: the run's folder cannot be filled \(No space left on device\)"):
        RunFolder.create(tmp_path / "mine", load(TOY), {})
    assert not (tmp_path / "mine").exists()
    (tmp_path / "mine" / "logs").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"something of this name that is no run\. Remove it"):
        RunFolder.create(tmp_path / "mine", load(TOY), {})
