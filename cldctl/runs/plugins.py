"""What the plug-ins of a recipe register, asked of a process of its own: they are code, and load torch."""

import contextlib
import functools
import hashlib
import logging
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from cld_core.config import Recipe
from cld_core.config.data import ToyDataSpec
from cld_core.config.plugin import require_name_from
from cld_core.config.variants import names as shipped_names
from cld_core.digests import checksum
from cld_core.errors import RecipeError
from cld_core.files import parse_json, read_bytes, write_json
from cld_core.run import code
from cld_core.sanitize import one_line
from cld_core.version import __version__
from cldctl import caches
from cldctl.clusters.this_machine import safe_path

# Loading torch from a slow disk takes most of it.
TIMEOUT_S = 120.0
# Tells people, in one line, what could not be found out.
Say = Callable[[str], None]
_LOG = logging.getLogger(__name__)
COMMAND: tuple[str, ...] = (sys.executable, "-P", "-m", "cld_core.data.plugin_report")


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


# An answer in the user's cache is shorter, and is removed if it was not written again for so many seconds.
_MAX_BYTES, _UNUSED_S = 2**16, 30 * 24 * 3600.0
# Increased when an answer means something else than before.
_FORMAT = "2"


def ask(plugin: str, name: str | None = None) -> Report:
    """What a plug-in, a file or module, registers, and what tells the data of the density ``name`` from others.

    A process is asked, once for each content of the file. What it registers is kept for `remembered`.
    """
    return _asked(plugin, name, _digest(plugin))


@functools.cache
def _asked(plugin: str, name: str | None, digest: str) -> Report:
    report = _from_process(plugin, name)
    file = _remembered_in(digest)
    if file is not None and name is None and report.problem is None:
        with contextlib.suppress(OSError):
            caches.sweep(file.parent, "plugin-*", _UNUSED_S)
            write_json(file, {"names": list(report.names)})
    return report


def remembered(plugin: str) -> Sequence[str]:
    """The names that a plug-in file of this content registered when it was asked last; empty if it never was.

    It may import other files, which may have changed since: enough to go on with a name, not to refuse one. Names of
    data that come with cldctl are left out: if the plug-in registers them no longer, others would be trained on.
    """
    file = _remembered_in(_digest(plugin))
    if file is None:
        return ()
    try:
        names = parse_json(read_bytes(file, limit=_MAX_BYTES))["names"]
    except (OSError, ValueError, KeyError, TypeError):
        return ()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ()
    return [name for name in names if name not in shipped_names("data")]


def _digest(plugin: str) -> str:
    """What tells a file's content from others; empty for a module, whose files nobody has looked at."""
    return checksum(Path(plugin)) if plugin.endswith(".py") else ""


def _remembered_in(digest: str) -> Path | None:
    """The file in the user's cache with what a plug-in of this content registers; None if there is none."""
    folder = caches.folder() if digest else None
    parts = (_FORMAT, digest, sys.executable, metadata.version("torch"), __version__)
    key = hashlib.sha256("\n".join(parts).encode(errors="replace")).hexdigest()[:32]
    return None if folder is None else folder / f"plugin-{key}.json"


def _from_process(plugin: str, name: str | None) -> Report:
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


def require_registered(recipe: Recipe, place: Callable[[str], str], say: Say, *, swept: Collection[str] = ()) -> None:
    """Refuse a recipe whose plug-in does not register its data, before anything is written.

    Where the job runs in a container, the plug-in may need what is only there: what goes wrong is said, not refused.

    Args:
        place: what has set a dotted key, for messages.
        say: gets what could not be found out, in one line.
        swept: the values of `data.name` with this plug-in in a sweep over it; some of them may be of other data.

    Raises:
        RecipeError: names what it registers.
    """
    data = recipe.data
    if not isinstance(data, ToyDataSpec) or data.plugin is None:
        return
    with contextlib.suppress(RecipeError):
        require_name_from(data.plugin, data.name, remembered(data.plugin), place, swept)
        return
    report = ask(data.plugin)
    if report.problem is not None:
        if report.unknown or recipe.cluster.container is not None:
            say(f"whether {data.plugin} registers '{data.name}' is not known: {report.problem}")
            return
        raise RecipeError(f"{place('data.plugin')}: {report.problem}")
    require_name_from(data.plugin, data.name, report.names, place, swept)
