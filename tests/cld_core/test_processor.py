"""Threads that wait for others soon sleep in whatever computes, unless somebody has chosen otherwise."""

import os
import subprocess
import sys

import pytest

_SCRIPT = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("torch is loaded under", os.environ.get("GOMP_SPINCOUNT"))

sys.meta_path.insert(0, Watch())
{}
import torch
"""
MAINS = {
    "command": "from cldctl.app import main\nsys.argv = ['cldctl', '--version']\ntry: main()\nexcept SystemExit: pass",
    "job": "from cldctl.clusters.entry import main\ntry: main(['nowhere'])\nexcept RuntimeError: pass",
    "training": "from cld_core.train.__main__ import main\nsys.argv = ['train', 'nowhere']\nmain()",
}


def spins(main: str, env: dict[str, str]) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    words = [sys.executable, "-P", "-c", _SCRIPT.format(main)]
    done = subprocess.run(words, env=clean | env, capture_output=True, text=True, check=True)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("torch is loaded under"))
    return line.split()[-1]


@pytest.mark.parametrize("main", MAINS.values(), ids=MAINS)
def test_they_wait_briefly(main):
    assert spins(main, {}) == "1000"
