"""The command line as people use it: a process with arguments, a data directory, and three streams."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.running import CommandLine

Mayfly = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(root: Path, tmp_path: Path) -> dict[str, str]:
    """No variable of the person who runs the tests gets in, and no file of theirs is touched."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_") and not name.startswith("XDG_")}
    return {**kept, "PYTHONPATH": str(root), "HOME": str(tmp_path), "MAYFLY_DATA": str(tmp_path / "data"), "NO_COLOR": "1"}


@pytest.fixture(scope="session")
def command_line(root: Path) -> Iterator[CommandLine]:
    with CommandLine(root) as running:
        yield running


@pytest.fixture
def mayfly(command_line: CommandLine, environment: dict[str, str], tmp_path: Path) -> Mayfly:
    """Runs the command line: `mayfly("get", "images", stdin="…", VARIABLE="…")`."""

    def run(*arguments: str | Path, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        return command_line.run([*map(str, arguments)], stdin=stdin, environment={**environment, **more}, directory=tmp_path)

    return run
