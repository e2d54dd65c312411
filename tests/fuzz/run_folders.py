"""Run folders, damaged, under every command that only needs the folder: one bad run breaks no command."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cld_core.errors import CldError
from tests.support.paths import FIXTURES

from .campaign import Target
from .mutations import changed, damaged, json_bytes

# Templates of runs, made once; forks share them.
_TEMPLATES: list[Path] = []
_GOOD = "good"
_BAD = "bad"
_HUGE = 2**22
_CODES = frozenset(range(6))
_NAMES = """
step_00020000.bak.pt step_00020000.json step_٣٣٣٣٣٣٣٣.json 00000009.json 99999999.json request.json report.json
sweep.json events.out.tfevents.9 ..x -rf x.png 1_0_log.out .submit.lock
"""
_STRAY = (*_NAMES.split(), "a\nb", "\x1b[2J", "²", "x" * 200, "\udcff\udcfe", " ")


def _commands(folder: Path) -> tuple[tuple[str, ...], ...]:
    runs = ("--runs-dir", str(folder / "runs"))
    return (
        ("status", *runs),
        ("status", "--all", "--json", *runs),
        ("status", _BAD, "--json", *runs),
        ("resume", "--yes", "--cluster", "scripted", *runs),
        ("logs", _BAD, *runs),
        ("logs", _BAD, "--attempt", "1", *runs),
        ("logs", _BAD, "--eval", "elbo-00000120-78ce5c25", *runs),
        ("cancel", _BAD, *runs),
        ("cancel", _GOOD, _BAD, *runs),
        ("report", _BAD, "-o", str(folder / "page.html"), *runs),
        ("report", "--all", "-o", str(folder / "index.html"), *runs),
        ("eval", _BAD, "--elbo", "--cluster", "scripted", *runs),
        ("eval", "--compare", "--json", _BAD, _GOOD, *runs),
    )


def _prepare() -> None:
    """Import what commands need, make the templates, and let nothing reach a scheduler or wait for one."""
    from cldctl.clusters.slurm import client
    from cldctl.runs import cancel, home
    from tests.support import other_users, scripted

    other_users.load_all()
    scripted.register(pytest.MonkeyPatch(), phases=_Phases())
    client.run = lambda command, stdin="": client.Answer(0, "")  # type: ignore[assignment]
    cancel.GRACE_S, cancel.POLL_S, home.PATIENCE_S = 0.1, 0.01, 0.1
    if not _TEMPLATES:
        place = Path(tempfile.mkdtemp(prefix="fuzz-templates-"))
        _TEMPLATES.extend((_fixture(place / "fixture"), _generated(place / "generated")))
    _warm_up()


class _Phases(dict[str, str]):
    def __missing__(self, job_id: str) -> str:
        return "gone"


def _fixture(path: Path) -> Path:
    shutil.copytree(FIXTURES / "run", path)
    return path


def _generated(path: Path) -> Path:
    """A run with everything that a run can have."""
    from cld_core.evaluation.request import EvalRequest
    from cld_core.evaluation.sweeps import Axis, Cell, Sweep
    from cld_core.run.atomic import write_json
    from cld_core.run.events import Ended, JobRef, Submitted
    from tests.support.made_up import report, run_with
    from tests.support.scripted import trained

    run = trained(run_with(path, 10, 20), "1", "gone")
    run.ledger.append(Ended(attempt=0, cause="preempted", step=20, detail="SIGUSR2"))
    write_json(
        run.progress_file, {"attempt": 0, "step": 20, "steps": 100, "loss": 1.5, "steps_per_s": 3.0, "time": 2.0}
    )
    write_json(run.leases / "00000001.json", {"job_id": "1", "restart": 0, "host": "far", "pid": 12, "beat": 3})
    (run.logs / "1_0_log.out").write_text("line\n" * 10)
    (run.samples / "a.png").write_bytes(b"\x89PNG\r\n\x1a\npicture")
    request = EvalRequest.of(run.recipe(), ("elbo",), 20, shards=2)
    report(run, request, elbo={"nll": 1.5, "stderr": 0.1, "n": 100, "nfe_mean": 20.0})
    Sweep(
        (Axis("sampling.nfe", ("5", "10")),),
        (Cell({"sampling.nfe": "5"}, request.id), Cell({"sampling.nfe": "10"}, request.id)),
    ).save(run)
    other = EvalRequest.of(run.recipe(), ("loss",), 10, shards=3)
    folder = other.save(run)
    write_json(
        folder / "shards" / "00000.json",
        {"request": other.id, "work": {"loss": {"first": 0, "last": 3, "done": 1, "crc": 0}}},
    )
    from cld_core.evaluation.evaluation import Evaluation

    Evaluation(folder).ledger.append(
        Submitted(job=JobRef(cluster="scripted", job_id="7", logs=str(folder / "logs")), shards=(0,))
    )
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(run.tensorboard)) as board:
        for step in range(5):
            board.add_scalar("train/loss", 1.0 / (1 + step), step)
    return run.path


def _warm_up() -> None:
    """Every command once, so that forks import nothing."""
    with tempfile.TemporaryDirectory() as name, open(os.devnull, "w") as nowhere:
        folder = Path(name)
        for template, run in zip(reversed(_TEMPLATES), (_BAD, _GOOD), strict=True):
            shutil.copytree(template, folder / "runs" / run)
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            for command in _commands(folder):
                with contextlib.suppress(CldError):
                    _run(command)


def _make(rng: random.Random, folder: Path) -> Callable[[], Any]:
    runs = folder / "runs"
    good, bad = rng.sample(_TEMPLATES, 2)
    shutil.copytree(good, runs / _GOOD)
    shutil.copytree(bad, runs / _BAD, symlinks=True)
    closed = False
    for _ in range(rng.randint(1, 4)):
        # What is damaged already may be too damaged for more.
        with contextlib.suppress(OSError, ValueError, IndexError, RecursionError):
            closed |= rng.choice(_DAMAGE)(rng, folder)
    commands = rng.sample(_commands(folder), rng.randint(1, 3))

    def case() -> None:
        if closed:
            _become_nobody(folder)
        for command in commands:
            _run(command)

    return case


def _run(command: tuple[str, ...]) -> None:
    """What `app.run` does, without the net for what nobody has thought of: CldError is raised, others too."""
    from cldctl.app import app

    code: Any = 0
    try:
        app(list(command), prog_name="cldctl")
    except SystemExit as end:
        code = end.code
    except OSError as error:
        code = 1 if error.strerror else f"an error without words: {error!r}"
    if code not in _CODES:
        raise AssertionError(f"{command}: exit code {code}")


def _become_nobody(folder: Path) -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


def _files(folder: Path) -> list[Path]:
    """The regular files of the bad run, except for those that were made huge."""
    found = (path for path in (folder / "runs" / _BAD).rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(path for path in found if path.stat().st_size < _HUGE)


def _json(rng: random.Random, folder: Path) -> bool:
    files = [file for file in _files(folder) if file.suffix == ".json"]
    if files:
        file = rng.choice(files)
        with contextlib.suppress(ValueError):
            file.write_bytes(json_bytes(changed(rng, json.loads(file.read_bytes()))))
    return False


def _lines(rng: random.Random, folder: Path) -> bool:
    files = [file for file in _files(folder) if file.suffix == ".jsonl"]
    if files:
        file = rng.choice(files)
        lines = file.read_text(errors="replace").splitlines()
        place = rng.randrange(len(lines) + 1)
        with contextlib.suppress(ValueError, IndexError):
            lines.insert(
                place, json_bytes(changed(rng, json.loads(lines[rng.randrange(len(lines))]))).decode(errors="replace")
            )
        if rng.random() < 0.3:
            rng.shuffle(lines)
        file.write_text("\n".join(lines) + "\n", errors="surrogatepass")
    return False


def _bytes(rng: random.Random, folder: Path) -> bool:
    if files := _files(folder):
        file = rng.choice(files)
        file.write_bytes(damaged(rng, file.read_bytes()))
    return False


def _replaced(rng: random.Random, folder: Path) -> bool:
    """Something else in the place of a file."""
    files = _files(folder)
    if not files:
        return False
    file = rng.choice(files)
    file.unlink()
    outside = folder / "outside"
    outside.write_text("not yours\n")
    match rng.randrange(8):
        case 0:
            os.mkfifo(file)
        case 1:
            file.mkdir()
        case 2:
            file.symlink_to("/dev/zero")
        case 3:
            file.symlink_to(outside)
        case 4:
            file.symlink_to(file)
        case 5:
            file.symlink_to(folder / "missing")
        case 6:
            with file.open("wb") as stream:
                stream.truncate(rng.choice((2**24, 2**40)))
        case 7:
            file.write_text(rng.choice(("[", '{"a":', '{"kind":"evaluation","shards":')) * rng.choice((100, 100_000)))
    return False


def _gone(rng: random.Random, folder: Path) -> bool:
    if entries := sorted((folder / "runs" / _BAD).rglob("*")):
        entry = rng.choice(entries)
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
            if rng.random() < 0.5:
                entry.write_text("a file")
        else:
            entry.unlink()
    return False


def _stray(rng: random.Random, folder: Path) -> bool:
    places = sorted(path for path in (folder / "runs").rglob("*") if path.is_dir() and not path.is_symlink())
    target = rng.choice([folder / "runs", *places]) / rng.choice(_STRAY)
    if not os.path.lexists(target):
        with contextlib.suppress(OSError, UnicodeEncodeError):
            rng.choice((lambda: target.write_text("{}"), target.mkdir, lambda: os.mkfifo(target)))()
    return False


def _modes(rng: random.Random, folder: Path) -> bool:
    """Without rights: the case runs as nobody."""
    entries = [folder / "runs" / _BAD, *sorted((folder / "runs" / _BAD).rglob("*"))]
    chosen = [entry for entry in rng.sample(entries, min(len(entries), 3)) if not entry.is_symlink()]
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    if rng.random() < 0.3:
        os.chown(folder / "runs" / _BAD, 0, 0)
    for entry in chosen:
        entry.chmod(rng.choice((0, 0o111, 0o444)))
    return True


_DAMAGE = (_json, _json, _json, _lines, _lines, _bytes, _bytes, _replaced, _replaced, _gone, _stray, _modes)
TARGET = Target("run_folders", _make, _prepare)
