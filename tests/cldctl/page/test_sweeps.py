"""Sweeps as curves with error bars."""

from cldctl.page import sweeps
from cldctl.runs.status import status_of
from cldctl.runs.survey import Answers
from tests.support.reported import everything


def test_a_line_for_each_choice_on_the_first_axis(tmp_path):
    run = everything(tmp_path / "mine", points=2)
    (shown,) = sweeps.shown(run, status_of(run, Answers({})))
    assert shown.title == "Sweep over eval.elbo.velocities and eval.elbo.probes"
    assert shown.progress.endswith("6 of 6 evaluations are complete")
    (chart,) = shown.charts
    assert chart.x_label == "eval.elbo.probes"
    assert [(drawn.line.label, len(drawn.bars), drawn.line.series) for drawn in chart.lines] == [
        ("velocities 1", 3, 0),
        ("velocities 4", 3, 1),
    ]
    assert [tick.label for tick in chart.x_ticks] == ["1", "2", "8"]
    assert chart.lines[0].data.startswith("0,-1.2,0.04 0.301029996,-1.15,0.04")
    assert shown.table.rows[0] == ["1", "1", "-1.200 ± 0.040", "312"]
