"""Browsers of other origins: preflights, and fields that let them read."""

from __future__ import annotations

from tests.server.answers import OK, raw
from tests.server.conftest import StartNode
from tests.support.nodes import Node, deploy


def test_a_preflight_is_answered(node: Node) -> None:
    asks = {"Origin": "https://app.test", "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "x-mine, content-type"}
    reply = node.call("/default/peer/a", method="OPTIONS", headers=asks)
    assert (reply.status, reply.body) == (204, b"")
    assert reply.headers["Access-Control-Allow-Origin"] == "*"
    assert "PUT" in reply.headers["Access-Control-Allow-Methods"]
    assert reply.headers["Access-Control-Allow-Headers"] == "x-mine, content-type"
    assert reply.headers["X-Mayfly-Instance"] is None
    assert node.call("/default/nobody", method="OPTIONS", headers=asks).status == 404
    assert node.call("/default/peer/", method="OPTIONS", headers={"Origin": "x"}).json["request"] == "OPTIONS / HTTP/1.1"


def test_a_browser_may_read_the_answer(node: Node) -> None:
    assert node.call("/default/peer/", headers={"Origin": "https://app.test"}).headers["Access-Control-Allow-Origin"] == "*"
    assert node.call("/default/peer/").headers["Access-Control-Allow-Origin"] is None
    own = raw(node, OK + b"Access-Control-Allow-Origin: https://one.test\r\nContent-Length: 0\r\n\r\n", headers={"Origin": "x"})
    assert own.headers.get_all("Access-Control-Allow-Origin") == ["https://one.test"]


def test_with_cors_off_a_preflight_is_a_call(start_node: StartNode) -> None:
    node = start_node(cors_origins="")
    deploy(node.data, "peer")
    node.wait_ready("peer")
    asks = {"Origin": "https://app.test", "Access-Control-Request-Method": "PUT"}
    reply = node.call("/default/peer/", method="OPTIONS", headers=asks)
    assert reply.json["request"] == "OPTIONS / HTTP/1.1"
    assert reply.headers["Access-Control-Allow-Origin"] is None
