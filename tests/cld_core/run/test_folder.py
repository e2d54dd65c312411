"""The run folder: its name, the version of its format, and where it is looked for."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from cld_core.errors import NotFoundError, UsageError
from cld_core.files import write_json
from cld_core.run import RunFolder, find_runs
from cld_core.run import identity as identities
from cld_core.run.folder import FORMAT, FormatError, named
from cld_core.run.identity import identity
from tests.support.made_up import run_with
from tests.support.recipes import toy_recipe


def test_names_that_are_taken_or_cannot_be(tmp_path, run):
    with pytest.raises(UsageError, match=r"cldctl resume .*/mine`"):
        run_with(run.path)
    for name in ("-x", ".hidden", "a b", "x" * 101):
        with pytest.raises(UsageError, match="cannot name a run"):
            run_with(tmp_path / name)
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"format": FORMAT - 1, "created": 0.5}, "made by another version"),
        ({"created": "yesterday"}, "run.json is damaged"),
    ],
)
def test_a_folder_of_another_version_is_refused_in_one_line_and_breaks_no_other_run(
    tmp_path, run, content, words
):
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


def test_a_command_that_is_killed_while_it_makes_a_run_has_not_taken_the_name(
    tmp_path, monkeypatch
):
    """As after SIGKILL, without a clean-up."""
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *arguments, **settings: None)
        patch.setattr("pathlib.Path.rename", Mock(side_effect=SystemExit))
        with pytest.raises(SystemExit):
            run_with(tmp_path / "mine")
    assert list(tmp_path.iterdir()), "the draft was left behind"
    assert not find_runs(tmp_path)
    run_with(tmp_path / "mine")
    assert [run.name for run in find_runs(tmp_path)] == ["mine"]


def test_one_of_two_commands_makes_the_run_of_a_name(tmp_path, monkeypatch):
    rename = Path.rename

    def late(self, target):
        monkeypatch.undo()
        run_with(tmp_path / "mine")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    with pytest.raises(UsageError, match="a run of this name exists"):
        RunFolder.create(tmp_path / "mine", toy_recipe(), {"created": 2.0})
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


def test_a_run_that_is_not_found_and_the_places_where_it_was_looked_for(here):
    run_with(here / "elsewhere/toy-1")
    with pytest.raises(NotFoundError) as caught:
        named("toy-2")
    places = f"{here}/here/toy-2 or {here}/elsewhere/toy-2"
    assert str(caught.value) == f"no run at {places}. Did you mean 'toy-1'?"
    with pytest.raises(NotFoundError, match=f"^no run at {here}/none. `cldctl status`"):
        named(here / "none")


def test_code_outside_a_checkout_has_no_commit(tmp_path):
    assert identities.commit_of(tmp_path) is None


def test_a_user_without_a_name(monkeypatch):
    unknown = KeyError("getpwuid(): uid not found: 4711")
    monkeypatch.setattr("getpass.getuser", Mock(side_effect=unknown))
    monkeypatch.setattr("os.getuid", lambda: 4711)
    assert identity("toy", None)["user"] == "4711"
