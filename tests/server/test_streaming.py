"""Bodies on their way: passed on as they come, in both directions, at the pace of whoever reads."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
import time

import pytest

from tests.server.answers import OK
from tests.server.conftest import StartNode
from tests.support.nodes import Node, deploy, resident, until_closed


def test_parts_pass_as_they_come(node: Node) -> None:
    with node.connected() as connection:
        connection.sendall(b"GET /default/peer/stream?count=5&size=3&pause=0.1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        times = []
        while part := connection.recv(65536):
            times.append((time.monotonic(), part))
    assert times[-1][0] - times[0][0] > 0.3
    assert len(times) >= 5
    assert b"".join(part for _, part in times).endswith(b"3\r\n444\r\n0\r\n\r\n")


@pytest.mark.parametrize("framing", ["chunked", "length", "eof"])
def test_a_large_answer_arrives_whole(node: Node, framing: str) -> None:
    reply = node.call(f"/default/peer/stream?count=320&size=65536&framing={framing}")
    assert len(reply.body) == 320 * 65536
    assert hashlib.sha256(reply.body).digest() == hashlib.sha256(b"".join(b"%d" % (n % 10) * 65536 for n in range(320))).digest()


def test_both_directions_stream_at_once(node: Node) -> None:
    """The program answers each part of the request as it comes; the client goes on only when it has seen the answer."""
    with node.connected() as connection:
        connection.sendall(b"POST /default/peer/duplex HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\nConnection: close\r\n\r\n")
        came = b""
        while b"\r\n\r\n" not in came:
            came += connection.recv(65536)
        for number in range(4):
            part = b"%d" % number * 10
            connection.sendall(part)
            while not came.endswith(part):
                came += connection.recv(65536)
        assert connection.recv(1) == b""


def test_a_slow_reader_takes_no_memory(start_node: StartNode) -> None:
    node = start_node()
    deploy(node.data, "peer")
    node.wait_ready("peer")
    before = resident(node.process.pid)
    size = 1600 * 65536
    with node.connected() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(
            b"GET /default/peer/stream?count=1600&size=65536&framing=length HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        assert connection.recv(1000)
        assert node.call("/default/peer/").status == 200  # a while in which the rest could have come
        assert resident(node.process.pid) - before < 20 << 20
        got = 0
        while part := connection.recv(1 << 20):
            got += len(part)
        assert size - 1000 <= got <= size + 1000


def test_a_program_that_reads_slowly_takes_no_memory(start_node: StartNode) -> None:
    node = start_node()
    deploy(node.data, "peer")
    node.wait_ready("peer")
    size = 64 << 20
    before, most = resident(node.process.pid), 0
    with node.connected() as connection:
        connection.sendall(b"POST /default/peer/sink?pause=0.001 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
        sender = threading.Thread(target=connection.sendall, args=(b"z" * size,))
        sender.start()
        while sender.is_alive():
            most = max(most, resident(node.process.pid))
            sender.join(0.02)
        assert b"%d" % size in connection.recv(65536)
    assert most - before < 20 << 20


@pytest.mark.parametrize("size", [5, 3000, 100_000])
def test_an_answer_before_the_body_was_read_counts(node: Node, size: int) -> None:
    """The program answers at once and closes; most of the request is never read."""
    body = b"z" * (8 << 20)
    for _ in range(10):
        with node.connected() as connection:
            connection.sendall(b"POST /default/peer/early?size=%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (size, len(body)))
            sender = threading.Thread(target=_send, args=(connection, body))
            sender.start()
            came = until_closed(connection)
            sender.join()
        head, _, answer = came.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK"), came
        assert answer == b"x" * size
        assert b"Connection: close" in head


def _send(connection: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):  # the server has closed: its answer does not need the rest
        connection.sendall(data)


def test_continue_is_said_once_and_only_when_an_instance_is_there(node: Node) -> None:
    head = b"POST /default/%b/ HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
    with node.connected() as connection:
        connection.sendall(head % b"peer")
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"hello")
        came = until_closed(connection)
    assert came.startswith(b"HTTP/1.1 200 OK")
    got = json.loads(came.partition(b"\r\n\r\n")[2])
    assert got["body"] == "hello"
    assert not any(field.lower().startswith("expect") for field in got["fields"])
    assert node.exchange(head % b"nobody").startswith(b"HTTP/1.1 404")
    assert node.exchange(head % b"peer" + b"hello").count(b"HTTP/1.1") in (1, 2)


def test_a_head_whose_body_comes_in_parts_is_sent_at_once(node: Node) -> None:
    """A stream of events begins before its first event."""
    answer = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    with node.connected() as connection:
        connection.sendall(b"POST /default/peer/raw-then-stay HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
