"""What all tests share: the marker of the system tests, and the paths of the tree."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything under tests/system needs the built monitor and /dev/kvm, and says so."""
    for item in items:
        if item.path.is_relative_to(ROOT / "tests" / "system"):
            item.add_marker(pytest.mark.system)


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the source tree."""
    return ROOT
