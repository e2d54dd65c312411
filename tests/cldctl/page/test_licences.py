"""Licences are named as Hugging Face or SPDX does."""

import re

import pytest
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from cld_core.errors import UsageError
from cldctl.page import licences


@pytest.mark.parametrize("text", ["MIT", "CC-BY-4.0", "GPL-3.0", "gpl-3.0-only", "other", "OpenRAIL"])
def test_licences_are_written_as_hugging_face_does(text):
    assert licences.identifier(text) == text.lower()


@pytest.mark.parametrize("text", ["openrail++", "odbl", "pddl", "bsd", "cc", "bigcode-openrail-m", "gpl", "llama3.1"])
def test_licences_that_hugging_face_lists_and_spdx_does_not(text):
    with pytest.raises(InvalidLicenseExpression):
        canonicalize_license_expression(text)
    assert licences.identifier(text) == text


@pytest.mark.parametrize(
    ("text", "meant"), [("gpl3.0", "gpl-3.0"), ("openrail+", "openrail++"), ("cc-by", "cc-by-4.0")]
)
def test_the_licence_that_was_meant_is_suggested(text, meant):
    with pytest.raises(UsageError, match=rf"Did you mean '{re.escape(meant)}'\?"):
        licences.identifier(text)


@pytest.mark.parametrize("text", ["", "mit or apache-2.0", "(mit)", "mit+", "LicenseRef-mine", "\x1b[31mmit", "m\nit"])
def test_what_is_not_one_licence_is_refused(text):
    with pytest.raises(UsageError, match="not a licence"):
        licences.identifier(text)
