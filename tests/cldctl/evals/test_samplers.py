"""Samplers side by side: which can be compared, what is best, and the numbers in files."""

import csv
import io
from dataclasses import replace

import pytest

from cld_core.config.registry import SECTIONS
from cld_core.errors import UsageError
from cld_core.evaluate.published import published_samplers
from cld_core.run import RunFolder
from cld_core.run.evaluations import Axis, Sweep, SweepCell
from cldctl.evals import results, samplers
from cldctl.evals.samplers import SETTINGS
from cldctl.show.evaluations import samplers as drawn
from tests.support.made_up import report
from tests.support.recipes import shipped_recipe
from tests.support.screen import screen, text

TOYS = ("w2", "density", "flow-distance")
CELL = {"sampler": "ode", "sampling.nfe": "10"}


def made_of(run, *names, overrides=(), metrics=TOYS, nfe=(10, 20), seeds=1):
    settings = samplers.chosen(names)
    return samplers.make(
        run, 20, overrides, metrics=metrics, settings=settings, nfe=nfe, seeds=seeds
    )


def answered(run, made, value):
    """Results of all evaluations: ``value(request)`` is the W2; the flow is asked of those that
    follow it."""
    for request in made.requests:
        nfe = getattr(request.sampling, "nfe", 147)
        w2 = {
            "value": value(request),
            "floor": 0.5,
            "floor_stderr": 0.125,
            "samples": 100,
            "nfe_mean": float(nfe),
        }
        density = {"value": -value(request), "true": 1.5, "samples": 100, "nfe_mean": float(nfe)}
        flow = {
            "flow-distance": {
                "value": value(request),
                "stderr": 0.25,
                "nfe_mean": nfe,
                "flow_nfe_mean": 331.0,
            }
        }
        report(
            run,
            request,
            w2=w2,
            density=density,
            **(flow if "flow-distance" in request.metrics else {}),
        )


def test_every_method_is_among_the_settings():
    methods = {
        entry.partition("=")[2]
        for keys in SETTINGS.values()
        for entry in keys.split(",")
        if "method=" in entry
    }
    assert methods == {*SECTIONS["sampling"].variants}


def test_one_evaluation_for_each_setting_number_and_seed(run):
    made = made_of(run, "em-quadratic", "exponential", "ode", overrides=["eval.seed=5"], seeds=2)
    assert made.left_out == ()
    assert made.noisy == ("em-quadratic",)
    # The adaptive flow takes no number of evaluations, and is computed once.
    assert len(made.requests) == 2 * (2 + 2 + 1)
    assert {request.seed for request in made.requests} == {5, 6}
    assert all(request.max_nonfinite == 1 for request in made.requests)
    by_id = {request.id: request for request in made.requests}
    for cell in made.sweep.cells:
        first, second = (by_id[name] for name in cell.evaluations)
        assert (first.sampling, first.metrics) == (second.sampling, second.metrics)
        assert ("flow-distance" in first.metrics) == (cell.values["sampler"] != "em-quadratic")


def test_samplers_are_chosen_and_defined():
    assert [*samplers.chosen(())] == [*SETTINGS]
    assert [*samplers.chosen(("exponential", "ode"))] == ["ode", "exponential"]
    assert [*samplers.chosen(("fine=method=exponential,order=2",))] == [*SETTINGS, "fine"]
    assert [*samplers.chosen(("ode", "fine=sampling.method=exponential, order=2"))] == [
        "ode",
        "fine",
    ]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("exponentail",), r"'exponentail' is not known.*'exponential'"),
        (("fine=order",), r"'fine=order': write NAME=KEY=VALUE"),
        (("ode", "ode"), r"'ode' is given twice"),
    ],
)
def test_options_of_another_form_are_refused(options, why):
    with pytest.raises(UsageError, match=why):
        samplers.chosen(options)


