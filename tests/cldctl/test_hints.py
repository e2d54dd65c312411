"""What commands print besides their results: commands to paste, skipped files, rows that fit."""

from cld_core.run import RunFolder
from cldctl.cli import setup
from cldctl.hints import command


def test_commands_to_paste_find_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLDCTL_RUNS", raising=False)
    run = RunFolder(tmp_path / "my runs" / "a")
    assert command("status a", RunFolder("runs/a")) == "cldctl status a"
    assert command("logs a -f", run) == "cldctl logs a -f --runs-dir 'my runs'"
    monkeypatch.setenv("CLDCTL_RUNS", "my runs")
    assert command("status a", run) == "cldctl status a"
    assert command("status a", RunFolder("/elsewhere/a")) == "cldctl status a --runs-dir /elsewhere"


def test_a_broken_recipe_does_not_hide_the_others(tmp_path, monkeypatch, capsys):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "broken.yaml").write_text("train: {stepz: 3}\n")
    (tmp_path / "recipes" / "zebra.yaml").write_text("train: {steps: 3}\n")
    monkeypatch.chdir(tmp_path)
    setup.recipes()
    said = capsys.readouterr()
    assert {"toy", "zebra"} <= {line.split()[0] for line in said.out.splitlines() if line.strip()}
    assert "broken.yaml, line 1: unknown key 'train.stepz'" in said.err
