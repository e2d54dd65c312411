"""A form that does not work on a card is found."""

import math
from dataclasses import replace

from cld_core.gpu_checks import forms, parity
from cld_core.train import forms as choosing
from cld_core.train import tuning
from cld_core.train.forms import Choice


def test_a_step_in_the_chosen_form_is_compared(context, monkeypatch):
    chosen = Choice("eager", True, "zeros")
    monkeypatch.setattr(tuning, "decide", lambda *_, **__: chosen)
    numbers, seen = parity.numbers, []

    def wrong(recipe, device, choice):
        seen.append(choice)
        found = numbers(recipe, device, choice)
        return replace(found, output=2.0 * found.output) if choice == chosen else found

    monkeypatch.setattr(parity, "numbers", wrong)
    finding = forms.check(context)
    assert finding.verdict == "fail"
    assert "channels_last + zeros upsampling" in finding.found
    assert seen[-1] == chosen


def test_the_form_that_a_card_is_fastest_in_is_decided_by_training_itself(context, monkeypatch):
    """A card on which polyphase upsampling takes no time."""
    prepare, now = tuning.prepare, [0.0, 0.0]

    def prepared(net, spec, ranks, choice, **options):
        now[1] = 0.0 if choice.upsampling == "polyphase" else 1.0
        return prepare(net, spec, ranks, choice, **options)

    def clock():
        now[0] += now[1]
        return now[0]

    monkeypatch.setattr(tuning, "prepare", prepared)
    card = tuning.Card("a fake card", clock, lambda: None)
    decision = forms.decided(context, forms.recipe_of(context, "cifar10"), card)
    assert decision.choice == Choice("eager", False, "polyphase")
    assert decision.milliseconds["eager"] == 1000.0
    assert "polyphase upsampling 0 ms" in str(decision)


def test_the_bits_of_a_recipe_are_those_of_its_precision(context):
    for precision, tf32, bits in (
        ("fp32", "false", 17),
        ("fp32", "true", 11),
        ("fp16", "true", 11),
        ("bf16", "true", 8),
    ):
        recipe = forms.recipe_of(context, "cifar10", f"train.precision={precision}", f"train.tf32={tf32}")
        assert parity.form_of(recipe, Choice()).bits == bits


def test_a_form_that_fails_is_found(context, monkeypatch):
    prepare = tuning.prepare

    def failing(net, spec, ranks, choice, **options):
        if choice.upsampling == "zeros":
            raise RuntimeError("no such kernel")
        return prepare(net, spec, ranks, choice, **options)

    monkeypatch.setattr(tuning, "prepare", failing)
    monkeypatch.setattr(choosing, "WORTH_COMPILING_S", math.inf)
    finding = forms.check(context)
    assert finding.verdict == "fail"
    assert "zeros upsampling fails (RuntimeError: no such kernel)" in finding.found
