"""The command line as people use it: a process with arguments, a data directory, and three streams."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Mayfly = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(root: Path, tmp_path: Path) -> dict[str, str]:
    """No variable of the person who runs the tests gets in, and no file of theirs is touched."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_") and not name.startswith("XDG_")}
    return {**kept, "PYTHONPATH": str(root), "HOME": str(tmp_path), "MAYFLY_DATA": str(tmp_path / "data"), "NO_COLOR": "1"}


@pytest.fixture
def mayfly(environment: dict[str, str], tmp_path: Path) -> Mayfly:
    """Runs the command line: `mayfly("get", "images", stdin="…")`."""

    def run(*arguments: str | Path, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mayfly", *map(str, arguments)]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, env={**environment, **more}, cwd=tmp_path, timeout=100, check=False
        )

    return run
