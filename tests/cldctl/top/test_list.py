"""The list of runs on the screen: every state, order, groups, filters, and what is damaged or gone."""

import shutil

from cld_core.run.atomic import write_json
from cld_core.run.events import Noted, Tagged
from cldctl.runs.selection import Selection
from cldctl.runs.state import STATES
from tests.support import on_screen as made_up
from tests.support.piloted import Screen, on_screen


def names(screen: Screen) -> list[str]:
    """Where the lines are that begin with a state, in their order."""
    listed = screen.lines[2 : screen.app.query_one("#runs").size.height + 1]
    return [line for line in listed if line]


def test_every_state_is_listed_and_alive_runs_come_first(fleet):
    async def look(screen: Screen) -> None:
        await screen.sees(*STATES)
        lines = names(screen)
        states = [next((word for word in line.split() if word in STATES), "") for line in lines if "▾" not in line]
        assert states == [
            *("PENDING", "RUNNING", "PENDING", "REQUEUED", "RUNNING"),
            *("FAILED", "LOST", "FINISHED", "CANCELLED", "STOPPED", "LOST"),
        ]
        assert "celeba-lr  1 RUNNING 1 PENDING" in lines[1]

    on_screen(fleet.root, look, size=(80, 40))


def test_a_line_has_step_curve_loss_rate_and_eta_and_why_it_waits(fleet):
    async def look(screen: Screen) -> None:
        await screen.until(lambda: any("k3fa" in line and "█" in line for line in screen.lines))
        (line,) = [line for line in names(screen) if "k3fa" in line]
        name, state, step, curve, loss, rate, eta = line.split()
        assert (name, state, step, loss, rate, eta) == (
            *("celebahq…25-0911-k3fa", "RUNNING", "398.2k/800k", "0.4137", "5.21", "21h25m"),
        )
        assert len(curve) == 10
        assert curve[0] == "█"
        assert curve[-1] == "▁"
        (line,) = [line for line in names(screen) if "77bd" in line]
        assert line.split()[-3:] == ["PENDING", "0/800k", "Priority"]

    on_screen(fleet.root, look)


def test_groups_fold_and_unfold(fleet):
    async def look(screen: Screen) -> None:
        await screen.select(made_up.GROUP)
        assert "celeba-lr-lr1e-4" in screen.text
        await screen.sees("steps", "space folds it")
        await screen.press("space")
        await screen.until(lambda: "lr1e-4" not in screen.text)
        assert "▸ celeba-lr" in screen.text
        await screen.press("space", "down", "down")
        await screen.sees("› celeba-lr-lr3e-4".replace("› ", "›   "))
        await screen.press("space")
        await screen.until(lambda: "lr1e-4" not in screen.text)

    on_screen(fleet.root, look)


def test_keys_and_words_filter(fleet):
    async def look(screen: Screen) -> None:
        await screen.sees("FAILED")
        await screen.press("5")
        await screen.until(lambda: len(names(screen)) == 3)
        assert "only failed" in screen.lines[0]
        assert all("FAILED" in line or "LOST" in line for line in names(screen))
        await screen.press("slash", *"spirals", "enter")
        await screen.until(lambda: len(names(screen)) == 1)
        assert 'only failed "spirals"' in screen.lines[0]
        await screen.press("1")
        await screen.sees("no run matches the filter; esc clears it")
        await screen.press("escape")
        await screen.until(lambda: len(names(screen)) > 8)
        await screen.press("slash", *"q?", "escape")
        await screen.until(lambda: len(names(screen)) > 8)

    app = on_screen(fleet.root, look)
    assert app.return_code in (None, 0)


def test_options_choose_runs_as_those_of_status(fleet):
    async def look(screen: Screen) -> None:
        await screen.until(lambda: len(names(screen)) == 3)

    on_screen(fleet.root, look, which=Selection(states=frozenset({"FAILED", "LOST"})))


