"""`cldctl top` as an application of textual."""

import os
from pathlib import Path
from typing import ClassVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.screen import Screen

from cldctl.runs.selection import Selection

from .feed import Looker
from .main_screen import MainScreen


class Top(App[None]):
    """The runs of a folder, kept up to date until somebody leaves.

    Args:
        root: the folder of the runs.
        which: the runs that are shown.
        everything: show those that ended over a week ago, too.
    """

    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+c", "quit", show=False, priority=True)]
    CSS = """
    #top, #keys, #log-title, #log-keys { height: 1; }
    #runs { height: 1fr; min-height: 3; }
    #panel { height: 12; border-top: solid $primary; padding: 0 1; scrollbar-size-vertical: 1; }
    #panel:focus { border-top: heavy $accent; }
    #detail { height: auto; }
    #said, #log-problem { height: auto; max-height: 3; }
    #words { height: 1; border: none; padding: 0; }
    #log { height: 1fr; overflow-x: auto; scrollbar-size: 1 1; }
    Question, Help { align: center middle; }
    #question, #help { width: 60; max-width: 96%; height: auto; max-height: 96%; padding: 0 1; }
    #question { border: heavy $warning; }
    #help { border: solid $primary; scrollbar-size-vertical: 1; }
    #help-keys { dock: top; }
    #answers { margin-top: 1; }
    """

    def __init__(self, root: Path, which: Selection, *, everything: bool = False) -> None:
        # Without colours if somebody asks for that: textual would draw shades of grey.
        super().__init__(ansi_color=True if "NO_COLOR" in os.environ else None)
        # Over ssh, each frame is a wait.
        self.animation_level = "none"
        self._main = MainScreen(Looker(root, which, everything=everything))

    def get_default_screen(self) -> Screen[None]:
        return self._main

    async def action_quit(self) -> None:
        self._main.action_quit()

    def left_over(self) -> list[str]:
        """End what goes on, when the screen is gone; lines about what nobody waits for any more."""
        ended = [f"ended: {what}" for what in self._main.doing.end_processes()]
        left = self._main.doing.waiting
        return [*ended, *(f"no longer waiting for: {what}. `cldctl status` shows how it ends" for what in left)]
