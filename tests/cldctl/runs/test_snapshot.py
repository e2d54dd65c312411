"""A run keeps the code that it was submitted with, until `resume --update-code`."""

import errno
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from cld_core.digests import checksum
from cld_core.errors import CldError, UsageError
from cld_core.run import RunFolder, code
from cld_core.run import recipe as frozen
from cld_core.run.events import Requested
from cldctl.clusters.base import SchedulerRefused
from cldctl.runs import snapshot
from cldctl.runs.options import SubmitOptions
from cldctl.runs.resume import Continuation
from tests.support.made_up import ended, note, requested
from tests.support.plugin import toy_plugin
from tests.support.scripted import Scripted, alone, trained
from tests.support.scripted import resumed as resume
from tests.support.scripted import submitted as scripted_submit
from tests.support.tools import invoke


@pytest.fixture
def run(tmp_path, scripted, small):
    return begun(tmp_path)


def begun(tmp_path, *overrides, cluster=None, **wanted):
    given = ("train.steps=20", *overrides)
    options = SubmitOptions(
        recipe="toy", root=tmp_path / "runs", name="mine", given=given, **wanted
    )
    return scripted_submit(options, cluster or Scripted()).works[0].run


def stop(run):
    trained(run, "100", "gone")
    note(run, ended("preempted", 0))
    return run


def resumed(run, cluster=None, **asked):
    told = []
    about = lambda *begun: told.extend(begun[-1])  # noqa: E731
    resume(run, cluster or Scripted(), Continuation(**asked), about)
    return told


def requests(run):
    return [event for event in run.ledger.events() if isinstance(event, Requested)]


def folder(run):
    """Where the code of the run is now."""
    return code.folder_of(run.path)


def test_a_continuation_runs_the_same_code_until_it_is_updated(run, small):
    before = folder(run)
    (small / "cld_core/a.py").write_text("A = 2\n")
    resumed(stop(run))
    first, second = requests(run)
    assert first.code == second.code == code.name_of(before)
    assert (folder(run), (before / "cld_core/a.py").read_text()) == (before, "A = 1\n")
    resumed(stop(run), update_code=True)
    assert requests(run)[-1].code == code.name_of(folder(run)) != first.code
    assert ((folder(run) / "cld_core/a.py").read_text(), folder(run).parent) == (
        "A = 2\n",
        run.path / "code",
    )
    assert code.problem_of(before, code.read(before)) is None, "what earlier attempts ran stays"


def test_equal_files_are_stored_once_and_only_if_nobody_else_can_write_them(run, small):
    first = folder(run)
    (first / "cld_core/__init__.py").chmod(0o664)
    (small / "cld_core/b.py").write_text("")
    resumed(stop(run), update_code=True)
    links = {file.name: file.stat().st_nlink for file in (folder(run) / "cld_core").glob("*.py")}
    assert links == {"__init__.py": 1, "a.py": 2, "b.py": 1}


def test_a_file_that_changes_in_the_middle_is_not_stored(run, small, monkeypatch):
    wanted = snapshot.of_checkout(run.path.parent, Scripted())
    (small / "cld_core/a.py").write_text("A = 2\n")
    with pytest.raises(CldError, match=r"a\.py: it has changed"):
        snapshot.store(run.path / "elsewhere", wanted)
    assert list((run.path / "elsewhere/code").iterdir()) == []


def test_a_file_system_without_hard_links(run, small, monkeypatch):
    monkeypatch.setattr(os, "link", Mock(side_effect=OSError(errno.EPERM, "not permitted")))
    (small / "cld_core/a.py").write_text("A = 2\n")
    resumed(stop(run), update_code=True)
    assert code.problem_of(folder(run), code.read(folder(run))) is None


def test_code_that_others_can_write_is_refused(run):
    folder(run).chmod(0o775)
    with pytest.raises(CldError, match="others may write into it"):
        resumed(stop(run))


