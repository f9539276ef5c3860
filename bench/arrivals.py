"""Load: arrivals by a schedule that nothing delays (open loop), and clients that call without pause (closed loop).

Open loop: each call has a moment at which it is to begin. It is sent then, on a connection that is free or new; if the generator or the
server is late, the time counts from the scheduled moment all the same. So a stall is in the latency of all calls that it made late.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import uvloop

from bench.quantiles import spread
from bench.results import LoadPoint

PATIENCE_S = 15.0  # after the last arrival, for answers that are late
CONNECTIONS = 2048  # more calls at a time than this wait in the generator, and are late
_NICE = -15
REFUSALS = (429, 503)


@dataclass(frozen=True)
class Target:
    """A request, ready to be sent, and how its answer is judged."""

    host: str
    port: int
    request: bytes
    right: Callable[[bytes], bool]


@dataclass
class Outcomes:
    """What has become of calls: seconds of those that were answered or refused."""

    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    failed: int = 0
    without_retry_after: int = 0
    last: float = 0.0  # when the last answer came

    def point(self, offered: float, calls: int, seconds: float) -> LoadPoint:
        """As results have it; `seconds` is how long the schedule was."""
        took = max(seconds, self.last)
        return LoadPoint(
            offered=offered,
            achieved=len(self.answered) / took,
            calls=calls,
            answered=len(self.answered),
            refused=len(self.refused),
            failed=calls - len(self.answered) - len(self.refused),
            spread=spread(self.answered) if self.answered else None,
            refusals=spread(self.refused) if self.refused else None,
        )


def schedule(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Moments of arrival, seconds from the beginning: a Poisson process of `rate` calls a second, the same for the same seed."""
    if rate <= 0:
        raise ValueError(f"a rate of {rate:g} calls a second has no schedule")
    chance = random.Random(seed)
    at = chance.expovariate(rate)
    while at < seconds:
        yield at
        at += chance.expovariate(rate)


class Connection(asyncio.Protocol):
    """One connection that is kept; one call at a time."""

    def __init__(self, target: Target, ended: Callable[[Connection, int, bool, bool], None]) -> None:
        self.began = 0.0  # when its call was to begin
        self.busy = False
        self.gone = False
        self.transport: asyncio.Transport | None = None
        self._target = target
        self._ended = ended
        self._data = b""

    def call(self, began: float) -> None:
        """Sends the request of a call that was to begin at `began`."""
        self.began, self.busy, self._data = began, True, b""
        assert self.transport is not None, "it is connected"
        self.transport.write(self._target.request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        if not end:
            return
        lower = head.lower()
        _, found, rest = lower.partition(b"\r\ncontent-length:")
        if found:
            if len(body) < int(rest.split(b"\r\n", 1)[0]):
                return
        elif b"chunked" in lower and not body.endswith(b"0\r\n\r\n"):
            return
        status = int(head.split(b" ", 2)[1])
        self.busy = False
        if b"\r\nconnection: close" in lower:
            self.gone = True
            assert self.transport is not None
            self.transport.close()
        self._ended(self, status, status == 200 and self._target.right(body), b"\r\nretry-after:" in lower)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        if self.busy:
            self.busy = False
            self._ended(self, 0, False, False)


class Clients:
    """Connections to one target, as many as calls are under way."""

    def __init__(self, target: Target, outcomes: Outcomes) -> None:
        self.outcomes = outcomes
        self.started = 0.0
        self._target = target
        self._loop = asyncio.get_running_loop()
        self._free: list[Connection] = []
        self._all: set[Connection] = set()
        self._late: deque[float] = deque()
        self._under_way = 0
        self._then: Callable[[], None] = lambda: None

    def call(self, began: float) -> None:
        """One call that was to begin at `began`, loop time."""
        while self._free:
            connection = self._free.pop()
            if not connection.gone:
                self._under_way += 1
                connection.call(began)
                return
        if self._under_way >= CONNECTIONS:
            self._late.append(began)
            return
        self._under_way += 1
        task = self._loop.create_task(self._connect(began))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _connect(self, began: float) -> None:
        connection = Connection(self._target, self._ended)
        connection.began = began
        try:
            await self._loop.create_connection(lambda: connection, self._target.host, self._target.port)
        except OSError:
            self._under_way -= 1
            self.outcomes.failed += 1
            self._then()
            return
        self._all.add(connection)
        connection.call(began)

    def _ended(self, connection: Connection, status: int, right: bool, retry_after: bool) -> None:
        self._under_way -= 1
        now = time.perf_counter()
        seconds = now - connection.began
        self.outcomes.last = now - self.started
        if right:
            self.outcomes.answered.append(seconds)
        elif status in REFUSALS:
            self.outcomes.refused.append(seconds)
            self.outcomes.without_retry_after += not retry_after
        else:
            self.outcomes.failed += 1
        if connection.gone:
            self._all.discard(connection)
        else:
            self._free.append(connection)
        if self._late:
            self.call(self._late.popleft())
        self._then()

    async def by_schedule(self, moments: Sequence[float]) -> None:
        """Sends all, then waits for the answers, for `PATIENCE_S` at most."""
        self.started = time.perf_counter()
        for moment in moments:
            # One that is late goes at once; the loop breathes all the same, or no answer would be read.
            wait = self.started + moment - time.perf_counter()
            await asyncio.sleep(max(0.0, wait))
            self.call(self.started + moment)
        await self._quiet(time.perf_counter() + PATIENCE_S)

    async def without_pause(self, at_a_time: int, seconds: float) -> None:
        """So many clients, each calling again as soon as it has its answer."""
        self.started = time.perf_counter()
        until = self.started + seconds
        self._then = lambda: self.call(time.perf_counter()) if time.perf_counter() < until else None
        for _ in range(at_a_time):
            self.call(time.perf_counter())
        await asyncio.sleep(seconds)
        await self._quiet(time.perf_counter() + PATIENCE_S)

    async def _quiet(self, until: float) -> None:
        while self._under_way and time.perf_counter() < until:  # noqa: ASYNC110 - calls come and go; only their sum counts
            await asyncio.sleep(0.005)

    def close(self) -> None:
        """Ends all connections; calls that are under way get no answer."""
        for connection in list(self._all):
            connection.busy = False
            if connection.transport is not None:
                connection.transport.abort()


@contextmanager
def precedence() -> Iterator[None]:
    """The generator before everything else on the machine, where it may: it stands for clients that are elsewhere."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, _NICE)
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)


def offer(target: Target, rate: float, seconds: float, *, seed: int = 1) -> tuple[LoadPoint, Outcomes]:
    """Calls by a schedule of `rate` a second for `seconds`."""
    moments = list(schedule(rate, seconds, seed))
    outcomes = Outcomes()

    async def run() -> None:
        clients = Clients(target, outcomes)
        await clients.by_schedule(moments)
        clients.close()

    with precedence():
        uvloop.run(run())
    return outcomes.point(rate, len(moments), seconds), outcomes


def saturate(target: Target, at_a_time: int, seconds: float) -> Outcomes:
    """Calls by so many clients without pause."""
    outcomes = Outcomes()

    async def run() -> None:
        clients = Clients(target, outcomes)
        await clients.without_pause(at_a_time, seconds)
        clients.close()

    uvloop.run(run())
    return outcomes
