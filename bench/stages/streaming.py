"""Bodies that do not fit anywhere: how soon a part is passed on, how fast 100 MB go each way, and whether the server grows by them."""

from __future__ import annotations

import http.client
import json
import threading
import time

from bench import accounting, images
from bench.node import Node, manifest
from bench.quantiles import spread
from bench.results import Streaming
from bench.stages.plan import Plan

_NAME = "streams"
_PARTS = 50
_PIECE = bytes(1 << 18)
_TRIES = 3
_WATCH_S = 0.02


def measure(node: Node, plan: Plan) -> Streaming:
    """Through the front, ours."""
    node.apply([manifest(images.cpython(), _NAME, memory="256Mi")])
    server = node.plane("faas_server")
    delays = [delay for _ in range(2) for delay in _delays(node)]
    _down(node, 1)
    before = accounting.resident_mib(server)
    with Watching(server) as watching:
        down = max(_down(node, plan.stream_mib) for _ in range(_TRIES))
        up = max(_up(node, plan.stream_mib) for _ in range(_TRIES))
    return Streaming(
        first_byte_ms=spread(delays),
        down_mb_s=down,
        up_mb_s=up,
        mib=plan.stream_mib,
        server_growth_mib=max(0.0, watching.most - before),
    )


class Watching:
    """The most memory that a process has in use while the block runs."""

    def __init__(self, pid: int) -> None:
        self.most = 0.0
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watching:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_WATCH_S):
            self.most = max(self.most, accounting.resident_mib(self._pid))


def _delays(node: Node) -> list[float]:
    """Seconds from the guest's writing of a part to its arrival; guest and client have one clock."""
    connection = http.client.HTTPConnection(node.host, node.port, timeout=60)
    connection.request("POST", f"/default/{_NAME}/stream?parts={_PARTS}")
    response = connection.getresponse()
    found = []
    while line := response.readline():
        found.append((time.time_ns() - int(line)) / 1e9)
    connection.close()
    if len(found) != _PARTS:
        raise SystemExit(f"a stream had {len(found)} of {_PARTS} parts")
    return found


def _down(node: Node, mib: int) -> float:
    """MB a second of an answer."""
    connection = http.client.HTTPConnection(node.host, node.port, timeout=60)
    connection.request("POST", f"/default/{_NAME}/give?mib={mib}")
    response = connection.getresponse()
    began, size = time.perf_counter(), 0
    space = memoryview(bytearray(1 << 20))
    while got := response.readinto(space):
        size += got
    took = time.perf_counter() - began
    connection.close()
    if size != mib << 20:
        raise SystemExit(f"an answer had {size} of {mib << 20} bytes")
    return size / took / 1e6


def _up(node: Node, mib: int) -> float:
    """MB a second of a request's body, until the guest has said how long it was."""
    connection = http.client.HTTPConnection(node.host, node.port, timeout=60)
    connection.connect()
    began = time.perf_counter()
    connection.putrequest("POST", f"/default/{_NAME}/take")
    connection.putheader("Content-Length", str(mib << 20))
    connection.endheaders()
    for _ in range((mib << 20) // len(_PIECE)):
        connection.send(_PIECE)
    response = connection.getresponse()
    answer = json.loads(response.read())
    took = time.perf_counter() - began
    connection.close()
    if answer != {"taken": mib << 20}:
        raise SystemExit(f"the guest took {answer} of {mib << 20} bytes")
    return (mib << 20) / took / 1e6
