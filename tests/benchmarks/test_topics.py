"""The benchmarks run, print what they find and write it down. How long anything takes is no business of a test."""

import json
import subprocess
import sys

import pytest

from benchmarks.__main__ import main

TOPICS = ("limits", "toy_step", "ema", "sampling", "likelihood", "checkpoint", "ncsnpp_step", "fid", "gpu")


def test_the_topics_run_and_write_what_they_find(tmp_path):
    file = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks", *TOPICS, "--quick", "--threads", "1", "--json", str(file)]
    done = subprocess.run([*command, "--device", "cpu"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert list(found["topics"]) == list(TOPICS)
    assert found["machine"]["cores"] >= 1
    for name in ("toy_step", "ema", "sampling", "likelihood", "checkpoint", "ncsnpp_step"):
        rows = found["topics"][name]["rows"]
        assert all(row["seconds"] > 0 for row in rows), name
        assert any(row["ratio"] is not None for row in rows), name


def test_an_unknown_topic_is_named_with_those_that_there_are(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "toystep"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "there is no topic 'toystep'; there are limits, cli, data, toy_step" in capsys.readouterr().err
