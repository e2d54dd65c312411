"""Functions in a fork of another user than root, who may read and write everything."""

import functools
import importlib
import json
import os
import pkgutil
import tempfile
import traceback
from pathlib import Path

import pytest

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@functools.cache
def load_all():
    """Import what commands import late: another user may be unable to read Python's own folder."""
    import zoneinfo

    import cld_core
    import cldctl

    assert zoneinfo
    for package in (cldctl, cld_core):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


def as_user(function, *, uid=NOBODY, gid=NOBODY):
    """The result of ``function``, JSON, in a fork of another user; its error is raised here."""
    load_all()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(())
            os.setgid(gid)
            os.setuid(uid)
            said = {"value": function()}
        except BaseException:
            said = {"error": traceback.format_exc()}
        os.write(writing, json.dumps(said).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        content = pipe.read()
    os.waitpid(child, 0)
    answer = json.loads(content)
    assert "error" not in answer, answer["error"]
    return answer["value"]


def give_away(*paths, uid=NOBODY, gid=NOBODY):
    """Let these files and folders, without what is in them, belong to another user."""
    for path in paths:
        os.chown(path, uid, gid, follow_symlinks=False)


def give(path, uid=NOBODY, gid=NOBODY):
    """Let a folder, with all that is in it, belong to another user."""
    give_away(path, *path.rglob("*"), uid=uid, gid=gid)
    return path


@pytest.fixture
def open_folder():
    """A folder that every user may enter, unlike pytest's tmp_path, and may make runs in."""
    with tempfile.TemporaryDirectory(prefix="cldctl-users-") as name:
        Path(name).chmod(0o1777)
        yield Path(name)
