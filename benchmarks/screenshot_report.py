"""docs/images/report.png: the first screen of the report of a real run. `python -m benchmarks.screenshot_report`.

A toy trains for about a minute, is interrupted once, continues, and is evaluated at several steps and settings.
Needs Debian's chromium and the packages of the development environment.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cld_core.run import RunFolder
from tests.support.browser import chromium, opened

_PICTURE = Path(__file__).parents[1] / "docs" / "images" / "report.png"
_NAME = "nine-gaussians"
# Learns the nine Gaussians in a minute on one core.
_SETTINGS = (
    *("objective.mixed_score=true", "network.time_input=fourier", "train.batch_size=256"),
    *("train.checkpoint_every=3000", "train.log_every=50", "cluster.tasks_per_node=1"),
)
_WIDTH = 1280


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.screenshot_report", description=__doc__)
    parser.add_argument("--steps", type=int, default=12_000, help="of the training")
    parser.add_argument("--runs-dir", type=Path, help="default: a temporary folder; a run that is there is shown again")
    parser.add_argument("-o", "--output", type=Path, default=_PICTURE, help="default: docs/images/report.png")
    parser.add_argument("--width", type=int, default=_WIDTH, help="of the window, in pixels")
    parser.add_argument("--whole", action="store_true", help="the whole page, not only the first screen")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = options.runs_dir or Path(folder)
        run = RunFolder(root / _NAME)
        if not run.exists:
            _train(run, options.steps)
        _cldctl(root, "report", _NAME)
        with chromium() as browser, opened(browser, run.path / "report.html", width=options.width) as shown:
            shown.page.screenshot(path=options.output, full_page=options.whole)
    print(options.output)


def _train(run: RunFolder, steps: int) -> None:
    root = run.path.parent
    local = ("--cluster", "local")
    _cldctl(root, "submit", "toy_diamond", "--name", _NAME, *local, f"train.steps={steps}", *_SETTINGS)
    _wait(lambda: run.progress().get("step", 0) > 0.4 * steps)
    _cldctl(root, "cancel", _NAME)
    _wait(lambda: (last := run.ledger.history().last) is not None and last.cause is not None)
    _cldctl(root, "resume", _NAME, *local, "--follow")
    _cldctl(root, "eval", _NAME, "--elbo", "--checkpoint", "all", *local, "--follow")
    sweep = ("--sweep", "eval.elbo.velocities=1,4,16", "--sweep", "eval.elbo.probes=1,4")
    _cldctl(root, "eval", _NAME, "--elbo", *sweep, "eval.points=500", *local, "--follow")
    _cldctl(root, "sample", _NAME, "-n", "4000")


def _cldctl(root: Path, *words: str) -> None:
    command = [sys.executable, "-m", "cldctl", *words]
    # Commands that the page suggests need no folder then, as in a working directory with runs in it.
    subprocess.run(command, check=True, env={**os.environ, "CLDCTL_RUNS": str(root), "OMP_NUM_THREADS": "1"})


def _wait(condition, within_s: float = 600.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {within_s:.0f} s in vain")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
