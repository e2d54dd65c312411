"""The index over runs."""

import pytest

from cldctl.page import many_runs
from tests.cldctl.page.parsed import Parsed
from tests.support.made_up import run_with
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
    boxes = [it["id"] for it in parsed.all("input") if it["type"] == "checkbox"]
    assert boxes == ["n0", "n1"]
    assert sorted(it["href"] for it in parsed.all("a")) == [
        "./first/report.html",
        "./javascript%3Aalert%281%29/report.html",
    ]
    text = " ".join(parsed.text.split())
    assert "first finished 8,000" in text
    assert "-1.100 ± 0.040" in text
    assert "second failed 8,000" in text


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
    monkeypatch.setattr(many_runs, "_CURVES", 1)
    parsed = index(root)
    assert len([it for name, it in parsed.elements if name == "g" and "data-label" in it]) == 1
    assert "Of the newest" in parsed.text


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
