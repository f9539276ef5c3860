"""Queues: serial per object, parallel across objects, the newest state wins, idle workers go."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from faas_downloader.watching import Queues


async def turns() -> None:
    """So many turns of the loop that every task has come to where it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


class Work:
    """A handler that tells what it does, and waits where it is told to."""

    def __init__(self, again: float | None = None) -> None:
        self.again = again
        self.began: list[tuple[str, int]] = []
        self.ended: list[tuple[str, int]] = []
        self.cancelled: list[tuple[str, int]] = []
        self.running: set[str] = set()
        self.most = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, key: str, item: int) -> float | None:
        assert key not in self.running, "two at a time on one object"
        self.running.add(key)
        self.most = max(self.most, len(self.running))
        self.began.append((key, item))
        try:
            await asyncio.sleep(0)
            await self.gate.wait()
            self.ended.append((key, item))
        except asyncio.CancelledError:
            await turns()  # work takes a while to end
            self.cancelled.append((key, item))
            raise
        finally:
            self.running.remove(key)
        return self.again


async def until(wanted: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not wanted():  # noqa: ASYNC110 — the work itself must not know of the test
            await asyncio.sleep(0.005)


async def test_objects_are_worked_on_in_parallel_within_the_bound() -> None:
    work = Work()
    work.gate.clear()
    queues = Queues(work, parallel=3, idle=1)
    for number in range(10):
        queues.put(f"object {number}", number)
    await until(lambda: len(work.running) == 3)
    work.gate.set()
    await until(lambda: len(work.ended) == 10)
    assert work.most == 3
    assert await queues.close(1)


async def test_newer_state_ends_the_work_on_an_older_one() -> None:
    work = Work()
    work.gate.clear()
    queues = Queues(work, parallel=3, idle=1)
    for item in range(5):
        queues.put("a", item)
        await until(partial(operator.contains, work.began, ("a", item)))
    work.gate.set()
    await until(lambda: work.ended == [("a", 4)])
    assert work.cancelled == [("a", item) for item in range(4)]
    assert await queues.close(1)


async def test_states_in_quick_succession_are_one() -> None:
    work = Work()
    queues = Queues(work, parallel=1, idle=1)
    for item in range(100):
        queues.put("a", item)
    await until(lambda: work.ended)
    assert work.began == [("a", 99)]
    assert await queues.close(1)


async def test_state_that_came_while_waiting_for_a_place_is_the_one_worked_on() -> None:
    work = Work()
    work.gate.clear()
    queues = Queues(work, parallel=1, idle=1)
    queues.put("a", 0)
    await until(lambda: work.began)
    queues.put("b", 1)
    await turns()
    queues.put("b", 2)
    work.gate.set()
    await until(lambda: len(work.ended) == 2)
    assert work.began == [("a", 0), ("b", 2)]
    assert await queues.close(1)


async def test_handler_is_called_again_when_it_wants_to_be() -> None:
    work = Work(again=0.01)
    queues = Queues(work, parallel=1, idle=0.001)
    queues.put("a", 0)
    await until(lambda: len(work.ended) >= 3)
    assert queues.workers == 1
    assert await queues.close(1)


async def test_worker_with_nothing_to_do_goes_and_comes_back() -> None:
    work = Work()
    queues = Queues(work, parallel=1, idle=0.02)
    queues.put("a", 0)
    await until(lambda: queues.workers == 0)
    queues.put("a", 1)
    await until(lambda: work.ended == [("a", 0), ("a", 1)])
    await until(lambda: queues.workers == 0)
    assert await queues.close(1)


async def test_close_ends_work_and_says_when_it_could_not() -> None:
    work = Work()
    work.gate.clear()
    queues = Queues(work, parallel=2, idle=1)
    queues.put("a", 0)
    await until(lambda: work.began)
    assert await queues.close(1)
    assert work.cancelled == [("a", 0)]

    began, stubborn = asyncio.Event(), asyncio.Event()

    async def handle(key: str, item: int) -> None:
        began.set()
        try:
            await asyncio.Future()
        finally:
            await stubborn.wait()

    other: Queues[str, int] = Queues(handle, parallel=1, idle=1)
    other.put("a", 0)
    await began.wait()
    assert not await other.close(0.05)
    stubborn.set()
    await until(lambda: other.workers == 0)


async def test_close_ends_a_worker_whose_work_takes_no_notice_of_its_cancellation() -> None:
    began = asyncio.Event()

    async def handle(key: str, item: int) -> float:
        began.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Future()
        return 1000

    queues: Queues[str, int] = Queues(handle, parallel=1, idle=1)
    queues.put("a", 0)
    await began.wait()
    assert await queues.close(5)
    assert queues.workers == 0
