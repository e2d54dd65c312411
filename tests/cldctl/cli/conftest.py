"""Fixtures of the tests of runs."""

import pytest

from tests.support.scripted import register


@pytest.fixture
def scripted(monkeypatch):
    return register(monkeypatch)
