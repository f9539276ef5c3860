"""Calls through a whole server: what reaches the program, what comes back, and with what status."""

from __future__ import annotations

from tests.support.nodes import Node


def test_a_call_reaches_the_program_and_its_answer_comes_back(node: Node) -> None:
    reply = node.call("/default/peer/a/b?c=d", b"hello", headers={"X-Mine": "1"})
    assert reply.status == 200
    assert reply.json["request"] == "POST /a/b?c=d HTTP/1.1"
    assert reply.json["body"] == "hello"
    assert "X-Mine: 1" in reply.json["fields"]
