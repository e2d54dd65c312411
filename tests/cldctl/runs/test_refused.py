"""A continuation that gets no job leaves the run with the code and the hook that it had."""

import json
import shutil

import pytest

from cld_core.run import code
from cldctl.clusters import job_logs
from cldctl.clusters.records import SchedulerAway, SchedulerRefused
from cldctl.jobs import hooks
from cldctl.runs import snapshot
from tests.cldctl.runs.test_snapshot import RING, begun, requests, resumed, run, small, stop
from tests.support.scripted import alone

__all__ = ["run", "small"]


def edition(run):
    return (run.path / "code/cld_core/a.py").read_text(), code.read(run.path / "code").code


REFUSED = SchedulerRefused("no")


@pytest.mark.parametrize("error", [REFUSED, SchedulerAway("nobody answers")])
def test_the_code_is_what_it_was(run, small, error):
    before = edition(run)
    (small / "cld_core/a.py").write_text("A = 2\n")
    with pytest.raises(type(error)):
        resumed(stop(run), alone(error=error), update_code=True)
    assert edition(run) == before
    resumed(run)
    assert (requests(run)[-1].code, edition(run)) == (before[1], before)
    resumed(stop(run), update_code=True)
    assert edition(run)[0] == "A = 2\n"
    assert not list(run.path.glob(".code*")), "the code before is removed when the job exists"


def test_a_plugin_that_was_to_be_added_is_not(tmp_path, scripted, small):
    first, file = tmp_path / "first.py", tmp_path / "ring.py"
    for number, each in enumerate((first, file)):
        each.write_text(RING.format(1) + f"# {number}\n")
    run = begun(tmp_path, "data.name=ring", f"plugins={first}")
    with pytest.raises(SchedulerRefused):
        resumed(stop(run), alone(error=REFUSED), overrides=(f"plugins={file}",))
    assert [copy.name for copy in (run.path / "code/plugins").glob("*/*.py")] == ["first.py"]
    resumed(run)
    assert requests(run)[-1].code == requests(run)[0].code


def test_the_hook_is_what_it_was(tmp_path, scripted, small):
    run = begun(tmp_path, "hooks.on_change=mine")
    file = job_logs.folder_for(run.logs) / hooks.SETTINGS
    for override in ("hooks.on_change=theirs", "hooks.on_change=null"):
        with pytest.raises(SchedulerRefused):
            resumed(stop(run), alone(error=REFUSED), overrides=(override,))
        assert json.loads(file.read_text())["on_change"] == "mine"


def test_a_command_that_was_killed_in_between(run, small):
    """The ledger decides: it has not asked for the new code, or it has."""
    before = edition(run)
    aside = run.path / ".code.replaced"
    shutil.copytree(run.path / "code", aside)
    (run.path / "code/cld_core/a.py").write_text("A = 2\n")
    (run.path / "code" / code.MANIFEST).unlink()
    resumed(stop(run))
    assert edition(run) == before
    shutil.copytree(run.path / "code", aside)
    (aside / "cld_core/a.py").write_text("A = 0\n")
    snapshot.settle(run)
    assert edition(run) == before
    assert not aside.exists()
