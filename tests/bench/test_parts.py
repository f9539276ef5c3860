"""A part that fails is told and does not take the others with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.__main__ import Run
from bench.results import Part, Results
from bench.stages.plan import PLANS


def test_a_part_that_fails_is_in_the_results_and_the_next_one_runs(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(PLANS["test"], [], [])
    done: list[str] = []

    def fails() -> None:
        raise SystemExit("a call was answered 500")

    def breaks() -> None:
        raise ConnectionResetError(104, "reset")

    run.part("one", fails)
    run.part("broken", breaks)
    run.part("two", lambda: done.append("two"))
    assert done == ["two"]
    assert run.results.missing["broken"] == "failed: ConnectionResetError(104, 'reset')"
    assert run.failed
    assert run.results.missing["one"] == "failed: a call was answered 500"
    assert "a call was answered 500" in capsys.readouterr().err


def test_what_is_measured_is_kept_after_each_part(tmp_path: Path) -> None:
    target = tmp_path / "latest.json"
    run = Run(PLANS["test"], [], [], target)
    run.part("one", lambda: run.results.micro.append(Part(name="a", value=1, unit="µs")))
    assert [part.name for part in Results.load(target).micro] == ["a"]


def test_a_part_that_was_not_asked_for_is_named() -> None:
    run = Run(PLANS["test"], ["two"], [])
    run.part("one", lambda: pytest.fail("it was not asked for"))
    assert run.results.missing["one"] == "it was not asked for"
    assert not run.failed
