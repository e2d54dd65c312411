"""The code of a run comes first on the path of its jobs, and only once."""

import os
import subprocess
from pathlib import Path

import pytest

from cld_core.config.cluster import ClusterSpec
from cldctl.clusters import job_logs, local_processes
from cldctl.clusters.base import JobSpec, SchedulerRefused
from cldctl.clusters.slurm import script
from tests.support.other_users import give_away


@pytest.fixture
def code(tmp_path):
    folder = tmp_path / "my run/code"
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("before", "after"), [("", ""), ("/a:/b", ":/a:/b"), ("/a::/b", ":/a:/b"), ("{code}:/a", ":/a")]
)
def test_it_comes_first_and_once(monkeypatch, code, before, after):
    monkeypatch.setenv("PYTHONPATH", before.format(code=code))
    assert local_processes.path_from(code) == {"PYTHONPATH": f"{code}{after}"}


def batch(code, before=None):
    """What the lines of a batch script say, and what they leave in the variable."""
    setup = script.parameters(
        JobSpec(name="mine", logs=code.parent, size=ClusterSpec(setup=("true",)), code=code)
    )
    lines = setup["setup"]
    first = lines.index("cldctl_import() {")
    last = lines.index("cldctl_import || exit 1")
    assert lines.index("true") < last, "behind the lines of the recipe, which may set the variable"
    start = (
        "unset PYTHONPATH" if before is None else f"export PYTHONPATH={before.format(code=code)}"
    )
    function = lines[first : lines.index("}", first) + 1]
    text = "\n".join([start, *lines[:3], *function, lines[last], 'echo "$PYTHONPATH"'])
    environment = {**os.environ, "SLURM_JOB_NAME": "mine"}
    return subprocess.run(["bash", "-c", text], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(("before", "after"), [(None, ""), ("/a", ":/a"), ("'{code}':/a", ":/a")])
def test_the_lines_of_a_batch_script(code, before, after):
    done = batch(code, before)
    assert (done.stdout, done.stderr) == (f"{code}{after}\n", "")


@pytest.mark.parametrize("how", ["missing", "link", "group", "theirs"])
def test_what_somebody_else_may_have_put_there_is_not_imported(code, how):
    if how == "group":
        code.chmod(0o775)
    elif how == "theirs":
        if os.geteuid() != 0:
            pytest.skip("only root can give files away")
        give_away(code)
    else:
        mine = code.rename(code.with_name("elsewhere"))
        if how == "link":
            code.symlink_to(mine)
    done = batch(code)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{code}: it is missing, or not only yours to write" in done.stderr
    assert "cldctl resume mine --update-code" in done.stderr
    with pytest.raises(SchedulerRefused, match="my run/code: "), job_logs.refusals(Path("/logs")):
        local_processes.path_from(code)
