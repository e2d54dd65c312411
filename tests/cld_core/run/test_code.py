"""The manifest of a run's code, the code that a process runs, and the version of a driver."""

import json

import pytest
import torch

from cld_core.digests import digest
from cld_core.run import code
from cld_core.train import session

FILES = {"cld_core/a.py": "a" * 64}
PLUGIN = {"path": "/x/ring.py", "file": "plugins/1/ring.py", "sha256": "c" * 64}


def manifest(tmp_path, **changes):
    content = {"kind": "copy", "files": FILES, "digest": digest(FILES), "plugins": [], **changes}
    (tmp_path / code.MANIFEST).write_text(json.dumps(content))
    return code.read(tmp_path)


def test_a_manifest(tmp_path):
    found = manifest(tmp_path, commit="abc", dirty=True)
    assert (found.kind, found.files, found.code) == ("copy", FILES, digest(FILES))
    assert (found.commit, found.dirty) == ("abc", True)


def listing(name):
    files = {name: "a" * 64}
    return {"files": files, "digest": digest(files)}


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "other"},
        {"digest": "b" * 64},
        {"files": []},
        listing("../a.py"),
        listing("/a.py"),
        {"plugins": [{**PLUGIN, "file": "../ring.py"}]},
        {"plugins": [{"path": 3}]},
        {"plugins": [PLUGIN, "x"]},
    ],
)
def test_a_damaged_manifest_is_none(tmp_path, changes):
    assert manifest(tmp_path, **changes) is None


def test_a_plugin_is_part_of_the_code(tmp_path):
    assert manifest(tmp_path, plugins=[PLUGIN]).code != manifest(tmp_path).code == digest(FILES)


def test_the_code_of_a_checkout_is_live_and_has_a_digest(tmp_path, monkeypatch):
    monkeypatch.setattr(code, "installed", lambda: None)
    kind, found = code.running(tmp_path).split()
    assert (kind, len(found)) == ("live", 64)


NVIDIA = "NVRM version: NVIDIA UNIX"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (f"{NVIDIA} x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 2023\n", "535.104.05"),
        (f"{NVIDIA} Open Kernel Module for x86_64  550.54  Release Build  (dvs)\n", "550.54"),
        ("something else\n", None),
    ],
)
def test_the_version_of_a_driver(tmp_path, text, version):
    file = tmp_path / "version"
    assert session.driver(torch.device("cuda"), file) is None
    file.write_text(text)
    assert session.driver(torch.device("cuda"), file) == version
    assert session.driver(torch.device("cpu"), file) is None
