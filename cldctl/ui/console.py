"""Two consoles: data goes to stdout, everything else to stderr. Colours and bars only on a terminal."""

import io
import os
import sys

from rich.console import Console

for _stream in (sys.stdout, sys.stderr):
    if isinstance(_stream, io.TextIOWrapper):
        _stream.reconfigure(errors="replace")  # A locale without "±" must not end a command.

# Output that does not go to a terminal is not cut to the width of one.
_PIPED_WIDTH = None if (sys.stdout and sys.stdout.isatty()) or "COLUMNS" in os.environ else 200

out = Console(highlight=False, width=_PIPED_WIDTH)
err = Console(stderr=True, highlight=False)
