"""The identifiers of licences that the head of a model card can have."""

import re

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from cld_core.errors import UsageError, did_you_mean
from cld_core.texts import one_line

# Those that Hugging Face lists (https://huggingface.co/docs/hub/repositories-licenses) and SPDX does not.
_NOT_OF_SPDX = (
    "apple-amlr",
    "apple-ascl",
    "bigcode-openrail-m",
    "bigscience-bloom-rail-1.0",
    "bigscience-openrail-m",
    "bsd",
    "c-uda",
    "cc",
    "creativeml-openrail-m",
    "deepfloyd-if-license",
    "fair-noncommercial-research-license",
    "gemma",
    "gfdl",
    "gpl",
    "grok2-community",
    "h-research",
    "intel-research",
    "lgpl",
    "lgpl-lr",
    "llama2",
    "llama3",
    "llama3.1",
    "llama3.2",
    "llama3.3",
    "llama4",
    "odbl",
    "odc-by",
    "openmdw-1.0",
    "openmdw-1.1",
    "openrail",
    "openrail++",
    "other",
    "pddl",
    "unknown",
)
# For suggestions: those that people choose for weights.
_USUAL = ("apache-2.0", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "gpl-3.0", "mit")
_ONE = re.compile(r"[a-z0-9.-]+")


def identifier(text: str) -> str:
    """The identifier of a licence for a card: one that Hugging Face lists, or another one of SPDX, in small letters.

    Raises:
        UsageError: it is not one.
    """
    word = text.strip().lower()
    if word in _NOT_OF_SPDX:
        return word
    try:
        # An expression of several licences, or a reference to a text elsewhere, names none that readers of cards know.
        if _ONE.fullmatch(word) and not word.startswith("licenseref-"):
            return canonicalize_license_expression(word).lower()
    except InvalidLicenseExpression:
        pass
    fix = did_you_mean(word[:60], _USUAL) or did_you_mean(word[:60], _NOT_OF_SPDX)
    expected = (
        "It takes one that Hugging Face lists, or one of https://spdx.org/licenses: cc-by-4.0, mit, ..., or other"
    )
    raise UsageError(f"--license '{one_line(text, 60)}' is not a licence that cards can name.{fix} {expected}.")
