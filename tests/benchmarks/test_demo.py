"""`make demo`, with a training of a few steps: it ends with a picture, and what it prints to go on
with works."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.tools import invoke, program

SMALL = (
    "train.batch_size=16 train.steps=20 network.width=16 network.layers=2 eval.samples=16 "
    "eval.elbo.rtol=0.05"
)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_and_every_command_that_it_prints(tmp_path):
    # Whatever is submitted is small.
    small = f'if [ $1 = submit ]; then set -- "$@" {SMALL}; fi'
    stub = program(
        tmp_path / "bin/cldctl",
        f'#!/bin/sh\n{small}\nexec {shlex.quote(sys.executable)} -m cldctl "$@"\n',
    )
    runs = tmp_path / "runs"
    environment = {
        "PATH": f"{stub.parent}:{os.environ['PATH']}",
        "CLDCTL_RUNS": str(runs),
        "OMP_NUM_THREADS": "1",
    }
    demo = subprocess.run(
        ["bash", "benchmarks/demo.sh"],
        cwd=ROOT,
        env=os.environ | environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=1200,
    )
    said = demo.stdout.splitlines()
    (picture,) = [line.rpartition(" ")[2] for line in said if line.startswith("Done.")]
    assert Path(picture).read_bytes().startswith(b"\x89PNG")
    (export,) = [line.split() for line in said if line.strip().startswith("export ")]
    assert export[1:] == [f'PATH="{stub.parent}:$PATH"', f'CLDCTL_RUNS="{runs}"']
    # What a line does is told behind its command, after at least two spaces.
    commands = [
        line.strip().partition("  ")[0].split()[1:] for line in said if line.startswith("  cldctl ")
    ]
    assert len(commands) >= 6
    # It stays until somebody ends it.
    assert commands.pop()[:1] == ["board"]
    for command in commands:
        more = {"submit": SMALL.split(), "resume": ["train.steps=30"]}.get(command[0], [])
        invoke(*command, *more, runs=runs)
