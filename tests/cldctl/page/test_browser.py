"""Reports in a browser: nothing is cut off, nothing is asked of anybody, and scripts add comfort only."""

import io
import math
import re

import pytest
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from tests.support.browser import CLIPPED, FAINT, chromium, opened
from tests.support.made_up import run_with
from tests.support.reported import everything
from tests.support.tools import invoke

pytestmark = pytest.mark.by_hand

WIDTHS = (1280, 400)
PAGES = ("runs/a_run_with_a_name_that_is_rather_long-1126-160401-ab12", "runs/failed", "runs/empty", "index")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Reports of runs, and the index over them."""
    runs = tmp_path_factory.mktemp("shown") / "runs"
    everything(runs / PAGES[0].split("/")[1])
    failed = everything(runs / "failed", end="crashed", points=50)
    (failed.logs / "7_1_log.err").write_text(f"--- start 3 of job 7: rank 1 on node3, 2023 ---\n{'word ' * 90}\n")
    run_with(runs / "empty")
    for name in PAGES[:-1]:
        invoke("report", name.split("/")[1], runs=runs)
    invoke("report", "--all", "-o", str(runs.parent / "index.html"), runs=runs)
    return runs.parent


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


def file_of(folder, name):
    return folder / (f"{name}.html" if name == "index" else f"{name}/report.html")


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_cut_off_and_nothing_is_asked_for(browser, folder, name):
    for width in WIDTHS:
        for scheme in ("light", "dark"):
            with opened(browser, file_of(folder, name), width=width, scheme=scheme) as shown:
                assert shown.page.evaluate(CLIPPED) == [], f"{width} pixels"
                assert shown.page.evaluate(FAINT) == [], f"{scheme}, {width} pixels"
                shown.page.evaluate("() => document.querySelectorAll('details').forEach((it) => { it.open = true })")
                assert shown.page.evaluate(CLIPPED) == [], f"{width} pixels, unfolded"
                shown.page.emulate_media(media="print")
                shown.page.set_viewport_size({"width": 720, "height": 1_000})
                assert shown.page.evaluate("() => document.documentElement.scrollWidth") <= 720, "on paper"
                assert (shown.complaints, shown.requests) == ([], [])


def test_the_checks_see_what_is_wrong(browser, folder, tmp_path):
    content = file_of(folder, PAGES[0]).read_text()
    spoiled = tmp_path / "spoiled.html"
    wrong = "<p>no_breaks_" + "x" * 400 + '</p><img src="http://example.org/x.png"><script>alert(1)</script>'
    content = re.sub(r"<meta http-equiv[^>]*>", "", content).replace("overflow-wrap: anywhere", "color: #eee")
    spoiled.write_text(content.replace("<main>", f"<main>{wrong}").replace('text-anchor="end"', 'text-anchor="start"'))
    with opened(browser, spoiled) as shown:
        shown.page.on("dialog", lambda dialog: dialog.dismiss())
        clipped = " ".join(shown.page.evaluate(CLIPPED))
        assert "wider than the window" in clipped
        assert "text cut off: no_breaks" in clipped
        assert shown.page.evaluate(FAINT)
        assert shown.requests == ["http://example.org/x.png"]


def test_the_policy_stops_what_gets_into_a_page(browser, folder, tmp_path):
    spoiled = tmp_path / "spoiled.html"
    wrong = '<img src="http://example.org/x.png" onerror="document.title=1"><script>document.title = "taken"</script>'
    spoiled.write_text(file_of(folder, PAGES[0]).read_text().replace("<main>", f"<main>{wrong}"))
    with opened(browser, spoiled) as shown:
        assert shown.page.title() == PAGES[0].split("/")[1]
        assert shown.requests == []
        assert len(shown.complaints) >= 2, "the browser says what it refused"


def test_the_first_screen_tells_most(browser, folder):
    with opened(browser, file_of(folder, PAGES[0])) as shown:
        for selector in ("h1", ".verdict", ".tiles", ".first .plot"):
            box = shown.page.locator(selector).first.bounding_box()
            assert box["y"] + box["height"] <= 800, selector
        assert shown.page.locator(".first img").bounding_box()["y"] < 600
    with opened(browser, file_of(folder, PAGES[0]), width=400) as shown:
        assert shown.page.locator(".tiles").bounding_box()["y"] < 800


@pytest.mark.parametrize("width", WIDTHS)
def test_without_scripts_everything_can_be_read(browser, folder, width):
    with opened(browser, file_of(folder, PAGES[0]), width=width, scripts=False) as shown:
        page = shown.page
        for text in ("Finished: all 8,000 steps are done", "true entropy -1.400, gap 0.300", "node failure: "):
            assert page.get_by_text(text).last.is_visible()
        assert page.locator(".first .plot polyline.curve").count() == 2
        assert page.locator(".first img").is_visible()
        assert not page.locator(".hint").first.is_visible()
        page.get_by_text("2 keys differ from the shipped recipe toy").click()
        assert page.get_by_text("optim.lr", exact=True).is_visible()
        assert (shown.complaints, shown.requests) == ([], [])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_a_shadow_says_where_a_table_goes_on(browser, folder, width, scheme):
    """Of a table that does not fit, there is one at the right edge, and at the left one once it is scrolled."""
    with opened(browser, file_of(folder, PAGES[0]), width=width, scheme=scheme) as shown:
        table = shown.page.get_by_role(
            "region", name="Attempts, oldest first" if width == 400 else "Evaluations, by step"
        )
        table.scroll_into_view_if_needed()
        fits = table.evaluate("it => it.scrollWidth <= it.clientWidth")
        assert fits == (width == 1280)
        assert shadows(table) == (False, not fits)
        table.evaluate("it => { it.scrollLeft = it.scrollWidth }")
        assert shadows(table) == (not fits, False)


def shadows(table) -> tuple[bool, bool]:
    """Whether the left and the right edge differ from what is between the lines of a table, above its last line."""
    picture = Image.open(io.BytesIO(table.screenshot())).convert("L")
    y = 4  # Above the caption.
    ground = table.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    level = Image.new("RGB", (1, 1), ground).convert("L").getpixel((0, 0))
    return tuple(abs(picture.getpixel((x, y)) - level) > 4 for x in (0, picture.width - 1))


def test_the_pointer_reads_values_and_zooms(browser, folder):
    with opened(browser, file_of(folder, PAGES[0])) as shown:
        page, figure = shown.page, shown.page.locator(".first .plot")
        tip, chart = figure.locator(".tip"), figure.locator("svg.chart")
        box = chart.bounding_box()
        middle = box["y"] + box["height"] / 2
        assert not tip.is_visible()
        page.mouse.move(box["x"] + 0.5 * box["width"], middle)
        assert box["y"] <= tip.bounding_box()["y"] <= middle
        step, smooth = re.fullmatch(
            r"step ([\d.]+)\nloss \(as reported\): [\d.]+\nloss \(smoothed\): ([\d.]+)", tip.inner_text()
        ).groups()
        points = dict(
            point.split(",") for point in figure.locator("g.line").nth(1).get_attribute("data-points").split()
        )
        assert float(smooth) == pytest.approx(float(points[step]), rel=1e-4)
        before = figure.locator(".x-axis text").all_text_contents()
        page.mouse.down()
        page.mouse.move(box["x"] + 0.7 * box["width"], middle, steps=4)
        page.mouse.up()
        after = figure.locator(".x-axis text").all_text_contents()
        assert after != before
        assert "4.5k" in after
        assert page.evaluate(CLIPPED) == []
        figure.get_by_role("button", name="Reset zoom").click()
        assert figure.locator(".x-axis text").all_text_contents() == before
        assert (shown.complaints, shown.requests) == ([], [])


def test_the_keyboard_reads_values_and_zooms(browser, folder):
    with opened(browser, file_of(folder, PAGES[0])) as shown:
        figure = shown.page.locator(".first .plot")
        before = figure.locator(".x-axis text").all_text_contents()
        figure.locator("svg.chart").focus()
        shown.page.keyboard.press("ArrowRight")
        first = figure.locator(".tip").inner_text()
        shown.page.keyboard.press("ArrowRight")
        assert figure.locator(".tip").inner_text() != first
        shown.page.keyboard.press("+")
        assert figure.locator(".x-axis text").all_text_contents() != before
        shown.page.keyboard.press("Escape")
        assert figure.locator(".x-axis text").all_text_contents() == before


def test_error_bars_of_a_sweep_are_read_by_name(browser, folder):
    with opened(browser, file_of(folder, PAGES[0])) as shown:
        figure = shown.page.locator("figure.plot", has_text="against eval.elbo.probes")
        figure.scroll_into_view_if_needed()
        box = figure.locator("svg.chart").bounding_box()
        shown.page.mouse.move(box["x"] + box["width"] - 25, box["y"] + 40)
        assert figure.locator(".tip").inner_text() == (
            "eval.elbo.probes 8\nvelocities 1: -1.1 ± 0.04\nvelocities 4: -0.95 ± 0.04"
        )


def test_pictures_grow_and_keep_their_pixels(browser, folder):
    with opened(browser, file_of(folder, PAGES[0])) as shown:
        image = shown.page.locator(".first img")
        assert image.evaluate("it => getComputedStyle(it).imageRendering") == "pixelated"
        before = image.bounding_box()["width"]
        image.click()
        assert image.bounding_box()["width"] > 1.5 * before
        shown.page.keyboard.press("Enter")
        assert image.bounding_box()["width"] == before


@pytest.mark.parametrize("values", [(1.0, 1e3), (-0.5, 1e3), (-1e4, 1e6)])
def test_a_logarithmic_axis_is_the_same_with_and_without_the_script(browser, tmp_path, values):
    runs = tmp_path / "runs"
    for place, value in enumerate(values):
        with SummaryWriter(str(run_with(runs / f"run-{place}").tensorboard)) as board:
            for step in range(60):
                board.add_scalar("train/loss", value + 0.01 * abs(value) * math.sin(step), step)
    invoke("report", "--all", runs=runs)
    found = []
    for scripts in (True, False):
        with opened(browser, runs / "index.html", scripts=scripts) as shown:
            if scripts:
                shown.page.get_by_role("checkbox", name="run-0").uncheck()
                assert shown.page.evaluate(CLIPPED) == []
                shown.page.get_by_role("checkbox", name="run-0").check()
            curve = shown.page.locator("g.line").last.locator("polyline").get_attribute("points")
            found.append((shown.page.locator(".y-axis text").all_text_contents(), curve))
            assert (shown.complaints, shown.requests) == ([], [])
    assert found[0] == found[1]
    assert len(found[0][0]) >= 3


@pytest.mark.parametrize("scripts", [True, False])
def test_curves_of_the_index_can_be_hidden(browser, folder, scripts):
    with opened(browser, file_of(folder, "index"), scripts=scripts) as shown:
        page = shown.page
        curves = page.locator(".overlay g.line polyline:visible")
        assert curves.count() == 2
        page.get_by_role("checkbox", name="failed").uncheck()
        assert curves.count() == 1
        page.get_by_role("checkbox", name="failed").check()
        assert curves.count() == 2
        assert (shown.complaints, shown.requests) == ([], [])