def test_old_runs_are_mentioned_or_shown(tmp_path, fleet):
    root = tmp_path / "old"
    old = made_up.Fleet(root)
    made_up.ended(old, "ancient", 30 * 24 * made_up.HOUR, "finished", "17")

    async def hidden(screen: Screen) -> None:
        await screen.sees("no recent runs; 1 ended over a week ago: cldctl top --all")

    async def shown(screen: Screen) -> None:
        await screen.sees("ancient")

    on_screen(root, hidden)
    on_screen(root, shown, everything=True)


def test_an_empty_folder_says_what_to_do(tmp_path):
    async def look(screen: Screen) -> None:
        await screen.sees("no runs here. Start one: cldctl submit toy_demo")
        for key in ("enter", "r", "c", "s", "o", "space", "down", "end"):
            await screen.press(key)
        await screen.sees("There are no runs yet.")

    on_screen(tmp_path / "nothing", look)


def test_a_run_that_vanishes_leaves_the_list(tmp_path, fleet):
    async def look(screen: Screen) -> None:
        await screen.select("toy-spirals-1126-0715-p2mm")
        before = screen.app._main.query_one("#runs").cursor
        (fleet.root / "toy-spirals-1126-0715-p2mm").rename(tmp_path / "elsewhere")
        await screen.until(lambda: "spirals" not in screen.text)
        assert screen.app._main.query_one("#runs").cursor == before, "the next one takes its place"
        await screen.sees("celebahq-cld-1125-0101-lost")
        shutil.rmtree(fleet.root)
        await screen.sees("no runs here")

    on_screen(fleet.root, look)


def test_a_run_that_is_selected_and_gone_is_said_to_be(fleet, monkeypatch):
    async def look(screen: Screen) -> None:
        await screen.select("toy-spirals-1126-0715-p2mm")
        # The next look is late.
        screen.app._main._looker.look = lambda: screen.app._main._seen
        shutil.rmtree(fleet.root / "toy-spirals-1126-0715-p2mm")
        await screen.sees("the run is gone: its folder was removed or renamed")
        await screen.press("enter")
        await screen.sees("toy-spirals-1126-0715-p2mm: the run is gone")

    on_screen(fleet.root, look)


def test_what_is_damaged_is_a_line(fleet):
    run = fleet.root / "toy-diamond-1124-1502-aa10"

    async def look(screen: Screen) -> None:
        await screen.select("somebodys-copy")
        await screen.sees("made by another version")
        await screen.press("home")
        (run / "attempts.jsonl").write_bytes(b"\xff\x00 not a ledger\n{\n")
        (run / "progress.json").write_text("[[[[")
        for file in (run / "evals").glob("*/report.json"):
            file.write_text('{"elbo": {"nll": "high"}}')
        (run / "tensorboard" / "events.out.tfevents.9").write_bytes(b"\xff" * 100)
        await screen.select("toy-diamond-1124-1502-aa10")
        await screen.sees("toy-diamond-1124-1502-aa10")

    on_screen(fleet.root, look)


def test_texts_of_others_steer_nothing(fleet):
    """Escape sequences, markup of rich and of textual, line breaks and wide characters."""
    run = made_up.failed(made_up.Fleet(fleet.root / "more"))
    shutil.move(run.path, fleet.root / "hostile")
    run = type(run)(fleet.root / "hostile")
    evil = "\x1b]0;owned\x07\x1b[31mred\x1b[0m [bold red]markup[/] [@click=app.quit]x[/]\nsecond\u202eline 漢字漢字"
    write_json(run.identity_file, {**run.identity(), "user": evil, "created": fleet.now})
    fleet.events(run, (1.0, Noted, {"note": evil}), (1.0, Tagged, {"add": ("[red]tag",)}))
    text = run.ledger.path.read_text()
    run.ledger.path.write_text(text.replace("spiral arms must be odd", r"\u001b[2J[bold]spiral\u0007[/nothing] 漢字"))

    async def look(screen: Screen) -> None:
        await screen.select("hostile")
        await screen.sees("[bold]spiral[/nothing]", "[red]tag · red [bold red]markup[/] [@click=app.quit]x[/] second")
        assert all(line.isprintable() for line in screen.lines)
        assert "owned" not in screen.text

    on_screen(fleet.root, look)
    on_screen(fleet.root, look, size=(140, 40))
