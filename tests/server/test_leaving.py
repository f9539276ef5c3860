"""Clients that leave before their answer is whole."""

from __future__ import annotations

from tests.support.nodes import Node, wait_for


def test_a_client_that_leaves_ends_its_instance(node: Node) -> None:
    with node.connected() as connection:
        connection.sendall(b"GET /default/peer/hang HTTP/1.1\r\nHost: x\r\nX-Call-Id: left\r\n\r\n")
        wait_for(lambda: node.log_of("left"), "the call runs")
    receipt = node.receipt("left")
    assert (receipt["status"], receipt["monitor"]["cause"]) == (499, "abandoned")


def test_a_client_that_leaves_with_its_answer_has_not_abandoned_it(node: Node) -> None:
    for number in range(50):
        node.call("/default/peer/", b"x" * 1000, headers={"X-Call-Id": f"satisfied-{number}"})
    assert {node.receipt(f"satisfied-{number}")["status"] for number in range(50)} == {200}


def test_a_client_that_leaves_in_the_middle_of_an_answer_ends_its_instance(node: Node) -> None:
    with node.connected() as connection:
        connection.sendall(b"GET /default/peer/stream?count=1000&size=100000 HTTP/1.1\r\nHost: x\r\nX-Call-Id: left-mid\r\n\r\n")
        connection.recv(1000)
    receipt = node.receipt("left-mid")
    assert (receipt["status"], receipt["monitor"]["cause"]) == (499, "abandoned")
