"""What costs much to make and is the same for all tests of a run: made by the worker that asks first, used by all."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A directory of this run that `make` fills. Workers that ask meanwhile wait; where it fails, it has failed for all."""
    base = factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "once"
    shared.mkdir(exist_ok=True)
    directory, told = shared / name, shared / f"{name}.told"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not told.exists():
            directory.mkdir(mode=0o755)
            told.write_text("it was not made to its end")
            try:
                make(directory)
            except Exception as error:
                told.write_text(f"{type(error).__name__}: {error}")
                raise
            told.write_text("")
    failure = told.read_text()
    assert not failure, f"{name} could not be made: {failure}"
    return directory
