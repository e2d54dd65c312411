"""The folder in which statistics are computed: it says what jobs compute, and import."""

import os
import stat
from pathlib import Path

import pytest

from cld_core.errors import CldError
from cld_core.evaluation.stats_work import Statistics, StatsRequest
from cld_core.ranks import Ranks
from tests.support.other_users import give_away, needs_root


def asked_for(run, folder: Path) -> StatsRequest:
    return StatsRequest.of(run.recipe(), folder / "s.npz", features=False, shards=1)


def test_nobody_else_looks_into_it_whatever_the_umask(run, tmp_path):
    before = os.umask(0o002)
    try:
        folder = asked_for(run, tmp_path).save()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        folder.chmod(0o2775)
        assert asked_for(run, tmp_path).save() == folder
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o2700
    assert Statistics(folder).compute(Ranks())


@needs_root
def test_one_that_somebody_else_has_made(run, tmp_path):
    request = asked_for(run, tmp_path)
    request.folder.mkdir()
    give_away(request.folder)
    with pytest.raises(CldError, match=r"s\.npz\.partial: it belongs to user 65534, and jobs would compute"):
        request.save()
    assert not list(request.folder.iterdir())


@needs_root
def test_one_that_is_exchanged_after_the_submission(run, tmp_path):
    """The request in it names a plug-in, which jobs import."""
    folder = asked_for(run, tmp_path).save()
    give_away(folder)
    with pytest.raises(CldError, match="it belongs to user 65534"):
        Statistics(folder).compute(Ranks())


def test_a_link_or_a_file_in_its_place(run, tmp_path):
    request = asked_for(run, tmp_path)
    (tmp_path / "other").mkdir()
    request.folder.symlink_to("other")
    with pytest.raises(CldError, match=r"s\.npz\.partial: it is a symbolic link"):
        request.save()
    request.folder.unlink()
    request.folder.touch()
    with pytest.raises(CldError, match=r"s\.npz\.partial: the folder cannot be made \(Not a directory\).*with -o"):
        request.save()
