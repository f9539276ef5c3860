"""Calls whose program answers with bytes that a test chooses."""

from __future__ import annotations

from tests.support.nodes import Node, Reply

OK = b"HTTP/1.1 200 OK\r\n"


def raw(node: Node, answer: bytes, *, query: str = "", method: str = "POST", headers: dict[str, str] | None = None) -> Reply:
    """A call whose program answers with exactly these bytes."""
    return node.call(f"/default/peer/raw{query}", answer, method, headers)


def answered_by(node: Node, answer: bytes, query: bytes = b"", version: bytes = b"HTTP/1.1") -> bytes:
    """The same, with the bytes that the client gets."""
    head = b"POST /default/peer/raw%b %b\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (query, version, len(answer))
    return node.exchange(head + answer)