def test_damaged_code_is_refused_with_the_fix(run):
    (folder(run) / "cld_core/a.py").write_text("A = 3\n")
    with pytest.raises(
        code.DamagedCode, match=r"not what was stored with it.*resume mine --update-code"
    ):
        resumed(stop(run))
    assert len(requests(run)) == 1
    resumed(run, update_code=True)
    assert code.problem_of(folder(run), code.read(folder(run))) is None
    assert requests(run)[-1].code == requests(run)[0].code


def test_live_code(tmp_path, scripted, small):
    run = begun(tmp_path, live_code=True)
    assert requests(run)[0].code == "live"
    assert code.importable(folder(run)) is None
    resumed(stop(run))
    assert requests(run)[-1].code == "live"
    resumed(stop(run), update_code=True)
    assert code.importable(folder(run)) == folder(run)


def test_a_cluster_that_blocks_runs_this_process_and_the_run_keeps_its_code(run, small):
    (small / "cld_core/a.py").write_text("A = 2\n")
    before, blocking = folder(run), alone(blocks=True, name="debug")
    snapshot.for_continuation(run, run.recipe(), blocking)
    note(run, replace(requests(run)[0], live=True))
    assert run.ledger.history().code == "live"
    assert folder(run) == before
    resumed(stop(run))
    assert (run.ledger.history().code, folder(run)) == (code.name_of(before), before)


def test_a_plugin_file_is_copied_and_the_recipe_names_the_copy(tmp_path, scripted, small):
    file = toy_plugin(tmp_path / "ring.py", "ring", first="A = 1")
    run = begun(tmp_path, "data.name=ring", f"plugins={file}")
    copy = run.recipe().plugins[0]
    assert copy.startswith(str(folder(run) / "plugins"))
    toy_plugin(file, "ring", first="A = 2")
    resumed(stop(run))
    first, second = requests(run)
    assert first.code == second.code
    assert run.recipe().plugins[0] == copy
    resumed(stop(run), update_code=True)
    resumed(stop(run))
    assert "A = 2" in Path(run.recipe().plugins[0]).read_text()
    assert requests(run)[-1].code != first.code
    assert "A = 1" in Path(copy).read_text(), "an evaluation may name it"


def test_a_recipe_that_was_edited_by_hand(run):
    text = run.recipe_file.read_text()
    run.recipe_file.write_text(
        text.replace("lr: 0.001", "lr: 0.5") + "# a comment changes nothing\n"
    )
    said = "optim.lr 0.5 instead of 0.001"
    for command in ("status", "why"):
        told = invoke(f"{command} {run.name} --json", runs=run.path.parent).stdout
        assert f"recipe.yaml was edited by hand: {said}" in told, "before the next start"
    (warning,) = resumed(stop(run))
    assert f"recipe.yaml was edited by hand since the run was made: {said}" in warning
    assert run.ledger.history().edited == said
    run.recipe_file.write_text(text)
    assert frozen.note(run) is None
    assert run.ledger.history().edited == ""


def test_the_copy_is_what_python_imports(tmp_path, scripted):
    """Before the checkout, be it on PYTHONPATH or installed to be edited, and with -P."""
    run = begun(tmp_path)
    told = (
        "import cldctl, cld_core.run.code as c, pathlib; print(cldctl.__file__, "
        "c.running(pathlib.Path('x')))"
    )
    environment = {**os.environ, "PYTHONPATH": str(folder(run))}
    said = subprocess.check_output([sys.executable, "-P", "-c", told], env=environment, text=True)
    assert said.split() == [str(folder(run) / "cldctl/__init__.py"), requests(run)[0].code]


def test_a_digest_of_a_ledger_is_no_path(run):
    note(run, requested(20, code="../../elsewhere"))
    assert folder(run) is None


def test_a_submission_that_is_refused_or_never_made_leaves_the_code_of_before(run, small):
    before = folder(run)
    (small / "cld_core/a.py").write_text("A = 2\n")
    # As if the command was killed before it asked.
    snapshot.for_continuation(run, run.recipe(), Scripted(), update=True)
    assert folder(run) == before
    with pytest.raises(SchedulerRefused):
        resumed(stop(run), alone(error=SchedulerRefused("no")), update_code=True)
    assert folder(run) == before
    resumed(stop(run))
    assert (requests(run)[-1].code, folder(run)) == (code.name_of(before), before)


