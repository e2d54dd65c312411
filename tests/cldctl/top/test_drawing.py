"""Lines of text: what fits, what is shortened first, time lines, orders."""

import dataclasses
from pathlib import Path

import pytest
from rich.cells import cell_len

from cld_core.run.attempt import Attempt
from cld_core.run.events import CAUSES
from cld_core.run.timeline import Stretch
from cldctl.runs.state import STATES
from cldctl.runs.status import RunStatus
from cldctl.show.format import shortened
from cldctl.show.tables import state_text
from cldctl.top.arrange import FILTERS, GroupLine, RunLine, arranged, counts, matching
from cldctl.top.detail import Detail
from cldctl.top.fitting import cut, cut_in_the_middle, left, right, wrapped
from cldctl.top.keys import key_line
from cldctl.top.lines import heading, layout, run_line
from cldctl.top.panel import of_run
from cldctl.top.questions import MARKS
from cldctl.top.timeline import LETTERS, style_of, time_line
from cldctl.top.top_line import top_line


def row(name="mine", state="RUNNING", **more):
    return RunStatus(name=name, path=f"/runs/{name}", state=state, **more)


ALL = {"step": 398_200, "steps": 800_000, "loss": 0.41372, "steps_per_s": 5.213, "eta_s": 77_000.0}


def test_names_are_shortened_in_the_middle_and_texts_at_the_end():
    for name in ("toy-20261126-101112-ab12", "celeba-cld-lr1e-3-seed0"):
        assert cut_in_the_middle(name, 14) == shortened(name, 14)
    assert cut_in_the_middle("short", 14) == "short"
    assert cut("a long text", 6) == "a lon…"
    assert cut("anything", 0) == cut_in_the_middle("anything", 0) == ""
    assert cut("漢字漢字", 5) == "漢字…"
    for width in range(1, 12):
        for text in ("漢字漢字漢字", "abcdefghijkl", "a\x1b[31mb"):
            assert cell_len(cut_in_the_middle(text, width)) <= width
            assert cell_len(left(text, width)) == cell_len(right(text, width)) == width


def test_texts_are_wrapped_between_words():
    assert wrapped("one two three", 7, 9) == ["one two", "three"]
    assert wrapped("one two three", 7, 1) == ["one tw…"]
    assert wrapped("abcdefghij", 4, 9) == ["abcd", "efgh", "ij"]
    assert wrapped("", 4, 9) == []
    assert wrapped("two\nlines\x1b[0m", 20, 9) == ["two lines"]


def test_the_loss_is_the_smoothed_one():
    smooth, old = row(**ALL, smoothed_loss=0.25), row(**ALL)
    shape = layout([smooth], 80)
    texts = [run_line(it, shape, [], is_member=False, is_chosen=False).plain for it in (smooth, old)]
    assert [" 0.25 " in text for text in texts] == [True, False]
    assert [" 0.4137 " in text for text in texts] == [False, True]
    (line,) = (line.plain for line in of_run(Detail(row=smooth), [2.0, 1.0], 80) if line.plain.startswith("loss"))
    assert line.split()[-3:] == ["0.25", "from", "2"]


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (200, ["state", "step", "curve", "loss", "steps/s", "ETA"]),
        (80, ["state", "step", "curve", "loss", "steps/s", "ETA"]),
        (70, ["state", "step", "curve", "loss", "ETA"]),
        (60, ["state", "step", "loss", "ETA"]),
        (45, ["state", "step", "ETA"]),
        (32, ["state", "ETA"]),
        (26, ["state"]),
    ],
)
def test_what_fits(width, columns):
    """The name gives way first, down to 12 columns; the ETA goes last."""
    rows = [row("toy-20261126-101112-ab12-long", **ALL), row("b", "PENDING", reason="Priority")]
    shape = layout(rows, width)
    assert list(shape.widths) == columns
    for line in (heading(shape), *(run_line(it, shape, [1.0, 2.0], is_member=False, is_chosen=False) for it in rows)):
        assert line.cell_len <= width
    if "ETA" in columns:
        assert (
            run_line(rows[0], shape, [], is_member=False, is_chosen=False).plain[:width].rstrip().split()[-1]
            == "21h23m"
        )


def test_there_is_room_for_reasons_only_if_names_are_whole():
    rows = [row("x" * 30, "FAILED", reason="it broke")]
    assert layout(rows, 100).why == 0
    assert layout(rows, 100).name == 30
    assert layout(rows, 120).why > 16
    assert "it broke" in run_line(rows[0], layout(rows, 120), [], is_member=True, is_chosen=True).plain


@pytest.mark.parametrize("state", STATES)
def test_states_have_the_colours_of_status(state):
    rows = [row(state=state, **ALL)]
    line = run_line(rows[0], layout(rows, 80), [], is_member=False, is_chosen=False)
    start = line.plain.index(state)
    wanted = state_text(state)
    assert [span.style for span in line.spans if span.start <= start < span.end] == [wanted.style]


def stretch(number, queued, began, started, until, cause):
    attempt = Attempt(attempt=number, job_id="1", started=started, first_step=0, ended=until, cause=cause)
    return Stretch(attempt=attempt, queued=queued, began=began, until=until, kept=1, lost=0, set_aside=0)


