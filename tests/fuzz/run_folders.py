"""Run folders, damaged, under every command that only needs the folder: one bad run breaks no command."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import FIXTURES

from .campaign import Target
from .mutations import changed, damaged, json_bytes

RUN = FIXTURES / "run"
CODES = frozenset(range(6))
NAMES = """
step_00020000.bak.pt step_00020000.json step_٣٣٣٣٣٣٣٣.json 00000009.json 99999999.json request.json report.json
sweep.json events.out.tfevents.9 ..x -rf x.png 1_0_log.out .submit.lock
"""
STRAY = (*NAMES.split(), "a\nb", "\x1b[2J", "²", "x" * 200, "\udcff\udcfe", " ")
COMMANDS = (
    *("status", "status --all --json", "status bad --json", "resume --yes --cluster scripted", "logs bad"),
    *("logs bad --attempt 1", "cancel good bad", "report bad -o page.html", "report --all -o index.html", "why bad"),
    *("eval bad --elbo --cluster scripted", "eval --compare --json bad good", "usage", "rm bad --yes"),
)


def _run(command: str, folder: Path) -> None:
    """What `app.run` does, without the net for what nobody has thought of: CldError is raised, others too."""
    from cldctl.app import app

    os.chdir(folder)
    code: Any = 0
    try:
        app([*command.split(), "--runs-dir", "runs"], prog_name="cldctl")
    except SystemExit as end:
        code = end.code
    except OSError as error:
        code = 1 if error.strerror else f"an error without words: {error!r}"
    if code not in CODES:
        raise AssertionError(f"{command}: exit code {code}")


class _Gone(dict[str, str]):
    def __missing__(self, job_id: str) -> str:
        return "gone"


def _prepare() -> None:
    """Import what commands need, and let nothing reach a scheduler or wait for one."""
    from cldctl.clusters.slurm import client
    from cldctl.runs import cancel, home
    from tests.support import other_users, scripted

    other_users.load_all()
    scripted.register(pytest.MonkeyPatch(), phases=_Gone())
    client.run = lambda command, stdin="": client.Answer(0, "")  # type: ignore[assignment]
    cancel.GRACE_S, cancel.POLL_S, home.PATIENCE_S = 0.1, 0.01, 0.1


def _make(rng: random.Random, folder: Path) -> Callable[[], Any]:
    for name in ("good", "bad"):
        shutil.copytree(RUN, folder / "runs" / name)
    bad = folder / "runs" / "bad"
    for _ in range(rng.randint(1, 4)):
        # What is damaged already may be too damaged for more.
        with contextlib.suppress(OSError, ValueError, IndexError, RecursionError):
            rng.choice(_DAMAGE)(rng, bad)
    commands = rng.sample(COMMANDS, rng.randint(1, 3))
    return lambda: [_run(command, folder) for command in commands]


def _file(rng: random.Random, bad: Path, suffix: str = "") -> Path:
    """A regular file of the bad run, except for those that were made huge."""
    found = (path for path in bad.rglob(f"*{suffix}") if path.is_file() and not path.is_symlink())
    return rng.choice(sorted(path for path in found if path.stat().st_size < 2**22))


def _json(rng: random.Random, bad: Path) -> None:
    file = _file(rng, bad, ".json")
    file.write_bytes(json_bytes(changed(rng, json.loads(file.read_bytes()))))


def _lines(rng: random.Random, bad: Path) -> None:
    file = _file(rng, bad, ".jsonl")
    lines = file.read_bytes().splitlines()
    lines.insert(rng.randrange(len(lines) + 1), json_bytes(changed(rng, json.loads(rng.choice(lines)))))
    if rng.random() < 0.3:
        rng.shuffle(lines)
    file.write_bytes(b"\n".join(lines) + b"\n")


def _bytes(rng: random.Random, bad: Path) -> None:
    file = _file(rng, bad)
    file.write_bytes(damaged(rng, file.read_bytes()))


def _sparse(file: Path) -> None:
    with file.open("wb") as stream:
        stream.truncate(2**40)


def _replaced(rng: random.Random, bad: Path) -> None:
    """Something else in the place of a file."""
    file, outside = _file(rng, bad), bad.parents[1] / "outside"
    file.unlink()
    outside.write_text("not yours\n")
    others: tuple[Callable[[], object], ...] = (
        *(lambda: os.mkfifo(file), file.mkdir, lambda: file.symlink_to("/dev/zero"), lambda: file.symlink_to(outside)),
        *(lambda: file.symlink_to(file), lambda: _sparse(file), lambda: file.write_text("[" * 100_000)),
    )
    rng.choice(others)()


def _gone(rng: random.Random, bad: Path) -> None:
    entry = rng.choice(sorted(bad.rglob("*")))
    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    if rng.random() < 0.3:
        entry.write_text("a file")


def _stray(rng: random.Random, bad: Path) -> None:
    target = rng.choice([bad, *(path for path in bad.rglob("*") if path.is_dir())]) / rng.choice(STRAY)
    rng.choice((lambda: target.write_text("{}"), target.mkdir, lambda: os.mkfifo(target)))()


_DAMAGE = (_json, _json, _lines, _lines, _bytes, _bytes, _replaced, _replaced, _gone, _stray)
TARGET = Target("run_folders", _make, _prepare)
