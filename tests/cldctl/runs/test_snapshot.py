"""A run keeps the code that it was submitted with, until `resume --update-code`."""

import os
import shutil
import subprocess
import sys

import pytest

from cld_core.errors import CldError, UsageError
from cld_core.run import code
from cld_core.run import recipe as frozen
from cld_core.run.events import Ended, Remarked, Requested
from cldctl.clusters.base import SchedulerAway, SchedulerRefused
from cldctl.runs import checkout, snapshot
from cldctl.runs.options import SubmitOptions
from cldctl.runs.resume import Continuation, resume
from cldctl.runs.submit import submit
from tests.support.scripted import Scripted, alone, trained
from tests.support.tools import invoke

RING = """\
import torch
from cld_core.data.toy import toy


@toy("ring")
def ring(n, generator):
    return torch.full((n, 2), {}.0)
"""


@pytest.fixture
def run(tmp_path, scripted, small):
    return begun(tmp_path)


def begun(tmp_path, *overrides, cluster=None, **wanted):
    given = ("train.steps=20", *overrides)
    options = SubmitOptions(recipe="toy", root=tmp_path / "runs", name="mine", given=given, **wanted)
    return submit(options, cluster or Scripted()).runs[0]


def stop(run):
    trained(run, "100", "gone")
    run.ledger.append(Ended(attempt=0, cause="preempted", step=0))
    return run


def resumed(run, cluster=None, **asked):
    told = []
    resume(run, Continuation(**asked), cluster or Scripted(), lambda *begun: told.extend(begun[-1]))
    return told


def requests(run):
    return [event for event in run.ledger.events() if isinstance(event, Requested)]


def test_a_continuation_runs_the_same_code_until_it_is_updated(run, small):
    (small / "cld_core/a.py").write_text("A = 2\n")
    resumed(stop(run))
    first, second = requests(run)
    assert first.code == second.code
    assert (run.path / "code/cld_core/a.py").read_text() == "A = 1\n"
    old = code.read(run.path / "code").digest
    resumed(stop(run), update_code=True)
    assert requests(run)[-1].code not in (None, first.code)
    assert (run.path / "code/cld_core/a.py").read_text() == "A = 2\n"
    assert (run.path / "code" / code.EARLIER / old[:16] / code.MANIFEST).exists()


@pytest.mark.parametrize(("file", "text"), [("cld_core/a.py", "A = 3\n"), ("torch.py", ""), (code.MANIFEST, "{")])
def test_damaged_code_is_refused_with_the_fix(run, file, text):
    (run.path / "code" / file).write_text(text)
    with pytest.raises(CldError, match=r"not what was stored with it.*resume mine --update-code"):
        resumed(stop(run))
    assert len(requests(run)) == 1
    resumed(run, update_code=True)
    assert code.problem_of(run.path / "code", code.read(run.path / "code")) is None


def test_live_code(tmp_path, scripted, small):
    run = begun(tmp_path, live_code=True)
    assert requests(run)[0].code == "live"
    assert code.path_of(run.path) is None
    resumed(stop(run))
    assert requests(run)[-1].code == "live"
    resumed(stop(run), update_code=True)
    assert code.path_of(run.path) == run.path / "code"


def test_a_plugin_file_is_copied_and_the_recipe_names_the_copy(tmp_path, scripted, small):
    file = tmp_path / "ring.py"
    file.write_text(RING.format(1))
    run = begun(tmp_path, "data.name=ring", f"plugins={file}")
    copy = run.recipe().plugins[0]
    assert copy.startswith(str(run.path / "code/plugins"))
    file.write_text(RING.format(2))
    resumed(stop(run))
    first, second = requests(run)
    assert first.code == second.code
    assert run.recipe().plugins[0] == copy
    resumed(stop(run), update_code=True)
    resumed(stop(run))  # What is kept is no code that was added.
    assert "(n, 2), 2.0" in (run.path / "code" / run.recipe().plugins[0]).read_text()
    assert requests(run)[-1].code != first.code


def test_a_recipe_that_was_edited_by_hand(run):
    text = run.recipe_file.read_text()
    run.recipe_file.write_text(text + "# a comment changes nothing\n")
    assert frozen.edited(run) == {}
    run.recipe_file.write_text(text.replace("lr: 0.001", "lr: 0.5"))
    said = "optim.lr 0.5 instead of 0.001"
    assert frozen.edited(run) == {"optim.lr": said}
    for command in ("status", "why"):
        told = invoke(command, run.name, "--json", runs=run.path.parent).stdout
        assert f"recipe.yaml was edited by hand: {said}" in told, "before the next start"
    (warning,) = resumed(stop(run))
    assert "recipe.yaml was edited by hand since the run was made: optim.lr 0.5 instead of 0.001" in warning
    events = [event for event in run.ledger.events() if isinstance(event, Remarked)]
    assert [event.what for event in events] == [said]
    run.recipe_file.write_text(text)
    assert frozen.note(run) is None
    assert run.ledger.history().edited == ""


def test_the_copy_is_what_python_imports(tmp_path, scripted):
    """Before the checkout, be it on PYTHONPATH or installed to be edited, and with -P."""
    run = begun(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(run.path / "code")}
    told = "import cldctl, cld_core.run.code as c, pathlib; print(cldctl.__file__, c.running(pathlib.Path('x')))"
    command = [sys.executable, "-P", "-c", told]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(run.path / "code/cldctl/__init__.py"), requests(run)[0].code]


