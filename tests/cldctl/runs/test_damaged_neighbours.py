"""One damaged run spoils no command for the others, and is shown with a reason."""

import json
import os
import shutil
import time

import pytest

import cld_core
from cld_core.run import Lease, find_runs
from cld_core.run.events import Ended, Noted
from tests.support.made_up import run_with
from tests.support.paths import FIXTURES
from tests.support.scripted import trained
from tests.support.tools import invoke

DEEP = "[" * 100_000
# Seconds within which a command answers, also on a busy machine; the runs are small.
PATIENCE_S = 20


def replaced(name, content):
    def damage(run):
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).unlink(missing_ok=True)
        (run.path / name).write_text(content)

    return damage


def in_place_of(name, make):
    def damage(run):
        (run.path / name).unlink(missing_ok=True)
        make(run.path / name)

    return damage


def sparse(path):
    with path.open("wb") as file:
        file.truncate(2**40)


def request(**changes):
    def damage(run):
        fixture = FIXTURES / "run_v2/evals/elbo-00000120-78ce5c25"
        folder = run.evals / fixture.name
        shutil.copytree(fixture, folder)
        (folder / "report.json").unlink()
        content = json.loads((folder / "request.json").read_text())
        (folder / "request.json").write_text(json.dumps({**content, **changes}))

    return damage


def zeros(path):
    path.symlink_to("/dev/zero")


DAMAGE = {
    "no identity": lambda run: run.identity_file.unlink(),
    "the identity is a folder": in_place_of("run.json", os.mkdir),
    "a deep identity": replaced("run.json", DEEP),
    "no JSON": replaced("run.json", "\x00"),
    "the identity is a pipe": in_place_of("run.json", os.mkfifo),
    "the identity is huge": in_place_of("run.json", sparse),
    "the ledger is a pipe": in_place_of("attempts.jsonl", os.mkfifo),
    "the ledger is huge": in_place_of("attempts.jsonl", sparse),
    "a deep event": replaced("attempts.jsonl", DEEP + "\n" + '{"time": 1, "event": ' + DEEP + "\n"),
    "times that are none": replaced(
        "attempts.jsonl", '{"time": 1e999, "event": "started"}\n{"time": [], "event": 1}\n'
    ),
    "progress of other types": replaced("progress.json", '{"step": "1", "steps": [], "loss": {}, "time": "x"}'),
    "progress without bounds": replaced("progress.json", f'{{"step": {10**400}, "steps": 0, "steps_per_s": NaN}}'),
    "a billion shards": request(shards=10**9),
    "negative shards": request(shards=-1),
    "a lease that is a list": replaced("lease/00000001.json", "[]"),
    "a sidecar of other types": replaced("checkpoints/step_00000020.json", '{"step": [], "bytes": NaN}'),
}


@pytest.fixture
def good(tmp_path, scripted):
    run = trained(run_with(tmp_path / "good", 10, 20), "1", "gone")
    run.ledger.append(Ended(attempt=0, cause="preempted", step=20))
    return run


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_run_spoils_no_other(tmp_path, good, scripted, damage):
    bad = trained(run_with(tmp_path / "bad", 10, 20), "2", "gone")
    bad.ledger.append(Ended(attempt=0, cause="preempted", step=20))
    damage(bad)
    began = time.monotonic()
    assert {run.name for run in find_runs(tmp_path)} == {"good", "bad"}
    rows = {row["name"]: row for row in json.loads(invoke("status", "--json", "--all", runs=tmp_path).stdout)}
    assert rows["good"]["state"] == "STOPPED"
    assert rows["bad"]["state"] in ("STOPPED", "LOST", "PENDING")
    assert rows["bad"]["state"] != "LOST" or rows["bad"]["reason"]
    assert "\n good " in invoke("status", "--all", runs=tmp_path).stdout
    assert "internal error" not in invoke("why", "bad", runs=tmp_path, code=None).stderr
    assert [run.state for run in cld_core.runs(tmp_path) if run.name == "good"] == ["STOPPED"]
    assert [run.state for run in cld_core.runs(tmp_path) if run.name == "bad"] != []
    assert invoke("logs", "god", runs=tmp_path, code=3).stderr.count("Did you mean 'good'?") == 1
    done = invoke("resume", "--yes", runs=tmp_path, code=None)
    assert "good\n" in done.stdout, done.stderr
    assert time.monotonic() - began < PATIENCE_S


def test_a_bug_of_ours_is_one_row(tmp_path, good, monkeypatch):
    from cld_core.run import RunFolder

    run_with(tmp_path / "bad", 10)
    read = RunFolder.progress

    def broken(run):
        if run.name == "bad":
            raise RecursionError("too\ndeep")
        return read(run)

    monkeypatch.setattr(RunFolder, "progress", broken)
    rows = {row["name"]: row for row in json.loads(invoke("status", "--json", "--all", runs=tmp_path).stdout)}
    assert rows["good"]["state"] == "STOPPED"
    assert (rows["bad"]["state"], rows["bad"]["reason"]) == ("LOST", "its files cannot be read: too deep")


@pytest.mark.parametrize("left", ["attempts.jsonl", "recipe.yaml", "checkpoints"])
def test_a_run_without_identity_is_one_row_as_long_as_anything_of_it_is_left(tmp_path, good, left):
    bad = run_with(tmp_path / "bad", 10)
    bad.ledger.append(Noted(note="mine"))
    for path in bad.path.iterdir():
        if path.name != left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (tmp_path / "pictures").mkdir()
    rows = {row["name"]: row for row in json.loads(invoke("status", "--json", "--all", runs=tmp_path).stdout)}
    assert set(rows) == {"good", "bad"}, "a folder of something else is no run"
    assert rows["bad"]["state"] == "LOST"
    assert "run.json is missing" in rows["bad"]["reason"]
    assert "run.json is missing" in invoke("logs", "bad", runs=tmp_path, code=2).stderr


@pytest.mark.parametrize("damage", ["no identity", "no JSON", "the identity is a folder"])
def test_a_run_without_identity_can_be_removed(tmp_path, good, damage):
    bad = trained(run_with(tmp_path / "bad", 10), "2", "gone")
    DAMAGE[damage](bad)
    done = invoke("rm", "bad", "--yes", runs=tmp_path)
    assert "run.json" in done.stderr, "what is wrong with it is shown"
    assert not bad.path.exists()
    assert good.path.exists()


def test_a_run_without_identity_that_may_be_alive_stays(tmp_path, good):
    bad = trained(run_with(tmp_path / "bad", 10), "2", "running")
    bad.identity_file.unlink()
    assert "job 2 may still run" in invoke("rm", "bad", "--yes", runs=tmp_path, code=2).stderr
    (bad.path / "attempts.jsonl").unlink()
    lease = Lease.acquire(bad.leases, job_id="2")
    assert "Nothing was removed" in invoke("rm", "bad", "--yes", runs=tmp_path, code=2).stderr
    lease.release()
    assert bad.path.exists()
