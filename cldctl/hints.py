"""Commands to type next, which work when they are pasted."""

import contextlib
import shlex
from pathlib import Path

from cld_core.run import RunFolder

from . import config


def command(text: str, run: RunFolder) -> str:
    """``cldctl TEXT``, with the ``--runs-dir`` that it needs to find ``run`` from here."""
    root = run.path.parent
    if root.resolve() == config.runs_dir().resolve():
        return f"cldctl {text}"
    with contextlib.suppress(ValueError):
        root = root.relative_to(Path.cwd())
    return f"cldctl {text} --runs-dir {shlex.quote(str(root))}"
