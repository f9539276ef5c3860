"""What the server answers itself: nothing of that name, a body too long or malformed, no time left."""

from __future__ import annotations

import socket
import time

import pytest

from tests.server.conftest import StartNode
from tests.support.nodes import Node, deploy, until_closed, wait_for


@pytest.mark.parametrize("path", ["/default/nobody", "/nobody/peer", "/default/peer2/x"])
def test_an_unknown_function_is_404(node: Node, path: str) -> None:
    reply = node.call(path, b"hello")
    assert reply.status == 404
    assert "no such function" in reply.error
    assert reply.headers["Content-Type"].startswith("application/json")


def test_a_body_over_the_limit_is_413(start_node: StartNode) -> None:
    node = start_node(request_bytes=1000)
    deploy(node.data, "peer")
    node.wait_ready("peer")
    assert node.call("/default/peer/", b"x" * 1000).status == 200
    assert node.call("/default/peer/", b"x" * 1001).status == 413
    # One that is announced is refused before it is sent, one that is not when it is too much.
    head = b"POST /default/peer/%b HTTP/1.1\r\nHost: x\r\n"
    announced = node.exchange(head % b"" + b"Content-Length: 5000000\r\n\r\n")
    assert announced.startswith(b"HTTP/1.1 413")
    assert b"Connection: close" in announced
    with node.connected() as connection:
        connection.sendall(head % b"hang" + b"X-Call-Id: large\r\nTransfer-Encoding: chunked\r\n\r\n1f4\r\n" + b"x" * 500 + b"\r\n")
        wait_for(lambda: node.log_of("large"), "the call runs")
        connection.sendall(b"1f5\r\n" + b"x" * 501 + b"\r\n0\r\n\r\n")
        assert until_closed(connection).startswith(b"HTTP/1.1 413")
    receipt = node.receipt("large")
    assert (receipt["status"], receipt["monitor"]["cause"]) == (413, "abandoned")


def test_a_malformed_body_is_400_and_ends_the_call(node: Node) -> None:
    head = b"POST /default/peer/hang HTTP/1.1\r\nHost: x\r\nX-Call-Id: malformed\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    with node.connected() as connection:
        connection.sendall(head)
        wait_for(lambda: node.log_of("malformed"), "the call runs")
        connection.sendall(b"zz\r\n")
        came = until_closed(connection)
    assert came.startswith(b"HTTP/1.1 400")
    assert came.count(b"HTTP/1.") == 1
    assert node.receipt("malformed")["monitor"]["cause"] == "abandoned"


def test_a_body_that_ends_early_is_the_end_of_the_call(node: Node) -> None:
    with node.connected() as connection:
        connection.sendall(b"POST /default/peer/hang HTTP/1.1\r\nHost: x\r\nX-Call-Id: short\r\nContent-Length: 10\r\n\r\nhello")
        wait_for(lambda: node.log_of("short"), "the call runs")
        connection.shutdown(socket.SHUT_WR)
        until_closed(connection)
    assert node.receipt("short")["status"] == 499


def test_the_functions_timeout_is_408(start_node: StartNode) -> None:
    node = start_node()
    deploy(node.data, "peer", timeout_ms=300)
    node.wait_ready("peer")
    began = time.monotonic()
    reply = node.call("/default/peer/hang", headers={"X-Call-Id": "late"})
    assert reply.status == 408
    assert 0.25 < time.monotonic() - began < 3
    assert reply.json["error"] == {"message": "the function did not answer within 0.3 s", "call": "late"}
    assert reply.headers["X-Mayfly-Instance"] is None
    receipt = node.receipt("late")
    assert (receipt["status"], receipt["monitor"]["cause"]) == (408, "abandoned")
    assert node.call("/default/peer/").status == 200


def test_the_callers_own_timeout_is_408_too(node: Node) -> None:
    began = time.monotonic()
    assert node.call("/default/peer/hang", headers={"X-Mayfly-Timeout": "0.2"}).status == 408
    assert time.monotonic() - began < 3


def test_a_timeout_in_the_middle_of_an_answer_cuts_the_connection(node: Node) -> None:
    head = b"GET /default/peer/stream?count=50&size=5&pause=0.1 HTTP/1.1\r\nHost: x\r\nX-Mayfly-Timeout: 0.5\r\n\r\n"
    came = node.exchange(head)
    assert came.startswith(b"HTTP/1.1 200 OK")
    assert not came.endswith(b"0\r\n\r\n")
    assert came.count(b"HTTP/1.1") == 1
