"""`make demo`, with a training of a few steps: it ends with a picture, and what it prints to go on with works."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.tools import program

SMALL = "train.batch_size=16 train.steps=20 network.width=16 network.layers=2 eval.samples=16 eval.elbo.rtol=0.05"
# Whatever is submitted or resumed is small.
STUB = """#!/bin/sh
case $1 in
  submit) set -- "$@" {small};;
  resume) set -- resume "$2" train.steps=30 --follow;;
esac
exec {python} -m cldctl "$@"
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_and_every_command_that_it_prints(tmp_path):
    stub = program(tmp_path / "bin/cldctl", STUB.format(small=SMALL, python=shlex.quote(sys.executable)))
    environment = {
        **os.environ,
        "PATH": f"{stub.parent}:{os.environ['PATH']}",
        "CLDCTL_RUNS": str(tmp_path / "runs"),
        "OMP_NUM_THREADS": "1",
    }

    def shell(command):
        return subprocess.run(
            command, shell=True, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=1200
        ).stdout

    said = shell("bash benchmarks/demo.sh").splitlines()
    (picture,) = [line.rpartition(" ")[2] for line in said if line.startswith("Done.")]
    assert Path(picture).read_bytes().startswith(b"\x89PNG")
    (export,) = [line for line in said if line.strip().startswith("export ")]
    nexts = [line.strip() for line in said if line.startswith("  cldctl ")]
    # What a line does is told behind its command, after at least two spaces.
    commands = [line.partition("  ")[0].strip() for line in nexts]
    assert len(commands) >= 6
    # It stays until somebody ends it.
    assert commands[-1].startswith("cldctl board demo-")
    for command in commands[:-1]:
        shell(f"{export} && {command}")
