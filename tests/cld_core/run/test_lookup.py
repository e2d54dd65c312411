"""Runs by name or path."""

import pytest

from cld_core.errors import NotFoundError
from cld_core.run import lookup
from cld_core.run.folder import FormatError
from tests.support.made_up import run_with


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
    assert lookup.named("a").path == here / "here/a"
    assert lookup.named(here / "elsewhere/a").path == here / "elsewhere/a"


def test_a_name_is_looked_for_in_the_folder_of_the_environment_or_else_in_runs(here, monkeypatch):
    run_with(here / "here/runs/a")
    with pytest.raises(NotFoundError):
        lookup.named("a")
    run_with(here / "elsewhere/a")
    (here / "here/a").mkdir()  # it is not a run
    assert lookup.named("a").path == here / "elsewhere/a"
    monkeypatch.delenv("CLDCTL_RUNS")
    assert lookup.named("a").path == here / "here/runs/a"


def test_who_is_not_found_is_told_where_it_was_looked_for(here):
    run_with(here / "elsewhere/toy-1")
    with pytest.raises(NotFoundError) as caught:
        lookup.named("toy-2")
    places = f"{here}/here/toy-2 or {here}/elsewhere/toy-2"
    assert str(caught.value) == f"no run at {places}. Did you mean 'toy-1'?"
    with pytest.raises(NotFoundError, match=f"^no run at {here}/none. `cldctl status`"):
        lookup.named(here / "none")


def test_a_run_of_another_format_is_found_and_refused(here):
    run_with(here / "elsewhere/a").identity_file.write_text('{"format": 1}')
    with pytest.raises(FormatError, match="format 1"):
        lookup.named("a")
