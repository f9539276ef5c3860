"""Calls beyond what a function or the node takes at once: they wait, or are refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.server.conftest import StartNode
from tests.support.nodes import Node, deploy, wait_for


@contextmanager
def busy(start_node: StartNode) -> Iterator[Node]:
    """A node whose function takes one call at a time, and has one until the end of the block."""
    node = start_node()
    deploy(node.data, "peer", concurrency=1)
    node.wait_ready("peer")
    with node.held("peer") as replies:
        wait_for(lambda: (node.status("peer") or {})["running"] == 1, "a call runs")
        yield node
    assert [reply.status for reply in replies] == [200]


def test_calls_beyond_concurrency_wait_and_beyond_the_queue_are_429(start_node: StartNode) -> None:
    node = start_node(function_calls_waiting=2)
    deploy(node.data, "peer", concurrency=2)
    deploy(node.data, "other")
    node.wait_ready("peer")
    node.wait_ready("other")
    with node.held(*["peer"] * 4) as replies:
        wait_for(lambda: (node.status("peer") or {})["waiting"] == 2, "two calls wait")
        refused = node.call("/default/peer/")
        assert refused.status == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert node.call("/default/other/").status == 200
    assert [reply.status for reply in replies] == [200] * 4


def test_the_node_has_a_limit_of_its_own(start_node: StartNode) -> None:
    node = start_node(calls=2, calls_waiting=1)
    deploy(node.data, "peer")
    deploy(node.data, "other")
    node.wait_ready("peer")
    node.wait_ready("other")
    with node.held("peer", "other", "peer") as replies:
        wait_for(lambda: node.call("/_mayfly/node").json["calls"]["waiting"] == 1, "a call waits")
        refused = node.call("/default/other/")
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) >= 1
    assert [reply.status for reply in replies] == [200] * 3


def test_a_call_that_waits_for_its_whole_budget_is_503_and_never_runs(start_node: StartNode) -> None:
    with busy(start_node) as node:
        refused = node.call("/default/peer/", headers={"X-Mayfly-Timeout": "0.2"})
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) >= 1
    assert wait_for(lambda: node.status("peer"), "status")["running"] == 0


def test_a_client_that_leaves_the_queue_frees_its_place(start_node: StartNode) -> None:
    with busy(start_node) as node:
        with node.connected() as connection:
            connection.sendall(b"GET /default/peer/ HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_for(lambda: (node.status("peer") or {})["waiting"] == 1, "a call waits")
        wait_for(lambda: (node.status("peer") or {})["waiting"] == 0, "it has left")
    assert node.call("/default/peer/").status == 200