def test_metrics_fit_the_data(run):
    assert samplers.suited(run.recipe(), ()) == (TOYS, 4)
    own = replace(run.recipe(), data=replace(run.recipe().data, name="ring"))
    assert samplers.suited(own, ()) == (("w2", "flow-distance"), 4), (
        "nobody knows whether it tells its density"
    )
    images = shipped_recipe("cifar10")
    assert samplers.suited(images, ()) == (("fid",), 1)
    with pytest.raises(
        UsageError, match=r"w2 does not.*images. Ask for fid, kid, isc, prc, classes, flow-distance"
    ):
        samplers.suited(images, ("w2",))
    with pytest.raises(UsageError, match=r"fid does not.*vectors"):
        samplers.suited(run.recipe(), ("fid",))


def test_the_best_of_each_column_and_the_error_over_seeds(run):
    made = made_of(run, "ode", "em-quadratic", "exponential", seeds=2)

    def value(request):
        base = {"ode": 0.25, "em": 4.0, "exponential": 2.0}[request.sampling.method]
        is_late = request.sampling.method == "exponential" and request.sampling.nfe == 20
        return base + request.seed + (3.0 if is_late else 0.0)

    answered(run, made, value)
    made.sweep.save(run)
    rows = results.rows(run, made.sweep)
    cells = {tuple(row.values.values()): row.numbers for row in rows}
    # Two values that differ by 1: a standard deviation of 1/sqrt(2), and the error of their mean is
    # 1/2.
    assert cells["em-quadratic", "10"]["w2"].stderr == pytest.approx(0.5)
    assert cells["em-quadratic", "10"]["flow_distance"] is None
    best = samplers.best(run, made.sweep, rows)
    marked = {tuple(rows[place].values.values()) for _, place in best}
    # The flow is the best of all, but took more; it alone is compared with nobody.
    assert marked == {("exponential", "10"), ("em-quadratic", "20")}
    statuses = [{"id": request.id, "state": "FINISHED", "results": {}} for request in made.requests]
    said = text(drawn(run, made.sweep, statuses))
    for words in (
        "4.5000 ± 0.5000*",
        "two true sets: 0.5000 ± 0.1250",
        "truth: 1.500 nats",
        "took 331 evaluations",
    ):
        assert words in said
    assert "published" not in said


def test_samplers_that_lost_samples_are_not_the_best(run):
    """They are judged by those that are left, and the floor is that of as many points as the others
    have."""
    made = made_of(run, "em-quadratic", "sscs-quadratic", "exponential", metrics=("w2",), nfe=(10,))
    for request, (value, lost) in zip(made.requests, ((0.5, 90), (1.0, 0), (2.0, 0)), strict=True):
        about = {
            "floor": 4.0 if lost else 0.25,
            "samples": 100,
            "nonfinite": lost,
            "nfe_mean": 10.0,
        }
        report(run, request, w2={"value": value, **about})
    made.sweep.save(run)
    rows = results.rows(run, made.sweep)
    assert [entry["w2_nonfinite"] for entry in results.fields_of(rows)] == [0.9, 0.0, 0.0]
    assert samplers.best(run, made.sweep, rows) == {("w2", 1)}
    assert samplers.references(run, made.sweep) == {"w2_floor": 0.25}
    assert samplers.to_json(run, made.sweep, {})["rows"][0]["results"]["w2"]["nonfinite"] == 0.9
    assert "0.5000 (90% lost)" in text(drawn(run, made.sweep, []))


def test_published_numbers_stand_beside_those_of_cifar10(tmp_path, monkeypatch):
    screen(monkeypatch, 150)
    run = RunFolder.create(tmp_path / "c", shipped_recipe("cifar10"), {"created": 1.0})
    sweep = Sweep(
        (Axis("sampler", ("ode",)), Axis("sampling.nfe", ("10",))), (SweepCell(CELL, "fid-ode-10"),)
    )
    known = published_samplers("cifar10")
    measured, *rows = csv.DictReader(io.StringIO(samplers.to_table(run, sweep)))
    assert (measured["source"], len(rows)) == ("measured", len(known))
    (same,) = [
        row for row in rows if row["sampler"].endswith("gDDIM") and row["sampling.nfe"] == "50"
    ]
    assert (same["fid"], same["source"]) == ("2.26", "published, arXiv 2206.05564")
    assert "published, not measured here" in text(drawn(run, sweep, []))
    assert samplers.to_json(run, sweep, {})["published"][0]["fid"] == 2.25
