"""The index over runs."""

import itertools
from collections.abc import Sequence

import pytest
from torch.utils.tensorboard import SummaryWriter

from cld_core.evaluation.request import EvalRequest
from cld_core.run import RunFolder
from cld_core.run.atomic import write_json
from cld_core.run.events import Noted, Started
from cld_core.train.monitoring import Monitor
from cldctl.page import all_pages, one_run, overlays
from cldctl.runs import survey
from cldctl.runs.status import status_of
from tests.cldctl.page.parsed import Parsed
from tests.support.made_up import report, run_with, seeds
from tests.support.reported import everything
from tests.support.tools import invoke


@pytest.fixture
def root(tmp_path):
    runs = tmp_path / "runs"
    everything(runs / "first", points=50)
    everything(runs / "second", points=50, end="crashed")
    run_with(runs / "third").path.rename(runs / "javascript:alert(1)")
    return runs


def index(root, *options: str) -> Parsed:
    invoke("report", "--all", *options, runs=root)
    return Parsed((root / "index.html").read_text())


def test_curves_over_each_other_and_a_table_that_leads_to_the_pages(root):
    invoke("report", "first", runs=root)
    invoke("report", str(root / "javascript:alert(1)"), runs=root)
    parsed = index(root)
    labels = [it["data-label"] for name, it in parsed.elements if name == "g" and "data-label" in it]
    assert sorted(labels) == ["first", "second"]
    boxes = [it["value"] for it in parsed.all("input") if it["type"] == "checkbox"]
    assert boxes == ["n0", "n1"]
    assert sorted(it["href"] for it in parsed.all("a")) == [
        "./first/report.html",
        "./javascript%3Aalert%281%29/report.html",
    ]
    text = " ".join(parsed.text.split())
    assert "first finished 8,000" in text
    assert "-1.100 ± 0.040" in text
    assert "second failed 8,000" in text


def test_the_index_of_a_group_has_its_runs_alone(tmp_path):
    seeds(tmp_path, "mine", 2, 10, infix="-seed")
    run_with(tmp_path / "another", 10)
    target = tmp_path / "index-mine.html"
    assert invoke("report", "mine", runs=tmp_path).stdout == f"{target}\n"
    text = Parsed(target.read_text()).text
    assert "Runs of the group mine" in text
    assert "mine-seed0" in text
    assert "another" not in text
    assert "leave one of them out" in invoke("report", "mine", "--all", runs=tmp_path, code=2).stderr.lower()
    assert "cldctl report mine --pages writes those" in " ".join(text.split())
    assert "2 pages written" in invoke("report", "mine", "--pages", runs=tmp_path).stderr
    assert sorted(file.parent.name for file in tmp_path.glob("*/report.html")) == ["mine-seed0", "mine-seed1"]


def test_the_index_of_a_group_shows_what_was_swept_and_averages_over_seeds(tmp_path):
    for run, nll in zip(seeds(tmp_path, "mine", 3, 10), (0.5, 0.7, 0.9), strict=True):
        report(run, EvalRequest.of(run.recipe(), ("elbo",), 10), elbo={"nll": nll, "stderr": 0.1})
    invoke("report", "mine", runs=tmp_path)
    text = " ".join(Parsed((tmp_path / "index-mine.html").read_text()).text.split())
    assert "run state train.seed step" in text
    assert "mine-2 lost 2 10" in text
    assert "Averages over seeds" in text
    assert "mine 10 3 0.700 ± 0.200" in text, "the standard deviation of 0.5, 0.7 and 0.9"


def test_a_group_with_a_damaged_run_has_the_averages_of_the_others_and_says_so(tmp_path):
    for run, nll in zip(seeds(tmp_path, "mine", 3, 10), (0.5, 0.7, 0.9), strict=True):
        report(run, EvalRequest.of(run.recipe(), ("elbo",), 10), elbo={"nll": nll, "stderr": 0.1})

    def text() -> str:
        invoke("report", "mine", runs=tmp_path)
        _, _, averages = (tmp_path / "index-mine.html").read_text().partition("Averages over seeds")
        return " ".join(Parsed(averages).text.split())

    assert "cannot be read" not in text()
    RunFolder(tmp_path / "mine-2").recipe_file.write_text("[<b>")
    assert "mine 10 2 0.600 ± 0.141" in text(), "the standard deviation of 0.5 and 0.7"
    assert "Left out, because they cannot be read: mine-2: " in text()
    for seed in range(2):
        RunFolder(tmp_path / f"mine-{seed}").recipe_file.write_text("[")
    assert "mine-0: " in text(), "nothing is left to average"


