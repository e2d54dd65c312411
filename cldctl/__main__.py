"""The `cldctl` command, also as `python -m cldctl`, if the script is not on PATH."""

import os
import sys


def _forget_the_working_directory() -> None:
    """Remove the working directory, which `python -m` searches first, from the path of imports.

    A copy of the source there stays on the path.
    """
    source = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    first = os.path.abspath(sys.path[0]) if sys.path else source
    if not sys.flags.safe_path and first == os.getcwd() != source:
        del sys.path[0]


def main() -> None:
    """The entry point. Ctrl-C ends without a traceback, also while the commands are loaded."""
    try:
        from . import app

        app.main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    _forget_the_working_directory()
    main()
