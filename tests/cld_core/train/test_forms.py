"""The order in which forms are compared, and what is chosen."""

from cld_core.config.train import TrainSpec
from cld_core.train.forms import Choice, Options, compare, recalled

EAGER, LAST = Choice(), Choice(channels_last=True)
ALL = Options(("eager", "compiled", "graphs"), (False, True), ("transposed", "zeros", "polyphase"))
LONG = 10**9


def compared(options, speeds, passes=LONG, otherwise=50.0):
    """The choice and the forms that were measured, in order, by their milliseconds; a text is a failure."""
    order = []

    def take(choice, timings):
        order.append(choice)
        found = speeds.get(choice, otherwise)
        (timings.failed if isinstance(found, str) else timings.milliseconds)[choice] = found

    best, timings = compare(options, take, passes)
    assert set(order) == {*timings.milliseconds, *timings.failed}
    return best, order


def test_layouts_and_upsampling_come_first_and_only_the_best_is_compiled():
    quick = Choice("eager", True, "polyphase")
    compiled, graphs = Choice("compiled", True, "polyphase"), Choice("graphs", True, "polyphase")
    best, order = compared(ALL, {quick: 40.0, compiled: 30.0, graphs: 31.0})
    assert best == compiled
    assert len(order) == 8
    assert order[0] == EAGER
    assert order[-2:] == [compiled, graphs]


def test_what_is_not_faster_is_not_chosen():
    assert compared(ALL, {LAST: 40.0})[0] == LAST


def test_if_nothing_works_training_itself_meets_the_error_in_the_plainest_form():
    best, order = compared(ALL, {}, otherwise="out of memory")
    assert best == EAGER
    assert order[-2:] == [Choice("compiled"), Choice("graphs")]


def test_a_short_training_is_not_compiled():
    options = Options(("eager", "compiled"), (False,), ("transposed",))
    assert compared(options, {}, passes=11_999) == (EAGER, [EAGER])
    assert compared(options, {}, passes=12_000)[1] == [EAGER, Choice("compiled")]


def test_without_measurement_a_form_is_what_the_recipe_names():
    assert Choice.plain(TrainSpec()) == EAGER
    assert Choice.plain(TrainSpec(compile=True, channels_last=True)) == Choice("compiled", True)
    assert Choice.plain(TrainSpec(compile=False, channels_last=False)) == EAGER


def test_what_was_measured_decides_again_only_if_nothing_is_missing():
    options = Options(("eager", "compiled"), (False, True), ("transposed",))
    uncompiled = {"eager": 50.0, "channels_last": 40.0}
    assert recalled(options, uncompiled, {}, passes=100) == LAST
    assert recalled(options, uncompiled, {}, LONG) is None
    assert recalled(options, {**uncompiled, "compiled": 30.0}, {}, LONG) is None, "not the best uncompiled form"
    compiled = {**uncompiled, "compiled + channels_last": 30.0}
    assert recalled(options, compiled, {}, LONG) == Choice("compiled", True)
    assert recalled(options, compiled, {}, passes=100) == LAST
    assert recalled(options, uncompiled, {"compiled + channels_last": "out of memory"}, LONG) == LAST
    assert recalled(Options(("compiled",), (False, True), ("transposed",)), uncompiled, {}, LONG) == Choice(
        "compiled", True
    )
    assert recalled(ALL, compiled, {}, LONG) is None
    assert (
        recalled(Options(("eager",), (False,), ("transposed", "zeros")), {}, {"eager": "", "zeros": ""}, LONG) is None
    )
