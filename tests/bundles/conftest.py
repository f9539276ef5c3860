from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bundles import Layout, RevisionStore, durable

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the kernel lets nobody else do what is tested")

NOT_ROOT = pytest.mark.skipif(os.geteuid() == 0, reason="for ordinary users: run by test_ordinary_user")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory that is removed at once: hostile trees are too deep for pytest's own cleaning."""
    path = tmp_path / "place"
    path.mkdir()
    yield path
    durable.remove_tree(path)


@pytest.fixture
def place_in_memory() -> Iterator[Path]:
    """Such a directory in memory where the machine has it, for tests that sync thousands of times and do not rely on a disk."""
    path = Path(tempfile.mkdtemp(prefix="mayfly-test-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    yield path
    durable.remove_tree(path)


@pytest.fixture
def layout(place: Path) -> Layout:
    return Layout.create(place / "layout")


@pytest.fixture
def store(place: Path) -> RevisionStore:
    return RevisionStore(place / "bundles")


def eventually(condition: Callable[[], object], seconds: float = 10) -> None:
    """Waits until `condition` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)
