"""The code of a run comes first on the path of its jobs, and only once."""

import subprocess
from pathlib import Path

import pytest

from cld_core.recipe.cluster import ClusterSpec
from cldctl.clusters import this_machine
from cldctl.clusters.base import JobSpec
from cldctl.clusters.slurm import script

CODE = Path("/runs/my run/code")


def test_without_code_nothing_changes(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/a")
    assert this_machine.path_from(None) == {}
    assert this_machine.without(None) == this_machine.safe_path()


@pytest.mark.parametrize(
    ("before", "after"), [("", ""), ("/a:/b", ":/a:/b"), ("/a::/b", ":/a:/b"), (f"{CODE}:/a", ":/a")]
)
def test_it_comes_first_and_once(monkeypatch, before, after):
    monkeypatch.setenv("PYTHONPATH", before)
    assert this_machine.path_from(CODE) == {"PYTHONPATH": f"{CODE}{after}"}


def test_a_job_that_submits_the_next_one_does_not_pass_it_on(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{CODE}:/a")
    assert this_machine.without(CODE)["PYTHONPATH"] == "/a"


@pytest.mark.parametrize(("before", "after"), [(None, ""), ("", ""), ("/a", ":/a")])
def test_the_line_of_a_batch_script(before, after):
    """Behind the lines of the recipe, which may set the variable."""
    spec = JobSpec(name="mine", logs=Path("/logs"), size=ClusterSpec(setup=("true",)), code=CODE)
    setup = script.parameters(spec)["setup"]
    (line,) = (line for line in setup if "PYTHONPATH" in line)
    assert setup.index("true") < setup.index(line)
    start = "unset PYTHONPATH" if before is None else f"export PYTHONPATH={before}"
    done = subprocess.run(["sh", "-c", f'{start}\n{line}\necho "$PYTHONPATH"'], capture_output=True, text=True)
    assert done.stdout == f"{CODE}{after}\n"
