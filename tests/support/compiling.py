"""Small programs in C, built when a test needs them."""

from __future__ import annotations

import subprocess
from pathlib import Path


def compiled(path: Path, source: str, *flags: str, compiler: str = "cc") -> Path:
    """A program or a library built of `source`; `flags` come last, so that libraries may be among them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [compiler, "-x", "c", "-", "-x", "none", "-o", str(path), *flags]
    finished = subprocess.run(command, input=source.encode(), capture_output=True, check=False)
    assert finished.returncode == 0, finished.stderr.decode("utf-8", "replace")
    return path
