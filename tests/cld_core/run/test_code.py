"""The manifest of a run's code, read from folders that anybody may have made, and what a process
says that it runs."""

import json

import torch

from cld_core.digests import digest
from cld_core.run import code
from cld_core.train import session

FILES = {"cld_core/a.py": "a" * 64}


def manifest(tmp_path, **changes):
    content = {"kind": "copy", "files": FILES, "digest": digest(FILES), "plugins": [], **changes}
    (tmp_path / code.MANIFEST).write_text(json.dumps(content))
    return code.read(tmp_path)


def test_a_manifest(tmp_path):
    it = manifest(tmp_path, commit="abc", dirty=True)
    assert (it.kind, it.files, it.code, it.commit, it.dirty) == (
        "copy",
        FILES,
        digest(FILES),
        "abc",
        True,
    )


def test_a_damaged_manifest_is_none(tmp_path):
    outside = [
        {"files": files, "digest": digest(files)}
        for files in ({"../a.py": "a" * 64}, {"/a.py": "a" * 64})
    ]
    for changes in ({"kind": "other"}, {"digest": "b" * 64}, {"files": []}, *outside):
        assert manifest(tmp_path, **changes) is None


def test_plugins_outside_of_the_folder_are_damage(tmp_path):
    inside = {"path": "/x/ring.py", "file": "plugins/1/ring.py", "sha256": "c" * 64}
    it = manifest(tmp_path, plugins=[inside])
    assert it.code not in (digest(FILES), manifest(tmp_path).code), "a plug-in is part of the code"
    for other in ({**inside, "file": "../ring.py"}, {"path": 3}, "x"):
        assert manifest(tmp_path, plugins=[inside, other]) is None


def test_a_checkout_says_that_it_is_live_and_what_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(code, "installed", lambda: None)
    kind, told = code.running(tmp_path).split()
    assert (kind, len(told)) == ("live", 64)


def test_the_version_of_a_driver(tmp_path):
    file = tmp_path / "version"
    for text, version in (
        (
            (
                "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 "
                "01:15:15 UTC "
                "2023\nGCC"
            ),
            "535.104.05",
        ),
        (
            (
                "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54  Release Build  "
                "(dvs)\n"
            ),
            "550.54",
        ),
        ("something else\n", None),
    ):
        file.write_text(text)
        assert session.driver(torch.device("cuda"), file) == version
    assert session.driver(torch.device("cuda"), tmp_path / "missing") is None
    assert session.driver(torch.device("cpu"), file) is None
