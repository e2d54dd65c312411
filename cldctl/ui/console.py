"""Two consoles: data goes to stdout, everything else to stderr. Colours and bars only on a terminal."""

import io
import os
import sys

from rich.console import Console

for _stream in (sys.stdout, sys.stderr):
    if isinstance(_stream, io.TextIOWrapper):
        _stream.reconfigure(errors="replace")  # A locale without "±" shall not end a command.

# Where nobody looks at a terminal, lines are not cut to its width.
_PIPED_WIDTH = None if (sys.stdout and sys.stdout.isatty()) or "COLUMNS" in os.environ else 200

out = Console(highlight=False, width=_PIPED_WIDTH)
err = Console(stderr=True, highlight=False)
