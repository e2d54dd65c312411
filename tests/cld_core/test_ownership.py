"""What others may have written is told from what they cannot have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cld_core.errors import CldError
from cld_core.ownership import is_mine, require_private

WHY = "a job would run what is in it"


def test_a_private_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o755)
    assert is_mine(folder)
    require_private(folder, WHY)


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777, 0o1777, 0o2775])
def test_others_may_write(mode: int, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(CldError, match=f"others may write into it .mode {mode:04o}., and {WHY}. Remove it"):
        require_private(folder, WHY)


def test_a_link_to_a_private_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "folder")
    with pytest.raises(CldError, match="symbolic link"):
        require_private(link, WHY)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_owner(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    assert not is_mine(folder)
    with pytest.raises(CldError, match="belongs to user 65534"):
        require_private(folder, WHY)
