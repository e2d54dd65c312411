"""The list of runs on the screen: every state, order, groups, filters, and what is damaged or gone."""

import dataclasses
import shutil
import threading

from cld_core.files import write_json
from cld_core.run import RunFolder
from cld_core.run.events import Noted, Tagged
from cldctl.clusters.slurm import client
from cldctl.runs import survey
from cldctl.runs.state import STATES
from cldctl.runs.status import RunStatus
from cldctl.top import app
from cldctl.top.app import RunTable, arranged
from tests.support import on_screen as made_up
from tests.support.piloted import Screen, on_screen


def row(name, state="RUNNING", **more):
    return RunStatus(name=name, path=f"/runs/{name}", state=state, **more)


def listed(screen: Screen) -> list[str]:
    return [line.name for line in screen.app._main.query_one(RunTable).lines]


def test_runs_of_a_group_stay_together_and_are_folded_when_they_are_over():
    over = [row(f"g{number}", "FINISHED", group="g", created=2.0) for number in range(2)]
    rows = [row("x", "FINISHED", created=1.0), *over, row("alone", "FAILED", group="h", created=3.0)]
    assert [line.name for line in arranged(rows)] == ["alone", "g", "x"]
    assert [line.name for line in arranged(rows, {"g"})] == ["alone", "g", "g0", "g1", "x"]
    rows[1] = dataclasses.replace(rows[1], state="RUNNING")
    assert [line.name for line in arranged(rows)] == ["g", "g0", "g1", "alone", "x"], "those that live come first"


def test_every_state_is_shown_with_its_progress_and_why_it_waits(fleet):
    async def look(screen: Screen) -> None:
        await screen.sees(*STATES, "2 RUNNING", str(fleet.root))
        await screen.until(lambda: any("k3fa" in line and "▇" in line for line in screen.lines))
        (line,) = [line for line in screen.lines if line.startswith(" celebahq-cld-1125-0911-k3fa")]
        assert {"RUNNING", "398.2k/800k", "0.4137", "5.21", "21h25m"} <= set(line.split())
        (line,) = [line for line in screen.lines if line.startswith(" celebahq-cld-1125-0101-lost")]
        assert {"LOST", "0.7"} <= set(line.split())
        assert any("PENDING" in line and "Priority" in line for line in screen.lines)

    on_screen(fleet.root, look, size=(160, 40))


def test_groups_fold_and_unfold(fleet):
    async def look(screen: Screen) -> None:
        await screen.select(made_up.GROUP)
        await screen.sees("1 RUNNING, 1 PENDING", "space folds it", "lr1e-4")
        await screen.press("space")
        await screen.until(lambda: "celeba-lr-lr1e-4" not in listed(screen))
        await screen.press("space", "down", "down", "space")
        await screen.until(lambda: "celeba-lr-lr1e-4" not in listed(screen))
        await screen.press("end", "space")
        await screen.sees("Select a group of runs")

    on_screen(fleet.root, look)


def test_keys_and_words_filter(fleet):
    async def look(screen: Screen) -> None:
        await screen.sees("FAILED")
        before = listed(screen)
        await screen.press("5")
        await screen.until(lambda: len(listed(screen)) == 3)
        await screen.press("slash", *"spirals", "enter")
        await screen.until(lambda: listed(screen) == ["toy-spirals-1126-0715-p2mm"])
        await screen.sees('only failed "spirals"')
        await screen.press("1")
        await screen.sees("no run matches the filter; esc clears it")
        await screen.press("escape")
        await screen.until(lambda: listed(screen) == before)

    on_screen(fleet.root, look)


def test_an_empty_folder_says_what_to_do(tmp_path):
    async def look(screen: Screen) -> None:
        await screen.sees("no runs in", "Start one: cldctl submit toy_demo")
        await screen.press("enter", "r", "c", "s", "o", "space", "down", "end")
        await screen.sees("There are no runs yet.")

    on_screen(tmp_path / "nothing", look)


def test_a_run_that_vanishes_leaves_its_place_to_the_next_one(tmp_path, fleet):
    async def look(screen: Screen) -> None:
        await screen.select("toy-spirals-1126-0715-p2mm")
        place = listed(screen).index("toy-spirals-1126-0715-p2mm")
        (fleet.root / "toy-spirals-1126-0715-p2mm").rename(tmp_path / "elsewhere")
        await screen.until(lambda: "toy-spirals-1126-0715-p2mm" not in listed(screen))
        assert screen.app._main.selected.name == listed(screen)[place]
        shutil.rmtree(fleet.root)
        await screen.sees("no runs in")

    on_screen(fleet.root, look)


def test_texts_of_others_steer_nothing(fleet):
    """Escape sequences, markup of rich and of textual, line breaks and wide characters."""
    run = RunFolder(fleet.root / "toy-spirals-1126-0715-p2mm")
    evil = "\x1b]0;owned\x07\x1b[31mred\x1b[0m [bold red]markup[/] [@click=app.quit]x[/]\nsecond\u202eline 漢字漢字"
    write_json(run.identity_file, {**run.identity(), "user": evil})
    fleet.events(run, (1.0, Noted, {"note": evil}), (1.0, Tagged, {"add": ("[red]tag",)}))
    text = run.ledger.path.read_text()
    run.ledger.path.write_text(text.replace("spiral arms must be odd", r"\u001b[2J[bold]spiral\u0007[/nothing] 漢字"))

    async def look(screen: Screen) -> None:
        await screen.select(run.name)
        await screen.sees("[bold]spiral[/nothing]", "[red]tag")
        await screen.press("tab", "end")
        await screen.sees("red [bold red]markup[/] [@click=app.quit]x[/]")
        assert all(line.isprintable() for line in screen.lines)
        assert "owned" not in screen.text

    on_screen(fleet.root, look, size=(160, 60))


def test_a_scheduler_that_hangs_keeps_nobody_waiting(fleet, monkeypatch):
    hangs, answers = threading.Event(), threading.Event()

    def ask(command, stdin=""):
        if hangs.is_set():
            answers.wait(120)
        return fleet.slurm(command, stdin)

    monkeypatch.setattr(client, "run", ask)
    monkeypatch.setattr(survey, "TO_LOOK_S", 0.0)
    monkeypatch.setattr(app, "_PATIENCE_S", 0.0)

    async def look(screen: Screen) -> None:
        await screen.select("celebahq-cld-1125-0911-k3fa")
        hangs.set()
        await screen.sees("still looking after", "a scheduler or a disk does not answer")
        await screen.select("toy-spirals-1126-0715-p2mm")
        await screen.sees("spiral arms must be odd", "attempts  ")
        await screen.press("enter")
        await screen.sees("failed first", "Traceback")
        await screen.press("escape", "q")
        await screen.until(lambda: not screen.app.is_running)

    try:
        on_screen(fleet.root, look)
    finally:
        answers.set()
