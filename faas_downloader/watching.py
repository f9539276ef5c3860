"""Per-object serial queues: what concerns one object is done in order, by one worker; objects are worked on in parallel, within a bound.

Level-triggered: a box holds the newest state of its object only. A newer state ends the work on an older one, and between the two nobody
else works on the object. The handler says when it wants to see the same state again; a worker that nothing is expected of is let go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

Handler = Callable[[K, T], Awaitable[float | None]]
"""Takes an object's key and newest state; returns the seconds after which it wants to be called again, or None. Must not raise."""


class _Box(Generic[T]):
    """The newest state of one object, and the work on it."""

    def __init__(self, item: T) -> None:
        self.item = item
        self.changed = asyncio.Event()
        self.changed.set()
        self.work: asyncio.Task[float | None] | None = None
        self.worker: asyncio.Task[None] | None = None


class Queues(Generic[K, T]):
    """The queues of all objects."""

    def __init__(self, handle: Handler[K, T], *, parallel: int, idle: float) -> None:
        """`parallel` objects are worked on at once; a worker is let go after `idle` seconds with nothing to expect."""
        self._handle = handle
        self._places = asyncio.Semaphore(parallel)
        self._idle = idle
        self._boxes: dict[K, _Box[T]] = {}
        self._closing = False

    def put(self, key: K, item: T) -> None:
        """Tells the newest state of an object; work on an older one ends."""
        box = self._boxes.get(key)
        if box is None:
            box = self._boxes[key] = _Box(item)
            box.worker = asyncio.create_task(self._serve(key, box), name=f"queue {key}")
            return
        box.item = item
        box.changed.set()
        if box.work is not None:
            box.work.cancel()

    @property
    def workers(self) -> int:
        """How many objects have a worker."""
        return len(self._boxes)

    async def close(self, timeout: float) -> bool:  # noqa: ASYNC109 — work that goes on after it is the caller's to know of
        """Ends all work; false if some did not end in time."""
        self._closing = True
        workers = [box.worker for box in self._boxes.values() if box.worker is not None]
        for worker in workers:
            worker.cancel()
        if not workers:
            return True
        _, left = await asyncio.wait(workers, timeout=timeout)
        return not left

    async def _serve(self, key: K, box: _Box[T]) -> None:
        try:
            again: float | None = None
            # Work may end otherwise than by the cancellation that ends it, and the worker's own is then spent.
            while not self._closing and await self._expects(box, again):
                async with self._places:
                    again = await self._work(key, box)
        finally:
            del self._boxes[key]

    async def _expects(self, box: _Box[T], again: float | None) -> bool:
        """Waits for a newer state, or for `again` seconds; false if there is nothing to do any more."""
        try:
            async with asyncio.timeout(self._idle if again is None else again):
                await box.changed.wait()
        except TimeoutError:
            return again is not None
        return True

    async def _work(self, key: K, box: _Box[T]) -> float | None:
        box.changed.clear()
        box.work = asyncio.create_task(self._run(key, box.item), name=f"work {key}")
        try:
            return await box.work
        except asyncio.CancelledError:
            if self._closing or not box.changed.is_set():
                raise
            return None  # a newer state is in the box
        finally:
            box.work = None

    async def _run(self, key: K, item: T) -> float | None:
        return await self._handle(key, item)
