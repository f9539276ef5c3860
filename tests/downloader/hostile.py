"""A registry that misbehaves as told: a plain asyncio server that answers requests with the bytes it is given."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.support.images import TinyImage


@dataclass
class Asked:
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]


Answer = Callable[[asyncio.StreamWriter, Asked], Awaitable[None]]


@dataclass
class Hostile:
    """Serves `image` faithfully, but for the paths that `answers` has (longest matching beginning)."""

    image: TinyImage
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    address: str = ""

    @property
    def reference(self) -> str:
        return f"docker://{self.address}/bad:v1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await _request(reader):
                self.asked.append(request)
                matching = [beginning for beginning in self.answers if request.path.startswith(beginning)]
                answer = self.answers[max(matching, key=len)] if matching else self.faithfully
                await answer(writer, request)
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client gave up, or the test is over
        finally:
            writer.close()

    async def faithfully(self, writer: asyncio.StreamWriter, asked: Asked) -> None:
        """What a registry answers."""
        name = asked.path.rpartition("/")[2]
        if "/manifests/" in asked.path:
            reply(writer, self.image.manifests.get(name, self.image.manifest), asked, {"Content-Type": self.image.media_type})
        elif name in self.image.blobs:
            reply(writer, self.image.blobs[name], asked)
        else:
            reply(writer, b"{}", asked, status="404 Not Found")


def reply(writer: asyncio.StreamWriter, body: bytes, asked: Asked, headers: dict[str, str] | None = None, status: str = "200 OK") -> None:
    """Writes a well-formed answer."""
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items())]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if asked.method == "HEAD" else body))


def replying(body: bytes = b"{}", status: str = "200 OK", **headers: str) -> Answer:
    """An answer that is always the same."""

    async def answer(writer: asyncio.StreamWriter, asked: Asked) -> None:
        reply(writer, body, asked, {name.replace("_", "-"): value for name, value in headers.items()}, status)

    return answer


def redirecting(location: str) -> Answer:
    """An answer that sends the client elsewhere."""
    return replying(b"", "307 Temporary Redirect", Location=location)


def raw(*pieces: bytes, pause: float = 0.0, then: str = "close") -> Answer:
    """Bytes as they are, with pauses between; then the connection is closed, or kept open without another byte."""

    async def answer(writer: asyncio.StreamWriter, asked: Asked) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        if then == "hang":
            await asyncio.sleep(3600)
        writer.close()

    return answer


def dripping(head: bytes, pause: float) -> Answer:
    """A byte at a time, for ever."""

    async def answer(writer: asyncio.StreamWriter, asked: Asked) -> None:
        writer.write(head)
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(pause)

    return answer


def flooding(head: bytes) -> Answer:
    """As many bytes as the client takes."""

    async def answer(writer: asyncio.StreamWriter, asked: Asked) -> None:
        writer.write(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        if asked.method == "HEAD":
            writer.close()
        while not writer.is_closing():
            writer.write(b" " * 65536)
            await writer.drain()

    return answer


def said(code: str, message: str) -> bytes:
    """An error as registries say it."""
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


async def _request(reader: asyncio.StreamReader) -> Asked | None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1") if not reader.at_eof() else ""
    if not head.strip():
        return None
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split(" ")
    return Asked(method, path, {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)})


@asynccontextmanager
async def hostile_registry(image: TinyImage) -> AsyncIterator[Hostile]:
    """Runs one on loopback."""
    registry = Hostile(image)
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_served(registry, reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    registry.address = "{}:{}".format(*server.sockets[0].getsockname())
    try:
        yield registry
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


async def _served(registry: Hostile, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await registry.serve(reader, writer)
    except asyncio.IncompleteReadError:
        return
