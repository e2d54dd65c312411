"""Tables of many widths: names get shorter, columns go, and nothing breaks inside a word."""

import re

import pytest

from cld_core.evaluation import registry
from cldctl.evals.compare import Column
from cldctl.runs.selection import in_order
from cldctl.show import details, follow, groups, tables
from cldctl.show.compared import compared
from cldctl.show.fitting import fitted
from tests.support.screen import STATES, evaluation, every_state, row, screen

WIDTHS = pytest.mark.parametrize("width", [60, 80, 100, 120], ids=str)
SENTENCE = "another rank is gone, killed or crashed; `cldctl logs --rank N` shows the last output of each"


def table(lines):
    """The rows below the heading of a table, in words."""
    return [line.split() for line in lines if line.strip() and "─" not in line][1:]


@WIDTHS
def test_every_run_has_its_line_with_state_step_and_eta(monkeypatch, width):
    lines = screen(monkeypatch, width)(tables.overview(every_state()))
    rows = table(lines)
    assert [words[1] for words in rows] == [*STATES], "a line each"
    assert max(map(len, lines)) <= width
    assert all(words[0].endswith(f"20{place:02d}-11{place:02x}") for place, words in enumerate(rows)), (
        "unique ends stay"
    )
    assert "59m23s" in rows[-1], "the ETA is the last thing to go"
    assert ("221" in rows[-1]) == (width >= 80), "80 columns have room for the rate, too"
    assert ("(2k" in rows[0]) == (width >= 100)
    assert ("NLL bound" in lines[1]) == (width >= 100), "the heading says what it is"


def test_names_are_whole_where_there_is_room(monkeypatch):
    rows = every_state()
    shown = screen(monkeypatch, 200)(tables.overview(rows))
    assert [words[0] for words in table(shown)] == [it.name for it in rows]
    assert shown[1].endswith("NLL bound")


def test_a_file_gets_everything(monkeypatch):
    rows = [row("n" * 120, job_id="1" * 80, tags=["t" * 90])]
    (words,) = table(screen(monkeypatch, 1000, terminal=False)(tables.overview(rows)))
    assert words[0] == "n" * 120
    assert words[-1] == "t" * 90


def test_columns_without_anything_go_first(monkeypatch):
    rows = [row("a" * 30, "FINISHED", evals=[evaluation()], checkpoint_step=None)]
    heads = screen(monkeypatch, 80)(tables.overview(rows))[1]
    assert "NLL bound" in heads
    assert not {"saved", "ETA", "steps/s"} & {*heads.split()}


def test_names_that_differ_in_the_middle_are_not_the_same(monkeypatch):
    rows = [row(f"{'x' * 12}-{letter}-{'y' * 12}") for letter in "abc"]
    shown = table(screen(monkeypatch, 80)(tables.overview(rows)))
    assert len({words[0] for words in shown}) == 3


@WIDTHS
def test_ids_and_messages_break_between_words(monkeypatch, width):
    it = row("mine", "FAILED", reason=f"it failed: {SENTENCE}")
    it.attempts[0]["detail"] = SENTENCE
    names = [f"fid-elbo-00800000-1f2e3d4c5b-{n}" for n in range(2)]
    it.evals.extend(evaluation(name, remarks=[SENTENCE]) for name in names)
    lines = screen(monkeypatch, width)(details.details([it]))
    assert max(map(len, lines)) <= width
    words = set(" ".join(lines).split())
    assert {*SENTENCE.split(), "nonfinite:"} <= words
    pieces = re.findall(r"[^-]+-?", names[0])
    assert names[0] in words or {*pieces} & words, "an id breaks after its dashes"
    assert {"2,000", "-0.393", "±", "0.012"} <= words


def test_a_word_that_is_longer_than_the_line_is_shortened(monkeypatch):
    shown = screen(monkeypatch, 40)(fitted({"a": ["x" * 20], "b": ["y" * 90]}, (), (), wraps="b"))
    assert "…" in shown[3]
    assert max(map(len, shown)) <= 40


