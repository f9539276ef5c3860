"""A part that fails is told and does not take the others with it."""

from __future__ import annotations

import pytest

from bench.__main__ import Run
from bench.stages.plan import PLANS


def test_a_part_that_fails_is_in_the_results_and_the_next_one_runs(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(PLANS["test"], [], [])
    done: list[str] = []

    def fails() -> None:
        raise SystemExit("a call was answered 500")

    run.part("one", fails)
    run.part("two", lambda: done.append("two"))
    assert done == ["two"]
    assert run.failed
    assert run.results.missing["one"] == "failed: a call was answered 500"
    assert "a call was answered 500" in capsys.readouterr().err


def test_a_part_that_was_not_asked_for_is_named() -> None:
    run = Run(PLANS["test"], ["two"], [])
    run.part("one", lambda: pytest.fail("it was not asked for"))
    assert run.results.missing["one"] == "it was not asked for"
    assert not run.failed
