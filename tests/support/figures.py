"""What tests measured, as lines at the end of a run: a figure is worth as much as its test, whether or not it is held to a bound."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

# Tells one figure of the test that asked for this: the fixture `figure`.
Figure = Callable[[str], None]

PROPERTY = "figure"


def figures_of(reports: Iterable[pytest.TestReport]) -> list[str]:
    """A line for each figure, beginning with its test."""
    return [
        f"{report.nodeid.removeprefix('tests/')}: {text}"
        for report in sorted(reports, key=lambda report: report.nodeid)
        for name, text in report.user_properties
        if name == PROPERTY and report.when == "call"
    ]