def trained(run: RunFolder, attempt: int, first_step: int, losses: Sequence[float]) -> None:
    """An attempt that reports a loss for each step, as training does."""
    run.ledger.append(Started(attempt=attempt, job_id="1", step=first_step))
    steps = first_step + len(losses)
    monitor = Monitor(run, attempt=attempt, first_step=first_step, steps=steps, may_write=lambda: True)
    for step, loss in enumerate(losses, start=first_step + 1):
        monitor.report(step, {"loss": loss})
    monitor.write(steps)
    monitor.close()


@pytest.mark.parametrize(
    ("attempts", "shown"),
    [
        ([(0, (9.0, 5.0, 1.0))], [9.0, 7.0, 5.0]),
        ([(0, (9.0, 7.0, 5.0)), (3, (1.0, 1.0))], [9.0, 8.0, 7.0, 1.0, 1.0]),
        ([(0, (9.0, 7.0, 5.0)), (3, ()), (1, (3.0, 1.0, 2.0))], [9.0, 3.0, 2.0, 2.0]),
    ],
)
def test_a_short_curve_ends_at_the_loss_of_the_table(tmp_path, attempts, shown):
    run = run_with(tmp_path / "short")
    for number, (first_step, losses) in enumerate(attempts):
        trained(run, number, first_step, losses)
    row = status_of(run, survey.of_runs([run]))
    assert overlays._losses(row, follow=False) == list(enumerate(shown, start=1))
    assert row.shown_loss == shown[-1]


def test_it_can_be_written_elsewhere(root, tmp_path):
    invoke("report", "first", runs=root)
    target = tmp_path / "shown" / "all.html"
    target.parent.mkdir()
    assert invoke("report", "--all", "-o", str(target), runs=root).stdout == f"{target}\n"
    assert [it["href"] for it in Parsed(target.read_text()).all("a")] == ["./../runs/first/report.html"]


def test_a_link_is_not_a_page(root, tmp_path):
    (tmp_path / "private.html").write_text("private")
    (root / "first" / "report.html").symlink_to(tmp_path / "private.html")
    assert not index(root).all("a")


def test_so_many_curves_and_no_more(root, monkeypatch):
    monkeypatch.setattr(overlays, "_CURVES", 1)
    parsed = index(root)
    assert len([it for name, it in parsed.elements if name == "g" and "data-label" in it]) == 1
    assert "1 more is not drawn" in parsed.text


def test_so_many_runs_are_looked_through_and_no_more(root, monkeypatch):
    monkeypatch.setattr(overlays, "_LOOKED_AT", 2)
    assert "Of the newest 2 runs." in index(root).text


def charts(parsed: Parsed) -> dict[str, list[str]]:
    """The lines of each chart by what it says to those who cannot see it."""
    found: dict[str, list[str]] = {}
    for name, it in parsed.elements:
        if name == "svg" and it.get("class") == "chart":
            about = str(it["aria-label"]).partition(":")[0]
            found[about] = []
        elif name == "g" and "data-label" in it:
            found[about].append(str(it["data-label"]))
    return found


def test_only_losses_that_can_be_compared_share_a_chart(tmp_path):
    for name, overrides in {
        "one": (),
        "two": ("optim.lr=0.5", "network.width=8"),
        "other_data": ("data.name=diamond",),
        "other_loss": ("objective.weighting=likelihood",),
        "other_times": ("objective.times=log",),
        "other_diffusion": ("sde.gamma=0.5", "objective.mixed_score=true", "objective.loss_eps=0.1"),
    }.items():
        with_losses(tmp_path / "runs" / name, [1.0] * 50, overrides)
    found = charts(index(tmp_path / "runs"))
    assert {title: sorted(names) for title, names in found.items()} == {
        "multimodal_swissroll, cld, hsm against step": ["one", "two"],
        "diamond, cld, hsm against step": ["other_data"],
        "multimodal_swissroll, cld, hsm, weighting=likelihood against step": ["other_loss"],
        "multimodal_swissroll, cld, hsm, times=log against step": ["other_times"],
        "multimodal_swissroll, cld, hsm, gamma=0.5, mixed_score=true, loss_eps=0.1 against step": ["other_diffusion"],
    }


