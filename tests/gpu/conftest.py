"""Tests that need a GPU: they are marked, and without one skipped in one line."""

from pathlib import Path

import pytest
import torch

from cld_core.gpu_checks.findings import NO_CARD, without_card

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder, so that `-m "not gpu"` leaves them out."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session", autouse=True)
def card() -> None:
    """Skip this folder if torch sees no GPU."""
    if not torch.cuda.is_available():
        pytest.skip(f"gpu: {NO_CARD}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [report for report in terminalreporter.getreports("skipped") if NO_CARD in str(report.longrepr)]
    if skipped:
        terminalreporter.write_line(without_card(len(skipped)))
