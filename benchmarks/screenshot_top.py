"""`python -m benchmarks.screenshot_top`: docs/images/top.svg, `cldctl top` on made-up runs, 80 columns by 24 lines."""

import asyncio
import os
import re
import tempfile
from pathlib import Path
from unittest import mock

from benchmarks import svg
from cldctl.clusters.slurm import client
from cldctl.runs.selection import Selection
from cldctl.top.app import Top
from tests.support import on_screen
from tests.support.piloted import Screen

TARGET = Path(__file__).parents[1] / "docs" / "images" / "top.svg"
SELECTED = "celebahq-cld-1125-0911-k3fa"
_FONTS = "'Fira Code', 'DejaVu Sans Mono', Menlo, Consolas, monospace"


def record(target: Path) -> None:
    """Write the picture."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"CLDCTL_CACHE": f"{folder}/cache"}):
        fleet = on_screen.everything(Path(folder) / "runs")
        with mock.patch.object(client, "run", fleet.slurm):
            picture = asyncio.run(_picture(fleet.root))
    picture = svg.without_fonts(picture).replace("Fira Code, monospace", _FONTS)
    target.write_text(re.sub(r"terminal-\d+", "top", picture))


async def _picture(root: Path) -> str:
    app = Top(root, Selection())
    async with app.run_test(size=(80, 24)) as pilot:
        screen = Screen(app, pilot)
        await screen.select(SELECTED)
        await screen.sees("shards", "█▅")
        return app.export_screenshot(title="cldctl top")


if __name__ == "__main__":
    record(TARGET)
    print(TARGET)
