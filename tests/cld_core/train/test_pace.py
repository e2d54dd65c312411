"""Ranks' own times of a step: who is slow, and that nobody is said to be slow for one hiccup."""

from cld_core.config import load
from cld_core.ranks import Ranks
from cld_core.run import RunFolder
from cld_core.run.events import Started
from cld_core.run.history import History
from cld_core.train import pace
from cld_core.train.monitoring import Monitor
from cld_core.train.pace import IN_A_ROW, Pace, Stragglers
from tests.support.clock import Clock
from tests.support.paths import RECIPES


def of(*hosts: str) -> Stragglers:
    return Stragglers(Ranks(world_size=len(hosts)), "n1", hosts)


def test_the_slowest_rank_is_in_the_log():
    line, warning = of("n1", "n2", "n3").judge([0.12, 0.1, 0.18])
    assert line == "own step time: median 120 ms, slowest rank 2 on n3 180 ms (1.5x), fastest 100 ms"
    assert warning is None, "once is no pattern"


def test_a_rank_that_is_slow_several_times_in_a_row_is_named():
    ranks = of("n1", "n2", "n3")
    said = [ranks.judge([0.1, 0.1, 0.15])[1] for _ in range(IN_A_ROW)]
    assert said == [None] * (IN_A_ROW - 1) + ["rank 2 on n3 is slow: 1.5 times the median"]
    assert ranks.judge([0.1, 0.1, 0.1])[1] is None
    assert ranks.judge([0.1, 0.1, 0.15])[1] is None, "it begins again"


def test_the_median_of_a_ranks_own_times(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    times = Pace(Ranks(world_size=2))
    for seconds in (0.1, 0.2, 5.0):
        times.begin()
        clock.sleep(seconds)
        times.end()
        clock.sleep(1.0)
    assert abs(times.take() - 0.2) < 1e-6
    assert times.take() == 0.0


def test_a_single_rank_measures_and_says_nothing():
    times = Pace(Ranks())
    times.begin()
    times.end()
    assert Stragglers(Ranks(), "n1").compare(times) == (None, None)


def test_the_warning_is_part_of_the_progress_and_of_the_attempt(tmp_path, capsys):
    run = RunFolder.create(tmp_path / "mine", load(RECIPES / "toy.yaml"), {"created": 1.0})
    monitor = Monitor(run, attempt=0, first_step=0, steps=10, may_write=lambda: True)
    monitor.warn("own step time: ...", "rank 2 on n3 is slow")
    monitor.warn("own step time: ...", "rank 2 on n3 is slow")
    monitor.write(5)
    assert capsys.readouterr().out.count("warning: rank 2 on n3 is slow") == 1
    history = History.of([Started(attempt=0, job_id="7", step=0)]).with_progress(run.progress())
    assert history.attempts[0].warning == "rank 2 on n3 is slow"
    monitor.warn("own step time: ...", None)
    monitor.write(6)
    monitor.close()
    assert "warning" not in run.progress()
