"""Unmodified programs of the registries' packages, each in fresh virtual machines: the table of docs/languages.md.

`MAYFLY_TEST_LANGUAGE_CALLS` says how many calls each program answers, `MAYFLY_TEST_LANGUAGE_PAGE` where the page is written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.languages.catalog import Program, all_programs
from tests.languages.measuring import measure
from tests.languages.tables import page, saved_rows

CALLS = int(os.environ.get("MAYFLY_TEST_LANGUAGE_CALLS", "8"))
ALL = all_programs()


@pytest.fixture(scope="session")
def results(root: Path) -> Iterator[Path]:
    """Where rows are kept; at the end the page is written and printed."""
    directory = root / "build" / "languages"
    directory.mkdir(parents=True, exist_ok=True)
    yield directory
    text = page(saved_rows(directory, [program.name for program in ALL]))
    (root / os.environ.get("MAYFLY_TEST_LANGUAGE_PAGE", "build/languages/languages.md")).write_text(text)
    print("\n" + text)


# A first run fetches the packages.
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("program", ALL, ids=lambda program: program.name)
def test_an_unmodified_program_answers_each_call_in_a_fresh_machine(program: Program, results: Path, tmp_path: Path) -> None:
    row = measure(program, tmp_path, CALLS)
    row.save(results)
    assert row.wrong == []
    assert row.repeated == 0, f"{row.repeated} of {row.calls} random values repeat"