def with_data(root, name, plugin, points) -> None:
    run = with_losses(root / name, [1.0] * 50, ("data.name=plane", f"data.plugin={plugin}"))
    if points is not None:
        run.ledger.append(Started(attempt=0, job_id="1", step=0, data={"points": points}))


def test_data_of_the_same_name_and_place_share_a_chart_only_if_they_are_the_same(tmp_path):
    for name, points in (("a", "1 2"), ("b", "1 3"), ("c", "1 2"), ("d", None)):
        with_data(tmp_path, name, "/of/one/plane.py", points)
    found = {title: sorted(names) for title, names in charts(index(tmp_path)).items()}
    assert found == {
        "plane (/of/one/plane.py), cld, hsm, data as in d against step": ["a", "c", "d"],
        "plane (/of/one/plane.py), cld, hsm, data as in b against step": ["b"],
    }


@pytest.mark.parametrize("points", [(None, None), ("1 2", "1 3")])
def test_other_data_of_the_same_name_are_told_apart_by_their_place(tmp_path, points):
    for name, told in zip(("one", "two"), points, strict=True):
        with_data(tmp_path, name, f"/of/{name}/plane.py", told)
    assert charts(index(tmp_path)) == {
        f"plane (/of/{name}/plane.py), cld, hsm against step": [name] for name in ("two", "one")
    }


def test_the_same_data_in_two_places_share_a_chart(tmp_path):
    for name in ("one", "two"):
        with_data(tmp_path, name, f"/of/{name}/plane.py", "1 2")
    assert charts(index(tmp_path)) == {"plane (plane.py), cld, hsm against step": ["two", "one"]}


def test_folders_of_images_have_their_names_and_what_is_read_of_them(tmp_path):
    images = ("data.name=folder", "network.name=ncsnpp", "network.multipliers=[1]", "network.attention=[]")
    for name, more in {
        "one": ("data.path=/of/one/cats", "data.size=8", "network.image_size=8"),
        "two": ("data.path=/of/two/cats", "data.size=8", "network.image_size=8", "data.threads=1"),
        "three": ("data.path=/of/one/cats", "data.size=16", "network.image_size=16"),
    }.items():
        with_losses(tmp_path / name, [1.0] * 50, (*images, *more))
    assert charts(index(tmp_path)) == {
        "folder (/of/two/cats), cld, hsm, size=8 against step": ["two"],
        "folder (cats), cld, hsm, size=16 against step": ["three"],
        "folder (/of/one/cats), cld, hsm, size=8 against step": ["one"],
    }


def test_recipes_that_cannot_be_read_share_no_chart(tmp_path):
    for name in ("one", "two"):
        run = with_losses(tmp_path / "runs" / name, [1.0] * 50)
        run.recipe_file.write_text("[")
    assert charts(index(tmp_path / "runs")) == {
        f"{name}, whose recipe cannot be read against step": [name] for name in ("one", "two")
    }


def test_charts_of_many_kinds_are_folded(tmp_path, monkeypatch):
    monkeypatch.setattr(overlays, "_SHOWN", 1)
    for number, data in enumerate(("multimodal_swissroll", "diamond")):
        with_losses(tmp_path / "runs" / f"run-{number}", [1.0] * 50, (f"data.name={data}",))
    parsed = index(tmp_path / "runs")
    assert len(charts(parsed)) == 2
    assert "1 more, of other data or objectives" in parsed.text


