"""A small load generator: connections that are kept alive call one path over and over, and each call is recorded as the client saw it.

It speaks HTTP/1.1 by itself, because a client library would try again where a connection breaks, and so hide the very failures that the
tests look for. Nothing here raises for what a server does: whatever it was is in the outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

PATIENCE = 90.0  # for one call: more than any function's timeout in the tests, so that a hang is told from slowness
KEPT = 1 << 16  # bytes of a body that are kept; the rest is counted
_HEAD = 1 << 16


@dataclass(frozen=True, slots=True)
class Target:
    """What to call, again and again."""

    url: str  # of the server
    path: str
    method: str = "POST"
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def request(self) -> bytes:
        fields = {"Host": urlsplit(self.url).netloc, "Content-Length": str(len(self.body)), **self.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"{self.method} {self.path} HTTP/1.1\r\n{lines}\r\n".encode() + self.body


@dataclass(slots=True)
class Outcome:
    """What a client saw of one call. `error` is empty when it had a whole answer."""

    began: float  # time.monotonic(), as `ended`
    ended: float = 0.0
    status: int = 0  # 0: not even a head came
    headers: dict[str, str] = field(default_factory=dict)  # names in lower case
    body: bytes = b""  # its first bytes
    size: int = 0  # of the whole body, as far as it came
    error: str = ""

    @property
    def whole(self) -> bool:
        """Whether the answer came to its end, whatever it says."""
        return not self.error

    @property
    def ok(self) -> bool:
        """Whether it is a whole answer with the status 200."""
        return self.whole and self.status == 200

    @property
    def instance(self) -> str:
        return self.headers.get("x-mayfly-instance", "")

    @property
    def revision(self) -> str:
        return self.headers.get("x-mayfly-revision", "")

    @property
    def call(self) -> str:
        return self.headers.get("x-call-id", "")

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    def add(self, part: bytes) -> None:
        """A part of the body has come."""
        self.size += len(part)
        if len(self.body) < KEPT:
            self.body += part[: KEPT - len(self.body)]


class Connection:
    """One client that makes one call at a time; a connection that the server closes is opened again for the next."""

    def __init__(self, target: Target, patience: float = PATIENCE) -> None:
        self._target = target
        self._request = target.request()
        self._patience = patience
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self) -> Outcome:
        outcome = Outcome(time.monotonic())
        try:
            async with asyncio.timeout(self._patience):
                stays = await self._exchange(outcome)
        except TimeoutError:
            outcome.error, stays = f"no whole answer within {self._patience:g} s", False
        except (OSError, EOFError, ValueError) as error:
            outcome.error, stays = f"{type(error).__name__}: {error}", False
        outcome.ended = time.monotonic()
        if not stays:
            await self.close()
        return outcome

    async def close(self) -> None:
        if self._streams is not None:
            _, writer = self._streams
            self._streams = None
            writer.transport.abort()
            with contextlib.suppress(OSError):  # the other end may have closed it, and not in order
                await writer.wait_closed()

    async def _exchange(self, outcome: Outcome) -> bool:
        """One call; whether the connection can be used again."""
        if self._streams is None:
            parts = urlsplit(self._target.url)
            self._streams = await asyncio.open_connection(parts.hostname, parts.port, limit=_HEAD)
        reader, writer = self._streams
        writer.write(self._request)
        # A server may answer before it has read everything: what it answers is what counts.
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        outcome.status = int(head[0].split(" ")[1])
        outcome.headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        return await self._body(reader, outcome) and outcome.headers.get("connection", "").lower() != "close"

    async def _body(self, reader: asyncio.StreamReader, outcome: Outcome) -> bool:
        """Reads the body; whether its end was told by something else than the end of the connection."""
        if self._target.method == "HEAD" or outcome.status in {204, 304}:
            return True
        if outcome.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int(await reader.readuntil(b"\r\n"), 16):
                await _take(reader, outcome, size)
                await reader.readexactly(2)
            await reader.readuntil(b"\r\n")
            return True
        if (length := outcome.headers.get("content-length")) is not None:
            await _take(reader, outcome, int(length))
            return True
        while part := await reader.read(1 << 20):
            outcome.add(part)
        return False


async def _take(reader: asyncio.StreamReader, outcome: Outcome, size: int) -> None:
    while size:
        part = await reader.read(min(size, 1 << 20))
        if not part:
            raise EOFError(f"{size} bytes of the body are missing")
        outcome.add(part)
        size -= len(part)


def call(url: str, path: str, body: bytes = b"", *, method: str = "POST", headers: Mapping[str, str] | None = None) -> Outcome:
    """One call on a connection of its own."""
    return calls(Target(url, path, method, body, headers or {}), 1, at_a_time=1)[0]


def calls(target: Target, count: int, *, at_a_time: int) -> list[Outcome]:
    """`count` calls by `at_a_time` clients, in the order in which they ended."""
    outcomes: list[Outcome] = []

    async def client(left: list[None]) -> None:
        connection = Connection(target)
        while left:
            left.pop()
            outcomes.append(await connection.call())
        await connection.close()

    async def run() -> None:
        left = [None] * count
        async with asyncio.TaskGroup() as group:
            for _ in range(at_a_time):
                group.create_task(client(left))

    asyncio.run(run())
    return outcomes


class Load:
    """Calls without pause while a block runs, in a thread of its own: `outcomes` grows meanwhile, and is complete after the block."""

    def __init__(self, target: Target, *, at_a_time: int = 1, pause: float = 0.0) -> None:
        """`pause`: seconds of each client between two calls, for a load that is to notice something and not to make it."""
        self.outcomes: list[Outcome] = []
        self._target = target
        self._at_a_time = at_a_time
        self._pause = pause
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name=f"load on {target.path}")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join()

    @property
    def failures(self) -> list[Outcome]:
        """The calls whose answer is not a whole one with the status 200."""
        return [outcome for outcome in list(self.outcomes) if not outcome.ok]

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._at_a_time):
                group.create_task(self._client())

    async def _client(self) -> None:
        connection = Connection(self._target)
        while not self._stopping.is_set():
            self.outcomes.append(await connection.call())
            if self._pause:
                await asyncio.sleep(self._pause)
        await connection.close()


def spread(outcomes: list[Outcome]) -> str:
    """How long calls took, for people."""
    times = sorted(outcome.seconds * 1000 for outcome in outcomes)
    if not times:
        return "no calls"
    at = {name: times[min(len(times) - 1, int(share * len(times)))] for name, share in (("p50", 0.5), ("p99", 0.99), ("longest", 1.0))}
    return f"{len(times)} calls, " + ", ".join(f"{name} {value:.1f} ms" for name, value in at.items())
