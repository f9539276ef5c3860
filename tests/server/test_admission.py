"""The gates."""

from __future__ import annotations

import asyncio

import pytest

from faas_server.admission import Gate
from faas_server.errors import Refusal


def gate(limit: int = 2, queue: int = 2) -> Gate:
    return Gate(limit, queue, status=429, what="too many")


async def waiting(gate: Gate, count: int) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(gate.enter()) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_up_to_the_limit_nobody_waits() -> None:
    it = gate()
    await it.enter()
    await it.enter()
    assert (it.inside, it.waiting) == (2, 0)


async def test_beyond_the_limit_they_wait_in_their_order() -> None:
    it = gate(limit=1)
    await it.enter()
    first, second = await waiting(it, 2)
    it.leave()
    await first
    assert not second.done()
    it.leave()
    await second
    assert (it.inside, it.waiting) == (1, 0)


async def test_beyond_the_queue_they_are_turned_away() -> None:
    it = gate(limit=1, queue=1)
    await it.enter()
    (waiter,) = await waiting(it, 1)
    with pytest.raises(Refusal) as refusal:
        await it.enter()
    assert refusal.value.status == 429
    assert refusal.value.headers["Retry-After"] == "1"
    it.leave()
    await waiter


async def test_a_newcomer_does_not_overtake() -> None:
    it = gate(limit=1)
    await it.enter()
    (waiter,) = await waiting(it, 1)
    it.leave()  # the place is the waiter's now, whose task has not run yet
    newcomer = asyncio.create_task(it.enter())
    await waiter
    assert not newcomer.done()
    it.leave()
    await newcomer


async def test_who_gives_up_leaves_the_queue() -> None:
    it = gate(limit=1)
    await it.enter()
    first, second = await waiting(it, 2)
    first.cancel()
    await asyncio.wait([first])
    assert it.waiting == 1
    it.leave()
    await second
    it.leave()
    assert (it.inside, it.waiting) == (0, 0)


@pytest.mark.parametrize("order", ["leave first", "give up first"])
async def test_who_gives_up_as_a_place_comes_free_does_not_keep_it(order: str) -> None:
    it = gate(limit=1)
    await it.enter()
    first, second = await waiting(it, 2)
    if order == "leave first":
        it.leave()
        first.cancel()
    else:
        first.cancel()
        it.leave()
    await asyncio.wait([first])
    await asyncio.wait_for(second, 1)
    assert (it.inside, it.waiting) == (1, 0)


async def test_a_higher_limit_lets_waiters_in() -> None:
    it = gate(limit=1)
    await it.enter()
    waiters = await waiting(it, 2)
    it.limit = 3
    await asyncio.gather(*waiters)
    it.limit = 1
    assert it.inside == 3
    for _ in range(3):
        it.leave()
    await it.enter()
    (waiter,) = await waiting(it, 1)
    assert not waiter.done()
    waiter.cancel()
    await asyncio.wait([waiter])