def test_a_run_that_was_copied_elsewhere_continues_with_its_code(run, small, tmp_path):
    (small / "cld_core/a.py").write_text("A = 2\n")
    there = RunFolder(shutil.copytree(stop(run).path, tmp_path / "there/mine"))
    resumed(there)
    assert folder(there) == there.path / "code" / folder(run).name
    assert requests(there)[-1].code == requests(run)[0].code


def git(root, *words):
    who = ("-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "init.defaultBranch=main")
    return subprocess.run(
        ["git", "-C", root, *who, *words], check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def repository(tmp_path):
    root = tmp_path / "repository"
    write(
        root,
        {
            "cld_core/__init__.py": "",
            "cld_core/a.py": "A = 1\n",
            "tests/test_a.py": "",
            "run.sh": "ls\n",
        },
    )
    write(root, {".gitignore": "ignored*\n", "numbers.npy": "data", "gone.py": ""})
    (root / "run.sh").chmod(0o755)
    git(root, "init")
    git(root, "add", "-A")
    git(root, "commit", "-m", "first")
    return root


def write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def test_tracked_files_as_they_are_now_and_new_ones_and_their_difference(repository, tmp_path):
    """Everything that git does not ignore, whatever its name."""
    write(repository, {"cld_core/a.py": "A = 2\n", "ignored.py": "", "Größe.py": "g = 1\n"})
    write(repository, {".env": "X=1\n", "numbers.npy": "more", "tests/test_a.py": "T = 1\n"})
    (repository / "gone.py").unlink()
    files, left_out = snapshot.read_checkout(repository, tmp_path / "runs")
    assert set(files) == {
        ".env",
        ".gitignore",
        "cld_core/__init__.py",
        "cld_core/a.py",
        "numbers.npy",
        "run.sh",
        "Größe.py",
    }
    assert files["cld_core/a.py"] == checksum(repository / "cld_core/a.py")
    assert left_out == {"tests/": "no job needs it"}
    patch = snapshot.patch_of(repository)
    assert all(line in patch for line in ("+A = 2", "+T = 1", "+more", "deleted file"))


def test_a_process_that_runs_a_copy_stores_that_with_what_can_be_executed(
    repository, tmp_path, monkeypatch
):
    monkeypatch.setattr(code, "ROOT", repository)
    monkeypatch.setattr(code, "installed", lambda: None)
    place = snapshot.store(tmp_path, snapshot.of_checkout(tmp_path / "runs", Scripted()))
    monkeypatch.setattr(code, "ROOT", place)
    place = snapshot.store(tmp_path / "copy", snapshot.of_checkout(tmp_path / "runs", Scripted()))
    assert [os.access(place / name, os.X_OK) for name in ("run.sh", "cld_core/a.py")] == [
        True,
        False,
    ]
    assert len(code.read(place).commit) == 40


def test_what_is_no_file_of_the_checkout(repository, tmp_path):
    """Links, runs in the checkout that git does not ignore, large files."""
    (tmp_path / "elsewhere.py").write_text("")
    (repository / "link.py").symlink_to(tmp_path / "elsewhere.py")
    write(repository, {"mine/run.json": "{}", "mine/code/cld_core/a.py": "", "runs/b/x.py": ""})
    (repository / "large.csv").write_bytes(bytes(snapshot.MAX_FILE_BYTES + 1))
    files, left_out = snapshot.read_checkout(repository, repository / "runs")
    assert not any(name.startswith(("link", "large", "mine", "runs")) for name in files)
    assert left_out["large.csv"] == "larger than 1 MiB"
    assert left_out["mine/"] == left_out["runs/"] == "it belongs to a run"


def test_more_than_fits_is_refused(repository, tmp_path, monkeypatch):
    monkeypatch.setattr(snapshot, "MAX_FILES", 20)
    write(repository, {f"images/{number}.txt": "x" * 100 for number in range(40)})
    with pytest.raises(UsageError, match=r"20 files.*most is in images.*\.gitignore.*--live-code"):
        snapshot.read_checkout(repository, tmp_path / "runs")
