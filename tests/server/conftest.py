"""Fixtures of the server's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest
import uvloop

from tests.support.nodes import Node, deploy, scripted_monitor


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Callable[[], Any]]:
    """The loop that the server runs on: how its transports end is part of what is tested."""
    return {"uvloop": uvloop.new_event_loop}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starting a server takes about a second, so a test that needs one of its own is slow."""
    for item in items:
        if "start_node" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


class StartNode(Protocol):
    """Starts a server on a data directory."""

    def __call__(self, data: Path | None = None, **settings: str | float) -> Node: ...


@pytest.fixture(scope="session")
def monitor_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripted monitor."""
    return scripted_monitor(tmp_path_factory.mktemp("monitor"))


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory, monitor_program: Path) -> Iterator[Node]:
    """One server for the tests that leave it as it was: `default/peer` is deployed and ready."""
    data = tmp_path_factory.mktemp("node")
    deploy(data, "peer")
    running = Node(data, monitor_program)
    try:
        running.wait_ready("peer")
        yield running
        assert running.stop() == 0, "".join(running.lines)
    finally:
        running.kill()


@pytest.fixture
def start_node(tmp_path: Path, monitor_program: Path) -> Iterator[StartNode]:
    """Servers of a test's own, on its `tmp_path` if it names no other directory."""
    started: list[Node] = []

    def start(data: Path | None = None, **settings: str | float) -> Node:
        started.append(Node(data or tmp_path, monitor_program, settings))
        return started[-1]

    yield start
    for running in started:
        running.kill()
