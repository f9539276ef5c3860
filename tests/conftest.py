"""What all tests share: the marker of the system tests, and the paths of the tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.figures import PROPERTY, Figure, figures_of
from tests.support.registry import Registry, running_registry

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything under tests/monitor and tests/system needs the built monitor and /dev/kvm, and says so."""
    for item in items:
        if any(item.path.is_relative_to(ROOT / "tests" / room) for room in ("monitor", "system")):
            item.add_marker(pytest.mark.system)


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the source tree."""
    return ROOT


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that anybody may use; tests use names of their own in it."""
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def private_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that wants basic auth."""
    with running_registry(tmp_path_factory.mktemp("private"), ("bob", "correct horse")) as running:
        yield running


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Figure:
    """Tells what the test measured; it is shown at the end of the run."""
    return lambda text: record_property(PROPERTY, text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    if lines := figures_of(reports):
        terminalreporter.section("figures")
        terminalreporter.write("\n".join(lines) + "\n")
