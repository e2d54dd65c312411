"""What a processor computes in itself; threads that wait for others soon sleep, unless somebody
chose otherwise."""

import os
import subprocess
import sys

import pytest

from cld_core import cpu

_SCRIPT = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Watch())
{}
import torch
"""
MAINS = {
    "command": (
        "from cldctl.app import main\nsys.argv = ['cldctl', '--version']\ntry: "
        "main()\nexcept SystemExit: pass"
    ),
    "job": "from cldctl.clusters import base, debug\n"
    "try: base.Task(print, debug.DebugCluster())()\nexcept NotImplementedError: pass",
    "training": "from cld_core.train.__main__ import main\nsys.argv = ['train', 'nowhere']\nmain()",
}


@pytest.mark.parametrize("main", MAINS.values(), ids=MAINS)
def test_they_wait_briefly(main):
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    words = [sys.executable, "-P", "-c", _SCRIPT.format(main)]
    done = subprocess.run(words, env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "1000", "what torch would be loaded under"


@pytest.mark.parametrize(
    ("machine", "line", "emulated"),
    [
        ("x86_64", "flags\t\t: fpu avx2 f16c", ["bf16", "fp16"]),
        ("x86_64", "flags\t\t: avx512f avx512_bf16", ["fp16"]),
        ("x86_64", "flags\t\t: avx512_fp16 amx_bf16", []),
        ("aarch64", "Features\t: fp asimd asimdhp", ["bf16"]),
        ("aarch64", "Features\t: fp asimd bf16 asimdhp", []),
        ("x86_64", "", []),
    ],
)
def test_precisions_that_a_processor_emulates(tmp_path, monkeypatch, machine, line, emulated):
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\n{line}\n")
    monkeypatch.setattr(cpu, "_INFORMATION", file)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert [name for name in ("fp32", "bf16", "fp16") if cpu.emulates(name)] == emulated
