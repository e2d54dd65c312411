"""A kind of work that cldctl does not come with: one class, and one line in `KINDS`."""

import pytest

from cld_core.config.cluster import ClusterSpec
from cld_core.files import read_object
from cld_core.run.work import KINDS
from cldctl import clusters
from cldctl.cli.finish import wait
from cldctl.runs.follow import states_of
from cldctl.runs.start import PlannedWork, start
from tests.support.paths import ROOT
from tests.support.squares import Squares, SquaresRequest

LINE = tuple(f"tests.support.squares:{name}" for name in ("Squares", "SquaresTask.compute"))


@pytest.fixture
def known(tmp_path, monkeypatch):
    """The line in `KINDS`, here and in the processes of jobs."""
    monkeypatch.setitem(KINDS, "squares", LINE)
    line = f"from cld_core.run.work import KINDS\nKINDS['squares'] = {LINE}\n"
    (tmp_path / "sitecustomize.py").write_text(line)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")


@pytest.mark.usefixtures("known")
def test_it_is_started_followed_and_looked_at_like_the_others(tmp_path, capsys):
    request = SquaresRequest(n=22, batch_size=3, files={}).in_shards(2)
    size = ClusterSpec(tasks_per_node=2)

    def run_it():
        work = Squares(tmp_path / "work", request)
        started = start([PlannedWork(work=work, size=size)], clusters.find("local"))
        words = [planned.outcome for planned in started.works]
        assert wait(started, follow=True)
        return words

    assert run_it() == ["started"]
    assert read_object(tmp_path / "work" / "sum.json")["squares"] == sum(i * i for i in range(22))
    work = Squares(tmp_path / "work")
    assert [event.shards for event in work.history().submitted] == [(0,), (1,)]
    assert states_of([work]).states == ["FINISHED"]
    assert "squares FINISHED: 22/22 integers" in capsys.readouterr().err
    assert run_it() == ["already complete"]
