"""What all tests share: the markers that follow from what a test uses, the paths of the tree, and the API server of the session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from scripts.kubernetes_parts import PartMissing, parts
from tests.support.cluster import Cluster, running_cluster
from tests.support.figures import PROPERTY, Figure, figures_of
from tests.support.registry import Registry, running_registry

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what needs the built monitor and /dev/kvm (everything under tests/monitor and tests/system), and what needs a cluster."""
    for item in items:
        if _on_cluster(item):
            item.add_marker(pytest.mark.cluster)
        if any(item.path.is_relative_to(ROOT / "tests" / room) for room in ("monitor", "system")):
            item.add_marker(pytest.mark.system)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Builds the parts of the API server, if a test needs them, before any test's time runs."""
    if any(_on_cluster(item) for item in session.items) and not session.config.option.collectonly:
        with suppress(PartMissing):  # the fixture says so, to whom it concerns
            parts()


def _on_cluster(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)  # a fixture that is asked for by name, for one parameter of several
    return "cluster" in getattr(item, "fixturenames", ()) or (callspec is not None and "kubernetes" in callspec.params.values())


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A real API server with the CRDs, for the whole session."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as running:
        running.kubectl("apply", "--server-side", "-k", str(ROOT / "crds"))
        running.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
        yield running


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