def test_a_stopped_evaluation_does_not_hide_the_result_of_an_earlier_one():
    stopped = {"state": "STOPPED", "bpd": None, "nll": None, "fid": None, "shards_done": 0, "shards": 2, "results": {}}
    known = {**stopped, "state": "FINISHED", "nll": -0.393}
    assert tables._evaluation([known, stopped]) == "NLL bound -0.393"
    assert tables._evaluation([known, {**stopped, "state": "RUNNING"}]) == "0/2 shards"
    assert tables._evaluation([stopped]) == "-", "it was never started"
    assert tables._evaluation([{**stopped, "cause": "crashed"}]) == "0/2 crashed"
    assert tables._evaluation([known, {**stopped, "cause": "crashed"}]) == "NLL bound -0.393"


def test_results_of_another_number_of_examples_say_so():
    assert tables._evaluation([evaluation(n=2000), evaluation(n=100)]) == "NLL bound -0.393 (100 points)"
    nll = registry.quantity("nll")
    assert tables.result_of(evaluation(n=2000), nll, with_count=True) == "-0.393 ± 0.012 (2,000 points)"
    assert tables.result_of(evaluation(n=None), nll, with_count=True) == "-0.393 ± 0.012", "an old report does not tell"
    both = {"fid": {"value": 1.0, "stderr": None, "n": 50_000}, "nll": {"value": 1.0, "stderr": None, "n": 100}}
    assert tables.counts_of(evaluation(results=both)) == ["50,000 samples", "100 points"]


def test_results_of_several_kinds_are_labelled_each(monkeypatch):
    image = evaluation(nll=None, fid=2.25, results={"fid": {"value": 2.25, "stderr": None, "n": 50_000}})
    rows = [row("a", "FINISHED", evals=[evaluation()]), row("b", "FINISHED", evals=[image])]
    shown = "\n".join(screen(monkeypatch, 120)(tables.overview(rows)))
    for text in ("NLL bound -0.393 (2k points)", "FID 2.25 (50k samples)"):
        assert text in shown


def test_the_loss_is_the_same_wherever_there_is_room_for_one(monkeypatch):
    it = row("mine", "RUNNING", loss=0.5, smoothed_loss=0.25, phase="training", attempts=[])
    assert "loss 0.25" in follow.shown_of(it).facts
    for shown in (tables.overview([it]), groups.group_details("g", [it])):
        assert "0.25" in table(screen(monkeypatch, 200)(shown))[-1]
    assert "0.25 (smoothed), last 0.5" in " ".join(screen(monkeypatch, 100)(details.details([it])))
    older = row("older", "RUNNING", loss=0.5, smoothed_loss=None)
    assert "last loss 0.5" in " ".join(" ".join(screen(monkeypatch, 100)(details.details([older]))).split())
    assert [found.name for found in in_order([it, older], "loss")] == ["mine", "older"]
    assert it.to_dict()["loss"] == 0.5, "the field keeps its meaning"


@pytest.mark.parametrize("width", [40, 80, 100, 118, 140, 200], ids=str)
def test_numbers_are_whole(monkeypatch, width):
    results = {quantity.key: {"value": 3.14159, "stderr": 0.0123} for _, quantity in registry.quantities()}
    known = {"state": "FINISHED", "shards_done": 16, "shards": 16, "checkpoint_step": 800_000, "true_entropy": -1.4}
    shown = screen(monkeypatch, width, terminal=False)(
        details.evaluations([{"id": f"fid-kid-isc-prc-elbo-loss-{n}", "results": results} | known for n in "ab"])
    )
    assert max(map(len, shown)) <= width
    for number in ("800,000", "3.142 ± 0.012", "3.14159", "-1.400", "16/16"):
        assert "\n".join(shown).count(number) >= 2


def test_runs_side_by_side_have_names_that_break_after_dashes(monkeypatch):
    names = [f"toy_published-1125-10202{n}-115{n}" for n in range(3)]
    lines = screen(monkeypatch, 60)(compared([Column(name, 10, 100, {}) for name in names]))
    pieces = " ".join(lines).split()
    assert max(map(len, lines)) <= 60
    assert {"1150", "1151", "1152"} <= {piece.rpartition("-")[2] for piece in pieces}
    assert all(re.fullmatch(r"(?:[a-z0-9]+[-_])*[a-z0-9]*", piece) for piece in pieces if "toy" in piece)
