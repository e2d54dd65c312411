"""What the plug-ins of a recipe register, asked of a process of its own: they are code, and load torch."""

import functools
import logging
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cld_core.digests import checksum
from cld_core.errors import RecipeError, did_you_mean
from cld_core.recipe import Recipe
from cld_core.recipe.data import ToyDataSpec
from cld_core.recipe.variants import names as shipped_names
from cld_core.run import code
from cld_core.small_files import parse_json
from cld_core.texts import one_line
from cldctl.clusters.this_machine import safe_path

# Loading torch from a slow disk takes most of it.
TIMEOUT_S = 120.0
_LOG = logging.getLogger(__name__)
COMMAND: tuple[str, ...] = (sys.executable, "-P", "-m", "cld_core.data.plugin_report")
_MOST_NAMES = 12


@dataclass(frozen=True)
class Report:
    """What a plug-in registers, what tells its data from others, or why it cannot be imported.

    Attributes:
        unknown: nobody answered in time, for the reason in ``problem``.
    """

    names: Sequence[str] = ()
    data: Mapping[str, str] | None = None
    problem: str | None = None
    unknown: bool = False


def ask(plugin: str, name: str | None = None) -> Report:
    """What a plug-in, a file or module, registers, and what tells the data of the density ``name`` from others."""
    return _asked(plugin, name, checksum(Path(plugin)) if plugin.endswith(".py") else "")


@functools.cache
def _asked(plugin: str, name: str | None, digest: str) -> Report:
    command = [*COMMAND, plugin, *([] if name is None else [name])]
    begin = time.monotonic()
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **_imports(), "CUDA_VISIBLE_DEVICES": ""},
        )
    except subprocess.TimeoutExpired:
        return Report(problem=f"it is not imported within {TIMEOUT_S:.0f} s", unknown=True)
    except OSError as error:
        return Report(problem=one_line(error), unknown=True)
    finally:
        _LOG.debug("%.3f s: %s", time.monotonic() - begin, shlex.join(command))
    try:
        answer = parse_json(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["without a message"])[-1]
        return Report(problem=one_line(f"its process ended with {done.returncode}: {last}"), unknown=True)
    if (problem := answer.get("problem")) is not None:
        return Report(problem=one_line(problem, 500))
    return Report(names=[one_line(known, 60) for known in answer["names"]], data=dict(answer["data"]))


def _imports() -> dict[str, str]:
    """Variables with which a process imports what this one has imported, and nothing from the working directory."""
    safe = safe_path()
    if code.installed() is not None:
        return safe
    others = safe.get("PYTHONPATH", os.environ.get("PYTHONPATH", "")).split(os.pathsep)
    return {**safe, "PYTHONPATH": os.pathsep.join([str(code.ROOT), *filter(None, others)])}


def require_registered(recipe: Recipe, file: Path, say: Callable[[str], None]) -> None:
    """Refuse a recipe whose plug-in does not register its data, before anything is written.

    Where the job runs in a container, the plug-in may need what is only there: what goes wrong is said, not refused.

    Args:
        say: gets what could not be found out, in one line.

    Raises:
        RecipeError: names the nearest that is registered.
    """
    data = recipe.data
    if not isinstance(data, ToyDataSpec) or data.plugin is None:
        return
    report = ask(data.plugin)
    if report.problem is not None:
        if report.unknown or recipe.cluster.container is not None:
            say(f"whether {data.plugin} registers '{data.name}' is not known: {report.problem}")
            return
        raise RecipeError(f"{file}: {report.problem}")
    if data.name in report.names or data.name in shipped_names("data"):
        return
    known = ", ".join(report.names[:_MOST_NAMES]) or "no data set"
    fix = did_you_mean(data.name, report.names) or " Register it, or write the name of one that is."
    text = f"'data.name' cannot be {one_line(data.name, 60)!r}: {data.plugin} registers {known}"
    raise RecipeError(f"{file}: {text}.{fix}")
