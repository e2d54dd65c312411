"""The user's own defaults: an option, the environment, the file, in this order."""

import pytest

from cld_core.errors import UsageError
from cld_core.run import RunFolder
from cldctl import clusters, config
from cldctl.runs.selection import command
from tests.support.made_up import run_with
from tests.support.tools import ONE, invoke


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write the file of defaults."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("CLDCTL_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)

    def write(text):
        file = tmp_path / "config" / "cldctl" / "config.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    return write


def test_the_order(write, tmp_path, monkeypatch):
    write(f"cluster: debug\nruns_dir: {tmp_path / 'ours'}\nprofile: example\n")
    assert (config.runs_dir(), clusters.default().name) == (tmp_path / "ours", "debug")
    monkeypatch.setenv("CLDCTL_RUNS", str(tmp_path / "mine"))
    monkeypatch.setenv("CLDCTL_CLUSTER", "local")
    monkeypatch.setenv("CLDCTL_PROFILE", "other")
    assert config.runs_dir() == tmp_path / "mine"
    assert clusters.default().name == "local"
    assert clusters.default_profile(clusters.default()) == "other"
    assert clusters.chosen("debug").name == "debug"


def test_a_submission_and_what_is_typed_next_follow_the_file(write, tmp_path, monkeypatch):
    (tmp_path / "config/cldctl/profiles").mkdir(parents=True)
    (tmp_path / "config/cldctl/profiles/site.yaml").write_text("cluster: {setup: ['true']}\n")
    write("cluster: local\nruns_dir: ~/ours\nprofile: site\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    done = invoke("submit toy --dry-run --name mine", *ONE)
    assert f"# run: {tmp_path}/ours/mine" in done.stdout
    assert "setup:\n  - 'true'" in done.stdout
    done = invoke("submit toy --dry-run --cluster debug", *ONE)
    assert "setup: []" in done.stdout, "the profile is for another cluster"
    run_with(tmp_path / "ours" / "mine", 10)
    assert "mine" in invoke("status --all").stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("clusterz: local", ["unknown key 'clusterz'", "Did you mean 'cluster'?"]),
        ("runs_dir: here", ["not absolute"]),
        ("cluster: !!python/object:os.system x", ["tag"]),
        ("cluster: slrm", ["--cluster cannot be 'slrm'", "config.yaml"]),
    ],
)
def test_what_is_wrong_in_it_is_wrong_usage(write, text, words):
    file = write(text)
    done = invoke("submit toy --dry-run", code=2)
    assert done.stderr.count("\n") == 1
    assert [word for word in (str(file), *words) if word not in " ".join(done.stderr.split())] == []


def test_a_file_that_others_can_write_is_refused(write):
    file = write("cluster: local\n")
    file.chmod(0o666)
    with pytest.raises(UsageError, match=r"others may write into it.*Make it yours alone"):
        config.read()


def test_commands_to_paste_find_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLDCTL_RUNS", raising=False)
    run = RunFolder(tmp_path / "my runs" / "a")
    assert command("status a", RunFolder("runs/a")) == "cldctl status a"
    assert command("logs a -f", run) == "cldctl logs a -f --runs-dir 'my runs'"
    monkeypatch.setenv("CLDCTL_RUNS", "my runs")
    assert command("status a", run) == "cldctl status a"
    assert command("status a", RunFolder("/elsewhere/a")) == "cldctl status a --runs-dir /elsewhere"
