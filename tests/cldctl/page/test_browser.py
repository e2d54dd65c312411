"""Pages in a browser: nothing is cut off, faint, or asked of anybody."""

import pytest

from tests.support.browser import CLIPPED, FAINT, chromium, opened
from tests.support.made_up import run_with
from tests.support.reported import everything
from tests.support.tools import invoke

pytestmark = pytest.mark.by_hand


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The page of a run, the index over three of them, and two beside each other."""
    runs = tmp_path_factory.mktemp("shown") / "runs"
    everything(runs / "a_run_with_a_name_that_is_rather_long-1126-160401-ab12")
    everything(runs / "failed", end="crashed", points=50)
    run_with(runs / "empty")
    for names, target in ((["a_run"], "one"), (["--all"], "all"), (["a_run", "failed"], "two")):
        invoke("report", *names, "-o", str(runs.parent / f"{target}.html"), runs=runs)
    return runs.parent


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_cut_off_and_nothing_is_asked_for(folder, width, scheme):
    with chromium() as browser:
        for name in ("one", "all", "two"):
            with opened(browser, folder / f"{name}.html", width=width, scheme=scheme) as shown:
                assert shown.page.locator("h1").is_visible()
                assert shown.page.evaluate(CLIPPED) == [], name
                assert shown.page.evaluate(FAINT) == [], name
                assert (shown.complaints, shown.requests) == ([], [])
