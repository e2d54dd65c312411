"""What a type checker tells those who use the library."""

import re
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

SCRIPT = """
import cld_core

model = cld_core.load("toy")
x = model.sample(4, method="em", nfe=20, seed=1, denoise=False)
reveal_type(x)
reveal_type(model.log_likelihood(x, velocities=2, rtol=1e-4))
reveal_type(model.trajectory(2, points=5).t)
reveal_type(model.plot())
reveal_type(cld_core.runs()["toy"].loss)
model.sample("4")
model.sample(4, nfe="20")
model.sample(4, seed=None)
"""


@pytest.mark.by_hand
def test_the_library_is_typed(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    # Its own settings and cache: those of this project are not those of a user.
    command = ["mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path / 'cache'}", str(tmp_path / "script.py")]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, cwd=ROOT)
    assert re.findall('Revealed type is "(.*)"', done.stdout) == [
        "torch._tensor.Tensor",
        "torch._tensor.Tensor",
        "torch._tensor.Tensor",
        "matplotlib.figure.Figure",
        "float | None",
    ], done.stdout
    errors = re.findall(r"(\S+):(\d+): error: (.*?) +\[", done.stdout)
    assert [(file, int(line)) for file, line, _ in errors if file.endswith("script.py")] == [
        (str(tmp_path / "script.py"), line) for line in (11, 12, 13)
    ], done.stdout
