"""Small programs in C, built when a test needs them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.once import made_once

# What the programs of the monitor's tests share.
SHARED = Path(__file__).parents[1] / "monitor" / "programs"
STATIC = ("-static", "-O1", "-pthread")


def compiled(path: Path, source: str, *flags: str, compiler: str = "cc") -> Path:
    """A program or a library built of `source`; `flags` come last, so that libraries may be among them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [compiler, "-x", "c", "-", "-x", "none", "-o", str(path), *flags]
    finished = subprocess.run(command, input=source.encode(), capture_output=True, check=False)
    assert finished.returncode == 0, finished.stderr.decode("utf-8", "replace")
    return path


def programs_of(directory: Path, factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Builds <directory>/<name>.c, statically unless told otherwise; once a run for each set of flags."""

    def build(name: str, *flags: str) -> Path:
        flags = flags or STATIC
        key = "-".join(["program", directory.parent.name, name, *(flag.strip("-") for flag in flags)])
        source = (directory / f"{name}.c").read_text()
        return made_once(factory, key, lambda place: compiled(place / name, source, f"-I{SHARED}", *flags)) / name

    return build
