"""The benchmarks run, print their results and write them to a file. Tests never judge how long anything takes."""

import json
import subprocess
import sys

import pytest

from benchmarks.__main__ import main

TOPICS = ("limits", "toy_step", "ema", "sampling", "likelihood", "checkpoint", "ncsnpp_step", "fid", "gpu")


@pytest.mark.by_hand
def test_the_topics_run_and_write_their_results(tmp_path):
    file = tmp_path / "report.json"
    command = [sys.executable, "-m", "benchmarks", *TOPICS, "--quick", "--threads", "1", "--json", str(file)]
    done = subprocess.run([*command, "--device", "cpu"], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    assert list(report["topics"]) == list(TOPICS)
    assert report["machine"]["cores"] >= 1
    for name in ("toy_step", "ema", "sampling", "likelihood", "checkpoint", "ncsnpp_step"):
        rows = report["topics"][name]["rows"]
        assert all(row["seconds"] > 0 for row in rows), name
        assert any(row["ratio"] is not None for row in rows), name


def test_an_unknown_topic_is_refused_with_the_list_of_topics(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "toystep"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "unknown topic 'toystep'; choose from limits, cli, data, toy_step" in capsys.readouterr().err
