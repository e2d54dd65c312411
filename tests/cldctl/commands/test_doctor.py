"""`cldctl doctor` without a Slurm."""

import json

from tests.support.tools import cldctl


def test_this_machine(tmp_path):
    done = cldctl("doctor", "--cluster", "local", "--json", runs=tmp_path / "deep" / "runs")
    report = json.loads(done.stdout)
    found = {check["name"]: check for check in report["checks"]}
    assert {"python", "torch", "runs folder"} <= set(found)
    assert found["torch"]["verdict"] == "ok"
    assert "free" in found["runs folder"]["found"]
    assert not list(tmp_path.iterdir()), "it leaves nothing behind"


def test_slurm_that_is_asked_for_and_is_not_there(tmp_path):
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    done = cldctl("doctor", "--cluster", "slurm", runs=tmp_path / "runs", code=4, PATH=str(bin_folder), COLUMNS="100")
    assert "--cluster local" in done.stdout