def test_a_loss_of_a_thousand_does_not_flatten_the_others(tmp_path):
    with_losses(tmp_path / "runs" / "large", [1e3 + place for place in range(50)])
    for number in range(3):
        with_losses(tmp_path / "runs" / f"small-{number}", [1.0 - place / 100 for place in range(50)])
    parsed = index(tmp_path / "runs")
    lines = {
        it["data-label"]: [float(point.split(",")[1]) for point in curve["points"].split()]
        for (_, it), (_, curve) in itertools.pairwise(parsed.elements)
        if "data-label" in it
    }
    heights = {name: max(ys) - min(ys) for name, ys in lines.items()}
    assert heights["small-0"] > 15, "of a height of 224"
    assert next(iter(charts(parsed))).endswith("on a logarithmic axis")
    assert "logarithmic" in parsed.text


def with_losses(path, losses, overrides=()) -> RunFolder:
    run = run_with(path, overrides=overrides)
    with SummaryWriter(str(run.tensorboard)) as board:
        for step, loss in enumerate(losses):
            board.add_scalar("train/loss", loss, step)
    return run


def test_a_run_without_a_page_says_how_it_gets_one(root):
    invoke("report", "first", runs=root)
    parsed = index(root)
    text = " ".join(parsed.text.split())
    assert "cldctl report second" in text
    assert "cldctl report 'javascript:alert(1)'" in text
    assert "cldctl report first" not in text
    assert "2 of them have no page yet" in text
    assert "cldctl report --all --pages writes those that are missing" in text


def test_all_pages_are_written_and_later_those_that_are_out_of_date(root):
    def modified() -> dict[str, int]:
        return {file.parent.name: file.stat().st_mtime_ns for file in root.glob("*/report.html")}

    assert "3 pages written" in invoke("report", "--all", "--pages", runs=root).stderr
    before = modified()
    assert len(Parsed((root / "index.html").read_text()).all("a")) == len(before) == 3
    invoke("report", "--all", "--pages", runs=root)
    assert modified()["first"] == before["first"], "it is finished, and nothing has happened"
    RunFolder(root / "first").ledger.append(Noted(note="looks good"))
    invoke("report", "--all", "--pages", runs=root)
    assert modified()["first"] > before["first"]
    assert "looks good" in (root / "first" / "report.html").read_text()


def test_a_page_that_cannot_be_made_spares_the_others(root, monkeypatch):
    def page(run, *, follow):
        if run.name == "second":
            raise ValueError("[red]broken")
        return f"<html>{run.name}</html>"

    monkeypatch.setattr(one_run, "page", page)
    written = all_pages.write(root, lambda *at: None)
    assert (written.number, written.problems) == (2, {"second": "[red]broken"})
    (root / "index.html").unlink(missing_ok=True)
    done = invoke("-q", "report", "--all", "--pages", runs=root, code=1)
    assert done.stderr == "second: [red]broken\n"
    assert done.stdout == f"{root / 'index.html'}\n"
    assert (root / "index.html").is_file()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", {"format": 3, "created": 1e17}),
        ("progress.json", {"step": 20, "time": 1e17}),
        ("run.json", {"format": 3, "created": 1e17, "versions": "x", "git": "y", "sweep": "z"}),
    ],
)
def test_times_that_no_clock_shows_and_facts_of_other_types_spoil_no_page(tmp_path, name, content):
    run = run_with(tmp_path / "mine", 20)
    write_json(run.path / name, content)
    run_with(tmp_path / "other", 20)
    assert "other" in index(tmp_path, "--pages").text
    assert "mine" in Parsed((run.path / "report.html").read_text()).text


def test_pages_are_those_of_all_runs(root):
    assert "Add --all" in invoke("report", "first", "--pages", runs=root, code=2).stderr


def test_a_folder_without_runs_and_a_name_beside_all(tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    assert "There are no runs." in index(runs).text
    said = invoke("report", "first", "--all", runs=runs, code=2).stderr
    assert "--all writes an index over all runs" in said


def test_an_index_of_a_folder_that_is_missing_is_not_found(tmp_path):
    done = invoke("report", "--all", runs=tmp_path / "none", code=3)
    assert f"there are no runs in {tmp_path / 'none'}. Start one" in done.stderr
    assert done.stderr.count("\n") == 1
