"""`cldctl top` without a terminal: what is on its screen, and keys that are pressed."""

import asyncio
import time

from cldctl.runs.selection import Selection
from cldctl.top.app import RunTable, Top

PATIENCE_S = 90.0


class Screen:
    """The text on a screen, and the keys of its user."""

    def __init__(self, app, pilot):
        self.app = app
        self._pilot = pilot

    @property
    def lines(self):
        """The lines on the screen, without blanks at their ends."""
        strips = self.app.screen._compositor.render_strips()
        return ["".join(segment.text for segment in strip).rstrip() for strip in strips]

    @property
    def text(self):
        return "\n".join(self.lines)

    async def press(self, *keys):
        await self._pilot.press(*keys)

    async def until(self, what):
        """Wait until something is so; fails with what is on the screen."""
        deadline = time.monotonic() + PATIENCE_S
        while not what():
            assert time.monotonic() < deadline, (
                f"waited {PATIENCE_S} s in vain; the screen:\n{self.text}"
            )
            await self._pilot.pause(0.02)

    async def sees(self, *texts):
        """Wait until all of these are on the screen; a long path may break them over lines."""

        def all_shown():
            joined = " ".join(self.text.replace("│", " ").split())
            return all(text in self.text or text in joined for text in texts)

        await self.until(all_shown)

    async def select(self, name):
        """Move to the run or group of this name, and wait for what is said about it."""
        main = self.app._main
        table = main.query_one(RunTable)
        await self.until(lambda: name in [line.name for line in table.lines])
        table.move_cursor(row=[line.name for line in table.lines].index(name))
        await self.until(lambda: main.selected is not None and main.selected.name == name)
        is_group = main.selected.row is None
        await self.until(
            lambda: is_group or (main._detail is not None and main._detail.why.row.name == name)
        )


def on_screen(root, do, *, size=(120, 40), everything=False):
    """Show the runs under ``root``, and do something with the screen; returns the application,
    which has ended."""
    app = Top(root, Selection(), everything=everything)

    async def main():
        async with app.run_test(size=size, notifications=True) as pilot:
            await do(Screen(app, pilot))

    asyncio.run(main())
    return app