def test_code_of_somebody_else_is_not_run_unasked(tmp_path, run, small, monkeypatch):
    """A colleague gets a copy of their own: of the same code, or of what they trust."""
    own = run.path / "code-ann"
    monkeypatch.setattr(code, "own_folder", lambda path: own)

    def continued(**wish):
        return snapshot.for_continuation(run, run.recipe(), Scripted(), set(), **wish)

    same = continued()
    assert code.problem_of(own, same) is None
    assert same.code == requests(run)[0].code
    (small / "cld_core/a.py").write_text("A = 2\n")
    own.rename(tmp_path / "before")
    with pytest.raises(CldError, match=r"not the code of your checkout.*--allow-plugin.*--update-code"):
        continued()
    assert continued(trusted=True).code == same.code
    assert continued(update=True).code != same.code
    assert (run.path / "code/cld_core/a.py").read_text() == "A = 1\n"


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


def git(root, *words):
    who = ("-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "init.defaultBranch=main")
    return subprocess.run(["git", "-C", root, *who, *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path):
    root = tmp_path / "repository"
    write(root, {"cld_core/__init__.py": "", "cld_core/a.py": "A = 1\n", "tests/test_a.py": "", "run.sh": "ls\n"})
    write(root, {".gitignore": "ignored*\n", ".env": "PASSWORD=x\n", "weights.pt": "data", "gone.py": ""})
    (root / "run.sh").chmod(0o755)
    git(root, "init")
    git(root, "add", "-A")
    git(root, "commit", "-m", "first")
    return root


def write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def copied(root, tmp_path, runs=None):
    target = tmp_path / "code"
    target.mkdir()
    return target, checkout.copy(target, runs or tmp_path / "runs", root)


def test_tracked_files_as_they_are_now_and_new_ones_and_their_difference_without_secrets(repository, tmp_path):
    write(repository, {"cld_core/a.py": "A = 2\n", "ignored.py": "", "Größe.py": "g = 1\n"})
    write(repository, {".env": "PASSWORD=secret\n", "tests/test_a.py": "T = 1\n"})
    (repository / "gone.py").unlink()
    target, (files, left_out) = copied(repository, tmp_path)
    assert set(files) == {".gitignore", "cld_core/__init__.py", "cld_core/a.py", "run.sh", "Größe.py"}
    assert (target / "cld_core/a.py").read_text() == "A = 2\n"
    assert os.access(target / "run.sh", os.X_OK)
    assert not os.access(target / "cld_core/a.py", os.X_OK)
    assert set(left_out) == {".env", "weights.pt", "gone.py", "tests/"}
    patch = checkout.patch(left_out, repository)
    assert ("+A = 2" in patch, "+T = 1" in patch, "secret" in patch) == (True, True, False)
    git(repository, "checkout", ".")
    assert checkout.patch(left_out, repository) == ""
    checkout.write(target / "run.sh", b"l")
    assert (target / "run.sh").read_bytes() == b"l", "replaced as a whole"


def test_what_is_no_file_of_the_checkout(repository, tmp_path):
    """Links, runs in the checkout that git does not ignore, private keys under any name, large files."""
    (tmp_path / "elsewhere.py").write_text("")
    (repository / "link.py").symlink_to(tmp_path / "elsewhere.py")
    key = "-----BEGIN OPENSSH " + "PRIVATE KEY-----\n"
    write(repository, {"mine/run.json": "{}", "mine/code/cld_core/a.py": "", "runs/b/x.py": "", "deploy.txt": key})
    (repository / "large.csv").write_bytes(bytes(checkout.MAX_FILE_BYTES + 1))
    _, (files, left_out) = copied(repository, tmp_path, runs=repository / "runs")
    assert not {"link.py", "deploy.txt", "large.csv", "mine/run.json"} & set(files)
    assert not any(name.startswith(("mine/", "runs/")) for name in files)
    assert left_out["deploy.txt"] == "it holds a private key"
    assert left_out["large.csv"] == "larger than 1 MiB"
    assert "link" in left_out["link.py"]
    assert left_out["mine/"] == left_out["runs/"] == "it belongs to a run"


def test_more_than_fits_is_refused(repository, tmp_path, monkeypatch):
    monkeypatch.setattr(checkout, "MAX_FILES", 20)
    write(repository, {f"images/{number}.txt": "x" * 100 for number in range(40)})
    with pytest.raises(UsageError, match=r"20 files.*most is in images.*\.gitignore.*--live-code"):
        copied(repository, tmp_path)


LEFT_OUT = (
    "a/.env.local server.pem id_rsa .netrc hf_token.txt .aws/config "
    "credentials.json x/secrets.yaml a.npz b.PNG c.tar.gz"
)
TAKEN = "tokenizer.py environment.yml recipes/a.yaml src/a.cu LICENSE"


@pytest.mark.parametrize("name", f"{LEFT_OUT} {TAKEN}".split())
def test_names(name):
    assert (checkout.why_left_out(name) is None) == (name in TAKEN.split())
