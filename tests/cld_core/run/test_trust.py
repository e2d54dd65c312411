"""The plug-ins of runs that others can write do not run unasked."""

import grp
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from cld_core.errors import CheckpointError
from cld_core.ownership import user_name
from cld_core.run import RunFolder
from cld_core.run.events import Requested
from cld_core.run.trust import require_own_plugin
from tests.support.made_up import run_with

MINE = user_name(os.geteuid())


@pytest.fixture
def run(tmp_path) -> RunFolder:
    folder = run_with(tmp_path / "mine")
    folder.ledger.append(Requested(steps=10, overrides=(f"data.plugin={tmp_path / 'x.py'}",)))
    for path in (folder.path, folder.recipe_file, folder.ledger.path):
        path.chmod(path.stat().st_mode & ~0o022)
    return folder


def in_a_group(monkeypatch, name: str, *members: str) -> None:
    monkeypatch.setattr(grp, "getgrgid", lambda gid: SimpleNamespace(gr_name=name, gr_mem=list(members)))


def test_a_run_of_this_user_alone(run):
    require_own_plugin(run, run.recipe())


@pytest.mark.parametrize("which", ["path", "recipe_file", "ledger"])
@pytest.mark.parametrize(
    ("added", "name", "members"), [(0o020, "staff", ()), (0o020, MINE, ("bob",)), (0o002, MINE, ())]
)
def test_what_others_can_write(run, monkeypatch, which, added, name, members):
    path: Path = run.ledger.path if which == "ledger" else getattr(run, which)
    path.chmod(path.stat().st_mode | added)
    in_a_group(monkeypatch, name, *members)
    with pytest.raises(
        CheckpointError, match=r"others may write into it .*data\.plugin=.*x\.py .*--allow-plugin"
    ) as refusal:
        require_own_plugin(run, run.recipe())
    assert str(refusal.value).startswith(f"{path}: ")


@pytest.mark.parametrize("members", [(), (MINE,)])
def test_a_group_of_ones_own_is_nobody_else(run, monkeypatch, members):
    for path in (run.path, run.recipe_file, run.ledger.path):
        path.chmod(path.stat().st_mode | 0o020)
    in_a_group(monkeypatch, MINE, *members)
    require_own_plugin(run, run.recipe())


def test_the_extractor_of_fid_is_a_plugin(run, tmp_path):
    run.ledger.append(Requested(steps=10, overrides=("data.plugin=null", f"eval.fid.plugin={tmp_path / 'y.py'}")))
    run.ledger.path.chmod(0o666)
    require_own_plugin(run, run.recipe())
    with pytest.raises(CheckpointError, match=r"eval\.fid\.plugin=.*y\.py"):
        require_own_plugin(run, run.recipe(), of_metrics=True)


def test_a_run_without_a_plugin_is_anybodys(run):
    run.ledger.append(Requested(steps=10, overrides=("data.plugin=null",)))
    run.ledger.path.chmod(0o666)
    require_own_plugin(run, run.recipe(), of_metrics=True)


def test_a_hook_is_a_plugin_for_those_who_would_start_it(run):
    run.ledger.append(Requested(steps=10, overrides=("data.plugin=null", "hooks.on_change=date")))
    run.ledger.path.chmod(0o666)
    require_own_plugin(run, run.recipe(), of_metrics=True)
    with pytest.raises(CheckpointError, match=r"hooks\.on_change=date would run code of their choice"):
        require_own_plugin(run, run.recipe(), of_hooks=True)


def test_an_address_that_gets_keys_is_a_danger_for_those_who_would_start_it(run):
    run.ledger.append(Requested(steps=10, overrides=("data.plugin=null", "monitor.mlflow.tracking_uri=http://theirs")))
    require_own_plugin(run, run.recipe(), of_loggers=True)
    run.ledger.path.chmod(0o666)
    require_own_plugin(run, run.recipe(), of_metrics=True, of_hooks=True)
    with pytest.raises(CheckpointError, match=r"tracking_uri=http://theirs would get your key of MLflow"):
        require_own_plugin(run, run.recipe(), of_loggers=True)
