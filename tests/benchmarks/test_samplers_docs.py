"""docs/results.md: its study, its stored results, and the published numbers of the
code."""

import sys

import pytest

from benchmarks.samplers_docs import PAGE, main, published
from cld_core.evaluate.published import published_samplers
from cldctl.evals import samplers
from tests.support.made_up import report, run_with


def between(page, name):
    text = page.partition(f"<!-- {name}: begin -->")[2].partition(f"<!-- {name}: end -->")[0]
    return [line for line in text.splitlines() if line]


def test_the_page_has_the_published_numbers_of_the_code():
    assert (
        between(PAGE.read_text(), "published")
        == published(published_samplers("cifar10")).splitlines()
    )


def test_the_tables_of_runs_are_those_of_their_newest_comparison(tmp_path, monkeypatch):
    run = run_with(tmp_path / "mixed", 20)
    names = samplers.chosen(("em-quadratic", "exponential"))
    made = samplers.make(
        run, 20, metrics=("w2", "flow-distance"), settings=names, nfe=(10, 20), seeds=1
    )
    made.sweep.save(run)
    page = tmp_path / "page.md"
    page.write_text(
        "a\n<!-- trained: begin -->\nold\n<!-- trained: end -->\nb\n" + PAGE.read_text()
    )
    monkeypatch.setattr(sys, "argv", ["samplers_docs", str(run.path), "--page", str(page)])
    with pytest.raises(SystemExit, match="2"):
        main()
    for request in made.requests:
        value = {"em": 0.5, "exponential": 0.25}[request.sampling.method]
        w2 = {
            "value": value,
            "floor": 0.125,
            "floor_stderr": 0.0625,
            "nfe_mean": request.sampling.nfe,
        }
        flow = {"value": 2 * value, "stderr": 0.0625, "nfe_mean": request.sampling.nfe}
        report(
            run,
            request,
            w2=w2,
            **({"flow-distance": flow} if "flow-distance" in request.metrics else {}),
        )
    main()
    written = page.read_text()
    assert written.startswith(
        "a\n<!-- trained: begin -->\n\nTwo true sets are 0.1250 ± 0.0625 apart.\n"
    )
    assert "| `exponential` | **0.2500** / 0.5000 | **0.2500** / 0.5000 |" in between(
        written, "trained"
    )
