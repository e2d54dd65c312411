"""The `cldctl` command: collects the commands, and turns errors into one line and an exit code."""

import os
import sys
import traceback
from collections.abc import Sequence

import typer
from rich.text import Text

from cld_core.errors import CldError
from cld_core.texts import one_line

from .commands import (
    cancel,
    compare,
    data,
    doctor,
    evaluate,
    export,
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
    usage,
    why,
)
from .ui.console import err

app = typer.Typer(
    name="cldctl",
    help="Train and evaluate critically-damped Langevin diffusion on clusters that preempt you.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("submit")(submit.submit)
app.command("resume")(resume.resume)
app.command("eval")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("status")(status.status)
app.command("top")(top.top)
app.command("logs")(logs.logs)
app.command("why")(why.why)
app.command("usage")(usage.usage)
app.command("cancel")(cancel.cancel)
app.command("note")(note.note)
app.command("rm")(rm.rm)
app.command("prune")(prune.prune)
app.command("sample")(sample.sample)
app.command("report")(report.report)
app.add_typer(data.app, name="data")
app.command("import")(import_.import_checkpoint)
app.command("export")(export.export)
app.command("recipes")(recipes.recipes)
app.command("render")(render.render)
app.command("doctor")(doctor.doctor)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, by default that of this process; returns the exit code of docs/cli.md."""
    try:
        words = None if arguments is None else list(arguments)
        code = app(words, prog_name="cldctl", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except CldError as error:
        _say(str(error))
        return error.exit_code
    except typer.Abort:
        err.print("aborted")
        return 1
    except BrokenPipeError:
        sys.stderr.close()
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _say(f"{place}{error.strerror or error}. Check the path and its permissions.")
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
        message, context = str(error.format_message()), getattr(error, "ctx", None)
        if message and context is not None:
            end = "" if message.endswith(("?", ".")) else "."
            message = f"{message.rstrip()}{end} See `{context.command_path} --help`."
        if message:
            _say(message)
        return int(error.exit_code)
    if os.environ.get("CLDCTL_DEBUG") == "1":
        err.print("".join(traceback.format_exception(error)), end="", soft_wrap=True)
    what = one_line(f"{type(error).__name__}: {error}")
    _say(f"internal error ({what}). Set CLDCTL_DEBUG=1 to see the traceback, and report it with that.")
    return 1


def _say(problem: str) -> None:
    err.print(Text("error:", "bold red"), " ".join(problem.splitlines()), soft_wrap=True)


def main() -> None:
    """The entry point: the process ends with the exit code of the command."""
    sys.exit(run())
