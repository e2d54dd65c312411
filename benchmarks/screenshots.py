"""`python -m benchmarks.screenshots RUNS RUN`: docs/images/top.svg and status.svg, of real runs, with one selected.

The pictures in the documentation: a group of two runs, a run that is finished and evaluated, and one that trains, was
cancelled, resumed and is evaluated. They are taken while these run, so that they are made by hand:

    export CLDCTL_RUNS=/tmp/runs
    cldctl submit toy_diamond train.steps=400 --name diamond --cluster local --follow
    cldctl eval diamond --elbo --cluster local --follow
    cldctl submit toy_demo train.steps=100000 --sweep optim.lr=1e-3,3e-3 --name lr --cluster local
    cldctl submit toy train.steps=100000 --name spirals --cluster local
    cldctl cancel spirals
    cldctl resume spirals
    cldctl eval spirals --elbo --shards 8 eval.points=20000
"""

import asyncio
import contextlib
import io
import re
import sys
from pathlib import Path

from rich.color import ColorSystem
from rich.text import Text

from cld_core.run import RunFolder
from cldctl.runs.index import Index
from cldctl.runs.selection import Selection
from cldctl.show.console import out
from cldctl.show.runs import Query, show
from cldctl.top.app import Top
from tests.support.piloted import Screen

IMAGES = Path(__file__).parents[1] / "docs" / "images"
_STATUS = {
    **{"_width": 112, "_height": 40, "_force_terminal": True},
    **{"_color_system": ColorSystem.TRUECOLOR, "record": True},
}
_FONTS = "'Fira Code', 'DejaVu Sans Mono', Menlo, Consolas, monospace"


def without_fonts(picture: str) -> str:
    """An SVG by rich or textual that loads no font: a page of the documentation asks nobody for anything."""
    return re.sub(r"\s*@font-face \{.*?\}", "", picture, flags=re.DOTALL)


def record_status(root: Path, selected: str, target: Path) -> None:
    """Write the picture of `cldctl status` and of `cldctl status RUN`."""
    before = {name: getattr(out, name) for name in _STATUS}
    try:
        for name, value in _STATUS.items():
            setattr(out, name, value)
        with contextlib.redirect_stdout(io.StringIO()):
            for words, runs in (("", ()), (f" {selected}", [RunFolder(root / selected)])):
                out.print(Text.assemble(("$ ", "green"), (f"cldctl status{words}", "bold")))
                show(Query(Index(root), Selection(), chosen=runs))
        target.write_text(without_fonts(out.export_svg(title="cldctl status", unique_id="status")))
    finally:
        for name, value in before.items():
            setattr(out, name, value)


def record_top(root: Path, selected: str, target: Path) -> None:
    """Write the picture of `cldctl top`."""
    picture = asyncio.run(_picture(root, selected))
    picture = without_fonts(picture).replace("Fira Code, monospace", _FONTS)
    target.write_text(re.sub(r"terminal-\d+", "top", picture))


async def _picture(root: Path, selected: str) -> str:
    app = Top(root, Selection())
    async with app.run_test(size=(100, 30)) as pilot:
        screen = Screen(app, pilot)
        await screen.select(selected)
        await screen.sees("attempts", "▁", "Quit")
        return app.export_screenshot(title="cldctl top")


if __name__ == "__main__":
    for make, name in ((record_status, "status.svg"), (record_top, "top.svg")):
        make(Path(sys.argv[1]), sys.argv[2], IMAGES / name)
        print(IMAGES / name)
