"""A terminal of a given size in place of this process's output, and the text of what is shown."""

import io

from rich.console import Console

from cldctl.show.console import err, out


def screen(monkeypatch, width, height=25, *, terminal=True):
    """Let both consoles be a terminal of this size, without colours; returns what shows the lines
    of a renderable."""
    for console in (out, err):
        monkeypatch.setattr(console, "_width", width)
        monkeypatch.setattr(console, "_height", height)
        monkeypatch.setattr(console, "_force_terminal", terminal)
        monkeypatch.setattr(console, "_color_system", None)

    def shown(renderable):
        lines = out.render_lines(renderable, pad=False)
        return [
            "".join(segment.text for segment in line if not segment.control).rstrip()
            for line in lines
        ]

    return shown


def text(view, width=150):
    """The text of a renderable without a terminal."""
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(view)
    return console.export_text()
