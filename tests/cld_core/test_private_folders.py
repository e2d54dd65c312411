"""Folders that nobody else can write into."""

import os
import stat
from pathlib import Path

import pytest

from cld_core import ownership
from cld_core.errors import CldError
from tests.support.other_users import NOBODY, give_away, needs_root

WHY = "it would run"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_folder_is_made_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        ownership.make_private(tmp_path / "a" / "b", WHY)
        ownership.make_private(tmp_path / "hidden", WHY, hidden=True)
    finally:
        os.umask(before)
    assert (mode(tmp_path / "a" / "b"), mode(tmp_path / "hidden")) == (0o755, 0o700)
    ownership.require_private(tmp_path / "a" / "b", WHY)


def test_what_a_umask_gave_the_group_is_taken_away_and_the_setgid_bit_stays(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    folder.chmod(0o2777)
    assert ownership.can_be_private(folder)
    ownership.make_private(folder, WHY)
    assert mode(folder) == 0o2755
    ownership.make_private(folder, WHY, hidden=True)
    assert mode(folder) == 0o2700


def test_links_and_files_are_not_folders(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        assert not ownership.can_be_private(tmp_path / name)
        with pytest.raises(NotADirectoryError):
            ownership.make_private(tmp_path / name, WHY)
    with pytest.raises(CldError, match=r"link: it is a symbolic link, and it would run\. Remove it"):
        ownership.require_private(tmp_path / "link", WHY)
    assert ownership.can_be_private(tmp_path / "not" / "there")


@needs_root
def test_what_others_own(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "planted").symlink_to("/etc/hostname")
    give_away(tmp_path / "theirs", tmp_path / "ours" / "planted")
    for name, problem in (("theirs", "it belongs to"), ("ours", "planted in it belongs to")):
        assert not ownership.can_be_private(tmp_path / name)
        with pytest.raises(CldError, match=f"{name}: {problem} user {NOBODY}, and it would run"):
            ownership.make_private(tmp_path / name, WHY)