def test_a_time_line_has_the_scale_of_time_and_the_colours_of_causes():
    attempts = [stretch(0, 0, 10, 20, 50, "preempted"), stretch(1, 60, 70, 70, 100, "crashed")]
    line, ends, legend = time_line(attempts, 10, alive=False)
    assert line.cell_len == 10
    assert [line.plain[place] for place in (0, 1, 3, 5, 6, 9)] == ["░", "▒", "█", "P", "░", "X"]
    styles = {line.plain[span.start]: span.style for span in line.spans}
    assert styles["P"] == "reverse yellow"
    assert styles["X"] == "reverse bold red"
    assert legend.plain.startswith("2 attempts: P preempted  X crashed")
    assert ends.cell_len == 10


def test_an_attempt_that_trains_ends_in_an_arrow_and_one_without_an_end_in_a_question():
    attempts = [stretch(0, 0, 0, 0, 50, "preempted"), stretch(1, 50, 50, 50, 100, None)]
    assert time_line(attempts, 20, alive=True)[0].plain[-1] == "▶"
    assert time_line(attempts, 20, alive=False)[0].plain[-1] == "?"
    assert time_line([], 20, alive=False) == []
    assert time_line(attempts, 1, alive=True) == []


def test_short_attempts_among_long_ones_are_seen():
    attempts = [stretch(0, 0, 0, 0, 1e6, "preempted"), stretch(1, 1e6, 1e6, 1e6, 1e6 + 1, "killed")]
    assert time_line(attempts, 30, alive=False)[0].plain[-1] == "K"


def test_every_cause_has_a_letter_of_its_own_and_a_colour():
    assert set(LETTERS) == set(CAUSES)
    assert len(set(LETTERS.values())) == len(CAUSES)
    explained = [mark for marks, _ in MARKS for mark in marks.split()]
    assert {*LETTERS.values(), "▶", "?"} <= set(explained)
    assert all(map(style_of, CAUSES))
    assert style_of(None) == "bold red"
    assert style_of(None, alive=True) == "bold green"


def test_alive_runs_come_first_then_the_newest():
    rows = [row("old", "RUNNING", created=1.0), row("new", "FAILED", created=9.0), row("mid", "PENDING", created=5.0)]
    assert [line.key[1] for line in arranged(rows)] == ["mid", "old", "new"]


def test_runs_of_a_group_stay_together_and_are_folded_when_they_are_over():
    over = [row(f"g{number}", "FINISHED", group="g", created=2.0) for number in range(3)]
    rows = [row("x", "FINISHED", created=1.0), *over, row("alone", "FAILED", group="h", created=3.0)]
    assert [line.key for line in arranged(rows)] == [("run", "alone"), ("group", "g"), ("run", "x")]
    unfolded = arranged(rows, {"g"})
    assert [line.key[1] for line in unfolded] == ["alone", "g", "g0", "g1", "g2", "x"]
    rows[1] = dataclasses.replace(rows[1], state="RUNNING")
    lines = arranged(rows)
    assert [line.key[1] for line in lines] == ["g", "g0", "g1", "g2", "alone", "x"]
    assert isinstance(lines[0], GroupLine)
    assert lines[0].is_alive
    assert isinstance(lines[1], RunLine)
    assert lines[1].is_member


def test_filters():
    rows = [row("a", state, tags=["t"], note="a Note") for state in STATES]
    for key, (_, states) in FILTERS.items():
        assert [it.state for it in matching(rows, key, "")] == [it for it in STATES if it in states or not states]
    assert {state for _, states in FILTERS.values() for state in states} == set(STATES)
    assert len(matching(rows, "0", "NOTE t")) == len(STATES)
    assert [it.state for it in matching(rows, "0", "pend note")] == ["PENDING"]
    assert matching(rows, "1", "nobody") == []
    assert dict(counts(rows)) == dict.fromkeys(STATES, 1)


def test_the_first_line_has_whole_words():
    root, rows = Path("/home/ada/runs"), [row(state=state) for state in STATES]
    whole = "1 RUNNING  1 REQUEUED  1 PENDING  1 FAILED  1 LOST  1 STOPPED  1 CANCELLED  1 FINISHED"
    assert top_line(root, rows, "", 200).plain == f"/home/ada/runs  {whole}"
    for width in range(20, 120):
        for only in ("", "failed"):
            line = top_line(root, rows, only, width).plain
            assert cell_len(line) <= width
            words = line.removesuffix(f"only {only}").split()
            assert all(word in (*STATES, "1", "…") or word.startswith("/ho") for word in words), line


def test_keys_are_whole_or_left_out():
    keys, always = [("r", "resume"), ("c", "cancel")], [("q", "quit")]
    assert key_line(keys, always, 80).plain == "r resume  c cancel  q quit"
    assert key_line(keys, always, 26).plain == "r resume  c cancel  q quit"
    assert key_line(keys, always, 25).plain == "r resume  q quit"
    assert key_line(keys, always, 3).plain == "q quit"


@pytest.mark.parametrize("group", [None, "celeba"])
@pytest.mark.parametrize("width", [200, 80, 60, 40])
def test_names_of_a_sweep_stay_distinct(width, group):
    names = [f"celeba-ncsnpp-cld-lr{rate}e-3-batch128-seed0" for rate in range(1, 6)]
    rows = [row(name, **ALL, group=group) for name in names]
    shape = layout(rows, width)
    lines = [run_line(it, shape, [], is_member=group is not None, is_chosen=False).plain for it in rows]
    assert len({line[: shape.name + 2] for line in lines}) == (len(names) if width > 40 else 1)
    assert all(cell_len(line) <= width for line in lines)
