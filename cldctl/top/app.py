"""`cldctl top` as an application of textual."""

import os
from pathlib import Path
from typing import ClassVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.screen import Screen

from cldctl.runs.selection import Selection

from .feed import RunFeed
from .main_screen import MainScreen


class Top(App[None]):
    """The runs of a folder, kept up to date until somebody leaves.

    Args:
        root: the folder of the runs.
        which: the runs that are shown.
        everything: show those that ended over a week ago, too.
    """

    ENABLE_COMMAND_PALETTE = False
    NOTIFICATION_TIMEOUT = 15
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark", "help", "Help"),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", "Quit", show=False, priority=True),
    ]
    CSS = """
    #counts { height: 1; text-wrap: nowrap; text-overflow: ellipsis; }
    RunTable, RichLog { height: 1fr; min-height: 4; background: $background; }
    RunTable > .datatable--header, RunTable > .datatable--fixed { background: $background; }
    RunTable:focus { background-tint: $foreground 0%; }
    RunTable, RichLog, #panel { scrollbar-size: 1 1; }
    #panel { height: 45%; border: round $primary; border-title-style: bold; padding: 0 1; }
    #panel:focus { border: round $accent; }
    #remarks { color: $warning; }
    #words { height: 1; border: none; padding: 0; }
    Question { align: center middle; }
    Question > Static { width: 60; max-width: 96%; height: auto; border: heavy $warning; padding: 0 1; }
    """

    def __init__(self, root: Path, which: Selection, *, everything: bool = False) -> None:
        # Without colours if somebody asks for that: textual would draw shades of grey.
        super().__init__(ansi_color=True if "NO_COLOR" in os.environ else None)
        # Over ssh, each frame is a wait.
        self.animation_level = "none"
        self._main = MainScreen(RunFeed(root, which, everything=everything))

    def get_default_screen(self) -> Screen[None]:
        return self._main

    def action_help(self) -> None:
        if self.screen.query("HelpPanel"):
            self.action_hide_help_panel()
        else:
            self.action_show_help_panel()

    def left_over(self) -> list[str]:
        """End what ends with the screen, when that is gone; lines about what nobody waits for any more."""
        return [line for command in self._main.commands.values() if (line := command.leave()) is not None]
