"""`python -m benchmarks.screenshot_top RUNS RUN`: docs/images/top.svg, `cldctl top` on real runs, with one selected.

The picture in the documentation: a group of two runs, a run that is finished and evaluated, and one that trains, was
cancelled and resumed. It is taken while they run, so that they are made by hand:

    export CLDCTL_RUNS=/tmp/runs
    cldctl submit toy_diamond train.steps=400 --name diamond --cluster local --follow
    cldctl eval diamond --elbo --cluster local --follow
    cldctl submit toy_demo train.steps=100000 --sweep optim.lr=1e-3,3e-3 --name lr --cluster local
    cldctl submit toy train.steps=100000 --name spirals --cluster local
    cldctl cancel spirals
    cldctl resume spirals
"""

import asyncio
import re
import sys
from pathlib import Path

from benchmarks import svg
from cldctl.runs.selection import Selection
from cldctl.top.app import Top
from tests.support.piloted import Screen

TARGET = Path(__file__).parents[1] / "docs" / "images" / "top.svg"
_FONTS = "'Fira Code', 'DejaVu Sans Mono', Menlo, Consolas, monospace"


def record(root: Path, selected: str, target: Path) -> None:
    """Write the picture."""
    picture = asyncio.run(_picture(root, selected))
    picture = svg.without_fonts(picture).replace("Fira Code, monospace", _FONTS)
    target.write_text(re.sub(r"terminal-\d+", "top", picture))


async def _picture(root: Path, selected: str) -> str:
    app = Top(root, Selection())
    async with app.run_test(size=(100, 30)) as pilot:
        screen = Screen(app, pilot)
        await screen.select(selected)
        await screen.sees("attempts", "▁")
        return app.export_screenshot(title="cldctl top")


if __name__ == "__main__":
    record(Path(sys.argv[1]), sys.argv[2], TARGET)
    print(TARGET)
