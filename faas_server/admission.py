"""Who may run now, who waits, who is turned away.

Two gates stand one behind the other: a function's (its `concurrency`) and the node's. A gate admits up to its limit, keeps a bounded
number of callers waiting in the order in which they came, and turns away the rest at once: 429 at a function's gate (its own callers are
too many), 503 at the node's (everybody is). How long a caller waits is bounded by the call's deadline, which the caller's task carries.

A place is taken by `enter` and given back by `leave`; between a full gate's `leave` and the next waiter's run the place is already the
waiter's, so a newcomer never overtakes.
"""

from __future__ import annotations

import asyncio
from collections import deque

from faas_server.errors import busy


class Gate:
    """At most `limit` inside, at most `queue` waiting."""

    __slots__ = ("_limit", "_queue", "_status", "_waiting", "_what", "inside")

    def __init__(self, limit: int, queue: int, *, status: int, what: str) -> None:
        """`status` and `what` (for people) are the answer to those who are turned away."""
        self.inside = 0
        self._limit = limit
        self._queue = queue
        self._status = status
        self._what = what
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """Callers in the queue."""
        return len(self._waiting)

    @property
    def limit(self) -> int:
        """How many may be inside."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = limit
        self._admit()

    async def enter(self) -> None:
        """Takes a place, after those who came earlier; raises Refusal when even the queue is full."""
        if self.inside < self._limit and not self._waiting:
            self.inside += 1
            return
        if len(self._waiting) >= self._queue:
            raise busy(self._status, f"{self._what}: {self.inside} running, {self.waiting} waiting")
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place in self._waiting:
                self._waiting.remove(place)
            elif not place.cancelled():  # the place was given in the same moment
                self.leave()
            raise

    def leave(self) -> None:
        """Gives the place back."""
        self.inside -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self.inside < self._limit:
            place = self._waiting.popleft()
            if not place.cancelled():
                self.inside += 1
                place.set_result(None)
