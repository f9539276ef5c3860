"""The last log lines of each function, kept and followed.

Lines are data of hostile code: they are kept as they came (JSON escapes them) and bounded by `Records`. A follower that reads too slowly
loses lines, never slows the server down, and is told how many it lost.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator

from faas_server.monitor import Log
from faas_server.records import Record, Records

KIND = "log"
_FOLLOWER_LINES = 2_000  # that wait for a follower


class _Follower:
    def __init__(self) -> None:
        self.lines: asyncio.Queue[Record] = asyncio.Queue(_FOLLOWER_LINES)
        self.lost = 0


class Logs:
    """Keeps lines and hands them to followers."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._followers: dict[str, set[_Follower]] = {}
        # Grows over restarts too, so that a follower can tell which of the kept lines it has seen.
        self._numbers = itertools.count(time.time_ns())

    def add(self, function: str, revision: str, event: Log) -> None:
        """A line that an instance wrote."""
        line = {"number": next(self._numbers), "revision": revision, **event.model_dump()}
        self._records.add(KIND, function, line)
        for follower in self._followers.get(function, ()):
            try:
                follower.lines.put_nowait(line)
            except asyncio.QueueFull:
                follower.lost += 1

    async def last(self, function: str, limit: int) -> list[Record]:
        """The newest lines of a function, oldest first."""
        return await self._records.last(KIND, function, limit)

    async def follow(self, function: str, limit: int) -> AsyncGenerator[Record, None]:
        """The newest lines, then each new one. Never ends by itself."""
        follower = _Follower()
        self._followers.setdefault(function, set()).add(follower)
        try:
            seen = 0
            for line in await self.last(function, limit):
                seen = line["number"]
                yield line
            while True:
                line = await follower.lines.get()
                if line["number"] > seen:
                    yield line
                if follower.lost and follower.lines.empty():
                    yield {"lost": follower.lost}
                    follower.lost = 0
        finally:
            self._followers[function].discard(follower)
            if not self._followers[function]:
                del self._followers[function]
