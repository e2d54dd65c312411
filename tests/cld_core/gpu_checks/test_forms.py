"""A form that does not work on a card is found."""

import pytest

from cld_core.gpu_checks import forms
from cld_core.train import tuning
from cld_core.train.forms import Options


@pytest.mark.slow
def test_the_fastest_form_is_told_with_all_times(context):
    finding = forms.check(context)
    assert finding.verdict == "ok"
    for form in ("eager ", "channels_last ", "polyphase upsampling ", "compiled with CUDA graphs ", " -> "):
        assert form in finding.found


def test_a_form_that_fails_is_found(context, monkeypatch):
    few = Options(("eager",), (False,), ("transposed", "zeros"))
    monkeypatch.setattr(tuning, "options_of", lambda *_: few)
    prepare = tuning.prepare

    def failing(net, spec, ranks, choice, **options):
        if choice.upsampling == "zeros":
            raise RuntimeError("no such kernel")
        return prepare(net, spec, ranks, choice, **options)

    monkeypatch.setattr(tuning, "prepare", failing)
    finding = forms.check(context)
    assert finding.verdict == "fail"
    assert "zeros upsampling fails (RuntimeError: no such kernel)" in finding.found
