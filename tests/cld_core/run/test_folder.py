"""The run folder: what it holds, its name and identity, the version of its format, and the manifest of its code."""

import json
from pathlib import Path

import pytest

from cld_core.config import load
from cld_core.digests import digest
from cld_core.errors import NotFoundError, UsageError
from cld_core.files import write_json
from cld_core.run import RunFolder, code, events, find_runs
from cld_core.run import identity as identities
from cld_core.run.folder import FORMAT, FormatError, named
from cld_core.run.identity import identity, new_name
from cld_core.train import session
from tests.support.made_up import run_with
from tests.support.paths import TOY


@pytest.fixture
def run(tmp_path):
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
    (tmp_path / "not_a_run").mkdir()
    assert [found.name for found in find_runs(tmp_path)] == ["mine", "a_later_one"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"format": FORMAT - 1, "created": 0.5}, "made by another version"),
        ({"format": FORMAT + 1, "created": 0.5}, "made by another version"),
        ({"created": "yesterday"}, "run.json is damaged"),
        (["not", "an", "object"], "run.json is damaged"),
    ],
)
def test_a_folder_of_another_version_says_so_in_one_line_and_breaks_no_other_run(tmp_path, run, content, words):
    other = tmp_path / "another"
    other.mkdir()
    write_json(other / "run.json", content)
    with pytest.raises(FormatError) as caught:
        RunFolder.open(other)
    assert str(caught.value).startswith(f"{other}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    runs = {found.name: found.format_problem() for found in find_runs(tmp_path)}
    assert runs == {"another": str(caught.value), "mine": None}


def test_overrides_of_continuations_add_up(run):
    run.ledger.append(events.Requested(steps=5, overrides=("train.steps=5", "optim.lr=0.1")))
    run.ledger.append(events.Requested(steps=9, overrides=("train.steps=9",)))
    recipe = run.recipe()
    assert (recipe.train.steps, recipe.optim.lr) == (9, 0.1)


def test_a_command_that_is_killed_while_it_makes_a_run_has_not_taken_the_name(tmp_path, monkeypatch):
    """As after SIGKILL, no clean-up follows."""

    def killed(*arguments):
        raise SystemExit

    recipe = load(TOY)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *arguments, **settings: None)
        patch.setattr("pathlib.Path.rename", killed)
        with pytest.raises(SystemExit):
            RunFolder.create(tmp_path / "mine", recipe, {"created": 1.0})
    assert list(tmp_path.iterdir()), "the draft was left behind"
    assert not find_runs(tmp_path)
    RunFolder.create(tmp_path / "mine", recipe, {"created": 1.0})
    assert [run.name for run in find_runs(tmp_path)] == ["mine"]


def test_of_two_commands_that_make_a_run_of_a_name_one_does(tmp_path, monkeypatch):
    recipe = load(TOY)
    rename, others = Path.rename, []

    def late(self, target):
        if not others:
            others.append(self)
            RunFolder.create(tmp_path / "mine", recipe, {"created": 1.0})
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    with pytest.raises(UsageError, match="a run of this name exists"):
        RunFolder.create(tmp_path / "mine", recipe, {"created": 2.0})
    assert RunFolder.open(tmp_path / "mine").identity()["created"] == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory, and a folder of runs elsewhere."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("CLDCTL_RUNS", str(tmp_path / "elsewhere"))
    return tmp_path


def test_a_path_comes_before_names(here):
    for place in ("here", "elsewhere", "here/runs"):
        run_with(here / place / "a")
    assert named("a").path == here / "here/a"
    assert named(here / "elsewhere/a").path == here / "elsewhere/a"


def test_a_name_is_looked_for_in_the_folder_of_the_environment_or_else_in_runs(here, monkeypatch):
    run_with(here / "here/runs/a")
    with pytest.raises(NotFoundError):
        named("a")
    run_with(here / "elsewhere/a")
    (here / "here/a").mkdir()  # it is not a run
    assert named("a").path == here / "elsewhere/a"
    monkeypatch.delenv("CLDCTL_RUNS")
    assert named("a").path == here / "here/runs/a"


def test_who_is_not_found_is_told_where_it_was_looked_for(here):
    run_with(here / "elsewhere/toy-1")
    with pytest.raises(NotFoundError) as caught:
        named("toy-2")
    places = f"{here}/here/toy-2 or {here}/elsewhere/toy-2"
    assert str(caught.value) == f"no run at {places}. Did you mean 'toy-1'?"
    with pytest.raises(NotFoundError, match=f"^no run at {here}/none. `cldctl status`"):
        named(here / "none")


def test_code_outside_a_checkout_has_no_commit(tmp_path):
    assert identities._git(tmp_path) is None


def test_a_user_without_a_name(monkeypatch):
    def nameless():
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", nameless)
    monkeypatch.setattr("os.getuid", lambda: 4711)
    assert identity("toy", None)["user"] == "4711"


def test_runs_of_the_same_second_have_different_names(monkeypatch):
    suffixes = iter(("00ff", "a1b2"))
    monkeypatch.setattr("secrets.token_hex", lambda size: next(suffixes) if size == 2 else "")
    monkeypatch.setattr("time.strftime", lambda form: {"%m%d-%H%M%S": "0103-040506"}[form])
    assert [new_name("toy") for _ in range(2)] == ["toy-0103-040506-00ff", "toy-0103-040506-a1b2"]


FILES = {"cld_core/a.py": "a" * 64}


def manifest(tmp_path, **changes):
    content = {"kind": "copy", "files": FILES, "digest": digest(FILES), "plugins": [], **changes}
    (tmp_path / code.MANIFEST).write_text(json.dumps(content))
    return code.read(tmp_path)


def test_a_manifest(tmp_path):
    it = manifest(tmp_path, commit="abc", dirty=True)
    assert (it.kind, it.files, it.code, it.commit, it.dirty) == ("copy", FILES, digest(FILES), "abc", True)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "other"},
        {"digest": "b" * 64},
        {"files": {"../a.py": "a" * 64}, "digest": digest({"../a.py": "a" * 64})},
        {"files": {"/a.py": "a" * 64}, "digest": digest({"/a.py": "a" * 64})},
        {"files": []},
    ],
)
def test_a_damaged_manifest_is_none(tmp_path, changes):
    assert manifest(tmp_path, **changes) is None


def test_plugins_outside_of_the_folder_are_damage(tmp_path):
    inside = {"path": "/x/ring.py", "file": "plugins/1/ring.py", "sha256": "c" * 64}
    it = manifest(tmp_path, plugins=[inside])
    assert it.code not in (digest(FILES), manifest(tmp_path).code), "a plug-in is part of the code"
    for other in ({**inside, "file": "../ring.py"}, {"path": 3}, "x"):
        assert manifest(tmp_path, plugins=[inside, other]) is None


def test_a_checkout_says_that_it_is_live_and_what_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(code, "installed", lambda: None)
    kind, told = code.running(tmp_path).split()
    assert (kind, len(told)) == ("live", 64)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\nGCC", "535.104.05"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54  Release Build  (dvs)\n", "550.54"),
        ("something else\n", None),
    ],
)
def test_the_version_of_a_driver(tmp_path, text, version):
    import torch

    file = tmp_path / "version"
    file.write_text(text)
    assert session.driver(torch.device("cuda"), file) == version
    assert session.driver(torch.device("cuda"), tmp_path / "missing") is None
    assert session.driver(torch.device("cpu"), file) is None
