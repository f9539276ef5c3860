"""A function that sleeps on a real node: nothing of it runs, and a call wakes it from its snapshot, after a restart too."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.figures import Figure
from tests.support.node import Node, running_node, until
from tests.support.system import configured_node

pytestmark = pytest.mark.slow


@pytest.fixture
def node(root: Path, place: Path, monitor: Path) -> Iterator[Node]:
    with configured_node(root, place, monitor, sleep_after=1) as running:
        yield running


def timed(node: Node) -> float:
    """Seconds of a call, the command's start included."""
    began = time.perf_counter()
    assert node.call("hello", "-d", "Ada")["status"] == 200
    return time.perf_counter() - began


def test_a_call_wakes_what_sleeps_and_a_node_that_starts_leaves_it_asleep(
    node: Node, examples: Path, root: Path, place: Path, monitor: Path, figure: Figure
) -> None:
    node.deploy(examples / "hello" / "image.oci", "hello")
    assert node.monitors()
    until(lambda: not node.monitors(), "the function sleeps")
    woken = timed(node)
    assert node.monitors()
    figure(f"a call that wakes {woken * 1000:.0f} ms, the next {timed(node) * 1000:.0f} ms, with the command's start")
    until(lambda: not node.monitors(), "it sleeps again")
    assert node.stop() == 0
    with running_node(root, place, monitor) as again:
        assert "Serving" in again.ok("get", "image", "hello", "-o", "yaml")
        assert not again.monitors(), "nobody has called it"
        assert again.call("hello", "-d", "Ada")["status"] == 200
        assert again.monitors()
