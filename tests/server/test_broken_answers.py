"""Answers that are no answers, or not whole ones: with what status they end, and what the client gets of them."""

from __future__ import annotations

import pytest

from tests.server.answers import OK, answered_by, raw
from tests.server.conftest import StartNode
from tests.support.nodes import Node, deploy

BROKEN = {
    "nothing": b"",
    "half a head": OK + b"Content-Len",
    "length and chunked": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi!",
    "status 99": b"HTTP/1.1 99 x\r\n\r\n",
    "a header injected": OK + b"X: a\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
    "an upgrade": b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "no HTTP": b"Traceback (most recent call last):\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\n\r\n",
    "a giant head": OK + b"X: a\r\n" * 50_000,
    "a giant announced": OK + b"Content-Length: 99999999999\r\n\r\nhi",
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_answer_is_502_with_a_reason(node: Node, answer: bytes) -> None:
    reply = raw(node, answer)
    assert reply.status == 502
    assert reply.error
    assert "Traceback" not in reply.error
    assert reply.json["error"]["call"] == reply.headers["X-Call-Id"]
    assert reply.headers["X-Mayfly-Revision"]
    assert reply.headers["Set-Cookie"] is None


def test_an_instance_that_closes_without_an_answer_is_502(node: Node) -> None:
    reply = node.call("/default/peer/close", headers={"X-Call-Id": "closed"})
    assert (reply.status, reply.error) == (502, "the instance closed the connection without an answer")
    receipt = node.receipt("closed")
    assert (receipt["status"], receipt["error"]) == (502, reply.error)


def test_an_instance_that_dies_between_head_and_body_is_502(node: Node) -> None:
    reply = raw(node, OK + b"Content-Length: 10\r\n\r\n")
    assert (reply.status, reply.error) == (502, "the instance closed the connection in the middle of its answer")


CUT = {
    "short of its length": OK + b"Content-Length: 10\r\n\r\nhello",
    "without its last chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "with a chunk that lies": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello!!\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("answer", CUT.values(), ids=CUT.keys())
@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
def test_an_answer_cut_half_way_never_looks_whole(node: Node, answer: bytes, version: bytes) -> None:
    head = b"POST /default/peer/raw?step=20 %b\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (version, len(answer))
    with node.connected() as connection:
        connection.sendall(head + answer)
        came, reset = b"", False
        try:
            while part := connection.recv(65536):
                came += part
        except ConnectionResetError:
            reset = True
    assert came.startswith(b"HTTP/1.")
    assert b" 200 OK" in came
    assert not came.endswith(b"0\r\n\r\n")
    assert reset or b"Content-Length: 10" in came or b"Transfer-Encoding: chunked" in came


@pytest.mark.parametrize(("query", "whole"), [("", True), ("?cause=exited&code=0", True), ("?cause=exited&code=1", False)])
@pytest.mark.parametrize(("cause", "judged"), [("", None), ("signal", False), ("deadline", False), ("output", False)])
def test_an_answer_that_ends_with_its_connection_is_whole_if_the_receipt_says_so(
    node: Node, query: str, whole: bool, cause: str, judged: bool | None
) -> None:
    query = f"?cause={cause}&code=9" if cause else query
    came = answered_by(node, OK + b"\r\nhello", query.encode())
    assert b"5\r\nhello\r\n" in came
    assert came.endswith(b"0\r\n\r\n") is (whole if judged is None else judged)


def test_an_answer_over_the_limit_is_cut(start_node: StartNode) -> None:
    node = start_node(response_bytes=100_000)
    deploy(node.data, "peer")
    node.wait_ready("peer")
    assert len(node.call("/default/peer/stream?count=10&size=10000").body) == 100_000
    came = node.exchange(b"GET /default/peer/stream?count=1000&size=10000&pause=0.001 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert came.startswith(b"HTTP/1.1 200")
    assert not came.endswith(b"0\r\n\r\n")
    assert len(came) < 200_000
    assert node.call("/default/peer/stream?count=11&size=10000&framing=length").status == 502


@pytest.mark.parametrize("contract", ["http", "stdin", "kontain"])
def test_a_function_that_failed_is_500_with_the_cause(start_node: StartNode, contract: str) -> None:
    node = start_node()
    deploy(node.data, "peer", contract=contract)
    node.wait_ready("peer")
    reply = node.call("/default/peer/fail?reason=exit%20status%203&tail=secret", b"in")
    assert reply.status == 500
    assert reply.error == "the function failed: exit status 3"
    assert reply.headers["X-Mayfly-Failure"] == "exit status 3"
    assert b"secret" not in reply.body
    assert node.receipt(reply.headers["X-Call-Id"])["monitor"]["tail"] == "secret"
    assert node.call("/default/peer/fail?reason=%C3%A4").headers["X-Mayfly-Failure"] == "unknown"


@pytest.mark.parametrize(("reason", "status"), [("deadline", 408), ("internal", 502)])
def test_what_is_not_the_functions_failure_has_a_status_of_its_own(node: Node, reason: str, status: int) -> None:
    reply = node.call(f"/default/peer/fail?reason={reason}")
    assert reply.status == status
