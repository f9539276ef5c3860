"""Clients of every kind at once, for a while; then everything is as it was before."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
import time

from tests.server.conftest import StartNode
from tests.support.nodes import Node, deploy, resident, wait_for

SECONDS = 4.0
CLIENTS = 24
HEAD = b"%b /default/peer/%b HTTP/1.1\r\nHost: x\r\n"

REQUESTS = [
    HEAD % (b"GET", b"") + b"\r\n",
    HEAD % (b"GET", b"close") + b"\r\n",
    HEAD % (b"GET", b"hang") + b"X-Mayfly-Timeout: 0.2\r\n\r\n",
    HEAD % (b"GET", b"sleep?seconds=0.05") + b"\r\n",
    HEAD % (b"GET", b"stream?count=20&size=70000") + b"\r\n",
    HEAD % (b"GET", b"stream?count=20&size=70000&framing=eof") + b"\r\n",
    HEAD % (b"GET", b"stream?count=5&size=10&pause=0.02&framing=length") + b"\r\n",
    HEAD % (b"POST", b"early") + b"Content-Length: 500000\r\n\r\n" + b"x" * 500_000,
    HEAD % (b"POST", b"sink") + b"Content-Length: 500000\r\n\r\n" + b"x" * 500_000,
    HEAD % (b"POST", b"duplex") + b"Content-Length: 500000\r\n\r\n" + b"x" * 500_000,
    HEAD % (b"POST", b"") + b"Content-Length: 500000\r\n\r\n" + b"x" * 1000,
    HEAD % (b"POST", b"") + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    HEAD % (b"POST", b"hang") + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz",
    HEAD % (b"POST", b"raw") + b"Content-Length: 30\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length:",
    HEAD % (b"POST", b"raw") + b"Content-Length: 5\r\n\r\nhello",
    b"nonsense\r\n\r\n",
]


def client(node: Node, seed: int, until: float) -> None:
    """Sends something, reads for a while or not, leaves in good order or not."""
    choose = random.Random(seed)
    while time.monotonic() < until:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", node.port), timeout=choose.choice((0.05, 0.3))) as connection,
        ):
            for _ in range(choose.randrange(1, 4)):
                data = choose.choice(REQUESTS)
                connection.sendall(data[: choose.choice((len(data), len(data), choose.randrange(len(data))))])
                for _ in range(choose.randrange(5)):
                    connection.recv(choose.choice((1, 100, 100_000)))
            if choose.random() < 0.3:
                connection.shutdown(socket.SHUT_WR)


def test_after_every_kind_of_client_nothing_is_left(start_node: StartNode) -> None:
    node = start_node()
    deploy(node.data, "peer", concurrency=12)
    deploy(node.data, "other")
    node.wait_ready("peer")
    node.wait_ready("other")
    assert node.call("/default/peer/").status == 200
    before = len(os.listdir(f"/proc/{node.process.pid}/fd"))
    memory = resident(node.process.pid)
    until = time.monotonic() + SECONDS
    threads = [threading.Thread(target=client, args=(node, seed, until)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()
    while time.monotonic() < until:
        assert node.call("/default/other/").status == 200
    for thread in threads:
        thread.join()

    def idle() -> bool:
        status = node.status("peer") or {}
        return (status["running"], status["waiting"], status["serving"]["calls"]) == (0, 0, 0)

    wait_for(idle, "no call is left")
    wait_for(lambda: len(os.listdir(f"/proc/{node.process.pid}/fd")) <= before, "no descriptor is left")
    assert node.call("/_mayfly/node").json["calls"]["running"] == 0
    assert node.call("/default/peer/").status == 200
    assert resident(node.process.pid) - memory < 60 << 20
    assert not [entry for entry in node.log() if entry["level"] in ("error", "critical")]
    assert node.stop() == 0
