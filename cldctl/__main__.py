"""`python -m cldctl`, if the script is not on PATH."""

import os
import sys


def _forget_the_working_directory() -> None:
    """Import nothing from it: `python -m` searches it before all else. A copy of the source that lies there is kept."""
    source = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    first = os.path.abspath(sys.path[0]) if sys.path else source
    if not sys.flags.safe_path and first == os.getcwd() != source:
        del sys.path[0]


_forget_the_working_directory()

from .app import main  # noqa: E402

main()
