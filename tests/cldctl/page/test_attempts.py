"""The time line of attempts."""

from cldctl.page import attempts
from cldctl.runs import usage
from tests.support.reported import everything


def told(run):
    return usage.told_by(run.ledger.history(), run.progress(), run.checkpoint_steps(), alive=False).attempts


def test_bars_are_where_the_time_went(tmp_path):
    line = attempts.time_line(told(everything(tmp_path / "mine", points=2)), alive=False)
    assert [bar.kind for bar in line.bars] == [
        *("waiting", "starting", "preempted", "waiting", "starting", "node_failure"),
        *("waiting", "starting", "out_of_memory", "waiting", "starting", "finished"),
    ]
    scale = attempts.WIDTH / (15_000 + 900 + 4_000)
    first_wait, first_start, first = line.bars[:3]
    assert (first_wait.x, round(first_wait.width, 3)) == (0.0, round(900 * scale, 3))
    assert round(first_start.x, 3) == round(900 * scale, 3)
    assert round(first.x + first.width, 3) == round(4_900 * scale, 3)
    assert all(bar.x >= 0 and bar.x + bar.width <= attempts.WIDTH + 1e-9 for bar in line.bars)
    assert line.kinds == [
        ("waiting", "waiting"),
        ("starting", "starting"),
        ("finished", "finished"),
        ("preempted", "preempted"),
        ("node_failure", "node failure"),
        ("out_of_memory", "out of memory"),
    ]
    assert "attempt 1, steps 2,000 to 4,000" in line.bars[5].about


def test_what_still_trains_is_running(tmp_path):
    stretches = told(everything(tmp_path / "mine", points=2))
    assert attempts.time_line(stretches, alive=True).bars[-1].kind == "running"
    assert attempts.time_line([], alive=False) is None
    assert attempts.table([]) is None
