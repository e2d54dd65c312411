"""docs/images/report.png: the first screen of the report of a real run. `python -m benchmarks.screenshot_report`.

A toy trains for about a minute, is interrupted once, continues, and is evaluated at several steps and settings.
Needs Debian's chromium and the packages of the development environment.
"""

import argparse
import functools
import tempfile
from pathlib import Path

from cld_core.run import RunFolder
from tests.support.browser import chromium, opened
from tests.support.tools import cldctl, wait_for

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
        cldctl("report", _NAME, runs=root)
        with chromium() as browser, opened(browser, run.path / "report.html", width=options.width) as shown:
            shown.page.screenshot(path=options.output, full_page=options.whole)
    print(options.output)


def _train(run: RunFolder, steps: int) -> None:
    call = functools.partial(cldctl, runs=run.path.parent, timeout=1800)
    local = ("--cluster", "local")
    call("submit", "toy_diamond", "--name", _NAME, *local, f"train.steps={steps}", *_SETTINGS)
    wait_for(lambda: run.progress().get("step", 0) > 0.4 * steps, timeout=600)
    call("cancel", _NAME)
    wait_for(lambda: (last := run.ledger.history().last) is not None and last.cause is not None, timeout=600)
    call("resume", _NAME, *local, "--follow")
    call("eval", _NAME, "--elbo", "--checkpoint", "all", *local, "--follow")
    sweep = ("--sweep", "eval.elbo.velocities=1,4,16", "--sweep", "eval.elbo.probes=1,4")
    call("eval", _NAME, "--elbo", *sweep, "eval.points=500", *local, "--follow")
    call("sample", _NAME, "-n", "4000")


if __name__ == "__main__":
    main()
