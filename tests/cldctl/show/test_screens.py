"""Short terminals: a run that trains is never hidden, and what does not fit is counted."""

import pytest

from cldctl.show.groups import details_with_groups, overview_with_groups
from cldctl.show.screens import most_that_fit
from tests.support.screen import every_state, row, screen

HEIGHTS = pytest.mark.parametrize("height", [10, 24])


def old(number: int):
    return [row(f"old-{place:02d}", "FINISHED") for place in range(number)]


@HEIGHTS
def test_runs_that_train_come_first(monkeypatch, height):
    training = [row(f"live-{n}") for n in range(3)]
    rows = [training[0], *old(30), training[1], *old(5), training[2], *old(9)]
    lines = screen(monkeypatch, 80, height)(most_that_fit(rows, height))
    assert len(lines) < height, "one line is the cursor's"
    names = [line.split()[0] for line in lines[2:-1]]
    assert names[:3] == ["live-0", "live-1", "live-2"]
    assert lines[-1].startswith(f"… and {len(rows) - len(names)} more: ")


@HEIGHTS
@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_runs_of_every_state(monkeypatch, width, height):
    rows = [*every_state(), *old(40)]
    lines = screen(monkeypatch, width, height)(most_that_fit(rows, height))
    assert len(lines) < height
    assert [line.split()[1] for line in lines[2:5]] == ["PENDING", "REQUEUED", "RUNNING"], "alive, in their order"
    assert max(map(len, lines)) <= width
    assert f"and {48 - (len(lines) - 3)} more" in lines[-1]


def test_more_runs_train_than_there_are_lines(monkeypatch):
    lines = screen(monkeypatch, 80, 10)(most_that_fit([row(f"live-{n}") for n in range(20)], 10))
    assert len(lines) < 10
    assert "live-19" in lines[-2]
    assert lines[-1].startswith(f"… and {20 - (len(lines) - 3)} more ({20 - (len(lines) - 3)} RUNNING): ")


def test_who_asks_for_an_order_gets_it(monkeypatch):
    rows = [row("live"), *old(30)]
    lines = screen(monkeypatch, 80, 10)(most_that_fit(rows, 10, is_sorted=True))
    assert lines[2].split()[0] == "live"
    assert [line.split()[0] for line in lines[3:-1]] == [f"old-{place}" for place in range(30 - len(lines) + 4, 30)]


@HEIGHTS
def test_a_group_that_trains_is_shown_beside_runs(monkeypatch, height):
    groups = [row(f"{group}-{n}", "FINISHED", group=group) for group in "abcdefghi" for n in range(2)]
    rows = [*groups, row("live-0", group="live"), row("live-1", group="live"), *old(30), row("mine"), *old(30)]
    lines = screen(monkeypatch, 80, height)(overview_with_groups(rows, height))
    assert len(lines) < height
    text = "\n".join(lines)
    assert "mine" in text
    assert "2 RUNNING" in text
    assert "groups more" in lines[-1]
    everything = screen(monkeypatch, 80, 200)(overview_with_groups(rows, 200))
    assert "more" not in everything[-1]


@HEIGHTS
def test_the_runs_of_a_group(monkeypatch, height):
    rows = [row(f"g-{n:02d}", "FINISHED", group="g", sweep={"train.seed": str(n)}) for n in range(40)]
    rows[7] = row("g-07", group="g", sweep={"train.seed": "7"})
    lines = screen(monkeypatch, 80, height)(details_with_groups(rows, ["g"], height))
    assert len(lines) < height
    assert lines[0] == "group g  39 FINISHED, 1 RUNNING"
    assert lines[3].split()[:3] == ["g-07", "7", "RUNNING"]
    assert "more" in lines[-1]


def test_several_named_runs_share_a_short_screen(monkeypatch):
    rows = [*every_state(), row("mine")]
    lines = screen(monkeypatch, 80, 10)(details_with_groups(rows, [], 10))
    assert len(lines) < 10
    assert any(line.startswith("mine") for line in lines)
    assert len(screen(monkeypatch, 80, 10)(details_with_groups(rows[:1], [], 10))) > 9, "one run is shown whole"
