"""The `cldctl` command: collects the commands, and turns errors into one line and an exit code."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import typer

from cld_core import openmp
from cld_core.errors import CldError
from cld_core.texts import one_line

from .cli import (
    bench,
    board,
    cancel,
    compare,
    data,
    doctor,
    evaluate,
    explain,
    export,
    helping,
    import_,
    logs,
    note,
    prune,
    recipes,
    render,
    report,
    resume,
    rm,
    sample,
    status,
    submit,
    top,
    tune,
    usage,
    whole,
    why,
    wrong_usage,
)
from .show import console
from .show.console import err

app = typer.Typer(
    name="cldctl",
    cls=helping.Group,
    help="Train and evaluate diffusion models (CLD, PSLD, HOLD, VPSDE) on clusters that preempt you.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback()(whole.options)
# In the order of the help.
_COMMANDS: dict[str, dict[str, Callable[..., Any]]] = {
    "Train": {
        "submit": submit.submit,
        "resume": resume.resume,
        "cancel": cancel.cancel,
    },
    "Look": {
        "status": status.status,
        "top": top.top,
        "logs": logs.logs,
        "why": why.why,
        "usage": usage.usage,
        "board": board.board,
        "report": report.report,
    },
    "Evaluate and sample": {
        "eval": evaluate.evaluate,
        "compare": compare.compare,
        "sample": sample.sample,
        "tune": tune.tune,
        "export": export.export,
        "import": import_.import_checkpoint,
    },
    "Manage": {
        "note": note.note,
        "rm": rm.rm,
        "prune": prune.prune,
    },
    "Set up": {
        "recipes": recipes.recipes,
        "render": render.render,
        "explain": explain.explain,
        "doctor": doctor.doctor,
    },
}
for _panel, _commands in _COMMANDS.items():
    for _name, _command in _commands.items():
        app.command(_name, cls=helping.Command, rich_help_panel=_panel)(_command)
app.add_typer(bench.app, name="bench", rich_help_panel="Evaluate and sample")
app.add_typer(data.app, name="data", rich_help_panel="Set up")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, by default that of this process; returns the exit code of docs/cli.md."""
    try:
        whole.reset()
        words = None if arguments is None else list(arguments)
        with console.warnings():
            code = app(words, prog_name="cldctl", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except CldError as error:
        err.error(str(error))
        return error.exit_code
    except typer.Abort:
        err.print("aborted")
        return 1
    except BrokenPipeError:
        sys.stderr.close()
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        err.error(f"{place}{error.strerror or error}. Check the path and its permissions.")
        return 1
    except KeyboardInterrupt:
        err.print("interrupted")
        return 130
    except Exception as error:
        return _unforeseen(error)
    return 0


def _unforeseen(error: Exception) -> int:
    """Say what no command expected; returns the exit code. Wrong usage is among it: typer has its own errors."""
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        message = wrong_usage.in_words(error)
        if message:
            err.error(message)
        return int(error.exit_code)
    if os.environ.get("CLDCTL_DEBUG") == "1":
        err.print("".join(traceback.format_exception(error)), end="")
    what = one_line(f"{type(error).__name__}: {error}")
    err.error(f"internal error ({what}). Set CLDCTL_DEBUG=1 to see the traceback, and report it with that.")
    return 1


def main() -> None:
    """The entry point: the process ends with the exit code of the command."""
    openmp.wait_briefly()
    sys.exit(run())
