r"""status.svg and top.svg of docs/images, of real runs, one selected.

    python -m benchmarks.screenshots RUNS RUN [RUN]

The pictures in the documentation show a group of two runs, a run that is finished and evaluated,
and one that trains, was cancelled, resumed and is evaluated. They are taken while these run, so
they are made by hand:

    export CLDCTL_RUNS=/tmp/runs
    cldctl submit toy_diamond train.steps=400 --name diamond --cluster local --follow
    cldctl eval diamond --elbo --cluster local --follow
    cldctl submit toy_demo train.steps=100000 --sweep optim.lr=1e-3,3e-3 --name lr --cluster local
    cldctl submit toy train.steps=100000 --name spirals --cluster local
    cldctl cancel spirals
    cldctl resume spirals
    cldctl eval spirals --elbo --shards 8 eval.points=20000

With a second run, docs/images/report.png, too: the first screen of its report, by Debian's
chromium. That is a run of a minute on one core, which was interrupted once:

    cldctl submit toy_diamond train.steps=12000 --name nine-gaussians --cluster local \
        objective.mixed_score=true network.time_input=fourier train.batch_size=256 \
        train.checkpoint_every=3000 train.log_every=50
    cldctl cancel nine-gaussians
    cldctl resume nine-gaussians --follow
    cldctl eval nine-gaussians --elbo --checkpoint all --cluster local --follow
    cldctl eval nine-gaussians --elbo --sweep eval.elbo.velocities=1,4,16 \
        --sweep eval.elbo.probes=1,4 eval.points=500 --cluster local --follow
    cldctl sample nine-gaussians -n 4000
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
from tests.support.browser import chromium, opened
from tests.support.piloted import Screen
from tests.support.tools import cldctl

IMAGES = Path(__file__).parents[1] / "docs" / "images"
_STATUS = {
    **{"_width": 112, "_height": 40, "_force_terminal": True},
    **{"_color_system": ColorSystem.TRUECOLOR, "record": True},
}
_FONTS = "'Fira Code', 'DejaVu Sans Mono', Menlo, Consolas, monospace"


def without_fonts(picture: str) -> str:
    """An SVG by rich or textual that loads no font: a page of the documentation asks nobody for
    anything."""
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


def record_report(root: Path, selected: str, target: Path) -> None:
    """Write the picture of the first screen of a report."""
    cldctl("report", selected, runs=root)
    with chromium() as browser, opened(browser, root / selected / "report.html") as shown:
        shown.page.screenshot(path=target)


if __name__ == "__main__":
    runs, *names = sys.argv[1:]
    made = [(record_status, names[0], "status.svg"), (record_top, names[0], "top.svg")]
    made += [(record_report, name, "report.png") for name in names[1:]]
    for record, name, file in made:
        record(Path(runs), name, IMAGES / file)
        print(IMAGES / file)
