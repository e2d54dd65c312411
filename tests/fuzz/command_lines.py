"""Command lines: an exit code that is promised, one line of error at most, and nothing that steers a terminal."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import io
import os
import pkgutil
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import typer

import cld_core
import cldctl
from cld_core.sanitize import has_control
from cldctl import app
from cldctl.clusters.slurm import client, expected
from cldctl.clusters.slurm.client import Answer
from cldctl.runs import plugins
from tests.support.paths import FIXTURES

from . import recipes
from .campaign import Target
from .mutations import damaged

# What each command takes; "*" is any word. Commands that would train or start processes only show what they would do.
COMMANDS: dict[str, tuple[str, ...]] = {
    "submit": ("--name *", "--cluster *", "--profile *", "--eval *"),
    "render": ("--comments",),
    "explain": (),
    "recipes": (),
    "status": ("--all", "--json"),
    "logs": ("--rank *", "--attempt *", "--eval *", "--shard *"),
    "cancel": (),
    "eval": ("--fid", "--elbo", "--loss", "--samples *", "--shards *", "--checkpoint *", "--sweep *", "--compare"),
    "sample": ("-n *", "-o *", "--method *", "--nfe *", "--checkpoint *", "--seed *"),
    "report": ("-o *",),
    # A card makes folders: of any word, they might be anywhere.
    "export": ("-o *", "--checkpoint *", "--card card", "--card card.md", "--license *"),
    "resume": ("--from *",),
}
PLAIN = """
- -- -1 0 1 2 120 15 1e9 1e400 nan inf -inf 100000000000000 0x10 1_000 +1 1.5 true null last all slurm local debug moon
fid elbo fid,elbo , fid,, x.png x.npz x.html x.safetensors ../x.png /nowhere/x.png . .. / ./run run other-run run/
run/recipe.yaml /dev/zero /dev/null toy cifar10 [red]x[/] [/] ~ ${oc.env:HOME} $HOME elbo-00000120-78ce5c25
sampling.nfe=5,10 eval.elbo.probes=1,0 * --help --version
"""
ODD = ("", " ", "9" * 5000, "x" * 300, "\u00b2", "\u0967\u0968", "\x1b[31mred", "a\nb", "\u202eabc", "\udcff")
WORDS = (*PLAIN.split(), *ODD)
CODES = {0, 1, 2, 3, 4, 5}


@functools.cache
def _parser() -> Any:
    """What typer makes of all commands, at every call."""
    return typer.main.get_command(app.app)


def _prepare() -> None:
    # What a command imports when it needs it would otherwise be imported by every fork.
    for package in (cld_core, cldctl):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)

    recipes.TARGET.prepare()
    _parser()
    gc.collect()
    gc.freeze()  # Forks then share its pages.


def _word(rng: random.Random) -> str:
    match rng.randrange(8):
        case 0:
            return recipes.override_of(rng)
        case 1:
            return damaged(rng, rng.choice(WORDS).encode(errors="surrogateescape")).decode(errors="surrogateescape")
        case _:
            return rng.choice(WORDS)


def _arguments(rng: random.Random) -> list[str]:
    command = rng.choice(list(COMMANDS))
    words = [command] if rng.random() < 0.97 else [_word(rng)]
    if command in ("submit", "render"):
        words.append(rng.choice(("toy", "cifar10", "mine.yaml", "mine.yaml", _word(rng))))
    elif rng.random() < 0.7:
        words.append("run")
    for option in rng.sample(COMMANDS[command], k=rng.randint(0, min(3, len(COMMANDS[command])))):
        words += [part if part != "*" else _word(rng) for part in option.split()]
    words += [recipes.override_of(rng) if rng.random() < 0.5 else _word(rng) for _ in range(rng.choice((0, 0, 1, 2)))]
    # What would begin work is shown, refused for want of a checkpoint, or ends at a scheduler that is away.
    words += {"submit": ["--dry-run"], "resume": ["--cluster", "slurm"], "eval": ["--cluster", "slurm"]}.get(
        command, []
    )
    return [word.replace("\0", "") for word in words]


def _make(rng: random.Random, folder: Path) -> Callable[[], Any]:
    arguments = _arguments(rng)
    shutil.copytree(FIXTURES / "run", folder / "run")
    (folder / "mine.yaml").write_bytes(recipes.text_of(rng))

    def case() -> None:
        os.chdir(folder)
        out, err = io.StringIO(), io.StringIO()
        away = Answer(1, "Unable to contact slurm controller", away=True)
        with (
            mock.patch.dict(os.environ, {"CLDCTL_RUNS": str(folder)}),
            mock.patch.object(client, "run", return_value=away),
            mock.patch.object(expected, "ask", return_value=lambda: None),
            mock.patch.object(plugins, "ask", return_value=plugins.Report(problem="nobody was asked", unknown=True)),
            mock.patch.object(app, "app", _parser()),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = app.run(arguments)
        said = err.getvalue()
        assert code in CODES, f"exit code {code} of {arguments!r}"
        assert "internal error" not in said, f"{arguments!r}: {said}"
        errors = [line for line in said.splitlines() if line.startswith("error:")]
        assert len(errors) <= 1, f"{arguments!r}: {said}"
        assert not errors or said.splitlines()[-1] == errors[0], f"{arguments!r}: it has several lines: {said}"
        assert not has_control((said + out.getvalue()).replace("\n", "").replace("\t", "")), f"{arguments!r}: {said!r}"

    return case


TARGET = Target("command_lines", _make, prepare=_prepare)
