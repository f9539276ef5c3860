"""A proxy before an API server that does to one answer what networks and servers do: it refuses, cuts, stalls, dribbles, says more.

It speaks plain HTTP to the client and TLS to the API server, so that it can tell requests apart. Everything that no fault is set for passes
as it is: what the client learns comes from the real server.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.support.cluster import Cluster


@dataclass
class Request:
    """A request line as it passed: method and path with query."""

    method: str
    target: str

    @property
    def watch(self) -> bool:
        """Whether it asks for a watch."""
        return "watch=1" in self.target


@dataclass
class Fault:
    """What happens to the requests that it is meant for, `times` often."""

    meant: Callable[[Request], bool]
    times: int = 1
    status: int = 0  # answered at once with this, and with:
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    first: bytes = b""  # a chunk before what the server says
    cut_after: bytes | None = None  # the connection breaks right behind these bytes of the answer
    stall_after: bytes | None = None  # the rest of the answer is kept behind these bytes
    piece: int = 0  # the answer passes in pieces of so many bytes
    hit: int = 0


class Proxy:
    """The proxy; `requests` are those that it saw."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._tasks: dict[asyncio.Task[None], Request | None] = {}  # with what they are about
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.url = ""

    def fault(self, meant: Callable[[Request], bool], **what: Any) -> Fault:
        """Sets a fault."""
        self.faults.append(Fault(meant, **what))
        return self.faults[-1]

    def watches(self) -> list[Request]:
        """The watches that were asked for."""
        return [request for request in self.requests if request.watch]

    def lists(self) -> list[Request]:
        """The lists that were asked for: the first pages."""
        return [
            request
            for request in self.requests
            if request.method == "GET" and "limit=" in request.target and "continue=" not in request.target
        ]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one request at a time."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks[task] = None
        with suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError):
            while await self._exchange(task, reader, writer):
                pass
        await _gone(writer)
        del self._tasks[task]

    async def _exchange(self, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        line, *headers = head.decode("latin-1").split("\r\n")
        method, target, _ = line.split(" ", 2)
        request = Request(method, target)
        self.requests.append(request)
        self._tasks[task] = request
        length = next((int(each.partition(":")[2]) for each in headers if each.lower().startswith("content-length:")), 0)
        body = await reader.readexactly(length)
        fault = next((each for each in self.faults if each.hit < each.times and each.meant(request)), None)
        if fault is not None:
            fault.hit += 1
        if fault is not None and fault.status:
            lines = [
                f"HTTP/1.1 {fault.status} Fault",
                f"Content-Length: {len(fault.body)}",
                *(f"{k}: {v}" for k, v in fault.headers.items()),
            ]
            writer.write("\r\n".join([*lines, "", ""]).encode() + fault.body)
            await writer.drain()
            return True
        await self._forward(line, headers, body, writer, fault)
        return False

    async def _forward(self, line: str, headers: list[str], body: bytes, writer: asyncio.StreamWriter, fault: Fault | None) -> None:
        where = urlsplit(self._cluster.url)
        trust = ssl.create_default_context(cafile=str(self._cluster.authority))
        opening = asyncio.ensure_future(asyncio.open_connection(where.hostname, where.port, ssl=trust))
        try:
            upstream, up = await asyncio.shield(opening)
        except asyncio.CancelledError:  # one that is half open would be closed by nobody
            _, up = await opening
            await _gone(up)
            raise
        try:
            kept = [each for each in headers if each and not each.lower().startswith(("connection:", "accept-encoding:"))]
            up.write("\r\n".join([line, *kept, "Connection: close", "", ""]).encode("latin-1") + body)
            await up.drain()
            writer.write(await upstream.readuntil(b"\r\n\r\n"))
            if fault is not None and fault.first:
                writer.write(b"%x\r\n%b\r\n" % (len(fault.first), fault.first))
            await self._body(upstream, writer, fault)
        finally:
            await _gone(up)

    async def _body(self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault | None) -> None:
        """Passes the bytes of a body on as they come, up to where the fault wants it otherwise."""
        passed = b""
        while data := await upstream.read(65536):
            passed += data
            for mark in (fault.cut_after, fault.stall_after) if fault is not None else ():
                if mark is not None and mark in passed:
                    left = len(passed) - passed.index(mark) - len(mark)
                    writer.write(data[: len(data) - left])
                    await writer.drain()
                    if fault is not None and fault.stall_after is not None:
                        await asyncio.Event().wait()
                    writer.transport.abort()
                    return
            pieces = [data[at : at + fault.piece] for at in range(0, len(data), fault.piece)] if fault and fault.piece else [data]
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)  # each piece is a packet of its own to the client

    async def end(self, meant: Callable[[Request], bool] = lambda _: True) -> None:
        """Breaks every connection, or those of the requests that are meant."""
        ending = [task for task, request in self._tasks.items() if request is None or meant(request)]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)


async def _gone(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(OSError, ssl.SSLError):
        await writer.wait_closed()


def event(type_: str, what: Mapping[str, Any]) -> bytes:
    """A line of a watch."""
    return json.dumps({"type": type_, "object": what}).encode() + b"\n"


def status(code: int, reason: str, message: str = "a fault of the tests") -> dict[str, Any]:
    """An API server's word for an error."""
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message}


@asynccontextmanager
async def proxied(cluster: Cluster, port: int = 0) -> AsyncIterator[Proxy]:
    """A proxy before a cluster's API server, until the block ends."""
    proxy = Proxy(cluster)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", port)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        await proxy.end()
