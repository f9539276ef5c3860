"""Open-loop load: the schedule is kept whatever the server does, and what is late is late in the figures."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from bench.arrivals import Outcomes, Target, offer, saturate, schedule

REQUEST = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n"
Answering = Callable[[int], tuple[float, bytes]]  # of the call's number: seconds to wait, and the answer


def ok(body: bytes = b"right") -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


REFUSED = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
REFUSED_BADLY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


@contextmanager
def server(answering: Answering) -> Iterator[Target]:
    """A server that keeps its connections, in a thread of its own."""
    ready, stop = threading.Event(), asyncio.Event()
    ports: list[int] = []
    loops: list[asyncio.AbstractEventLoop] = []
    calls = iter(range(1_000_000))

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                wait, answer = answering(next(calls))
                await asyncio.sleep(wait)
                writer.write(answer)
                if not answer:
                    break
        except (asyncio.IncompleteReadError, ConnectionResetError):
            pass
        finally:
            writer.close()

    async def run() -> None:
        listening = await asyncio.start_server(client, "127.0.0.1", 0)
        ports.append(listening.sockets[0].getsockname()[1])
        loops.append(asyncio.get_running_loop())
        ready.set()
        await stop.wait()
        listening.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    ready.wait(10)
    try:
        yield Target("127.0.0.1", ports[0], REQUEST, b"right".__eq__)
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join()


def test_a_schedule_is_the_same_for_the_same_seed_and_has_its_rate() -> None:
    moments = list(schedule(1000, 20, 7))
    assert moments == list(schedule(1000, 20, 7))
    assert moments != list(schedule(1000, 20, 8))
    assert moments == sorted(moments)
    assert moments[0] > 0
    assert moments[-1] < 20
    assert len(moments) == pytest.approx(20_000, rel=0.05)
    # Poisson: the gaps' deviation is their mean.
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert statistics.stdev(gaps) == pytest.approx(statistics.mean(gaps), rel=0.1)


def test_a_rate_of_nothing_has_no_schedule() -> None:
    with pytest.raises(ValueError, match="no schedule"):
        next(schedule(0, 1, 1))


def test_every_call_of_the_schedule_is_made_and_judged() -> None:
    answers = [ok(), ok(b"wrong"), REFUSED, REFUSED_BADLY, b""]
    with server(lambda number: (0, answers[number % len(answers)])) as target:
        point, outcomes = offer(target, 200, 1)
    share = point.calls / len(answers)
    assert point.answered + point.refused + point.failed == point.calls
    for found, expected in ((point.answered, share), (point.refused, 2 * share), (point.failed, 2 * share)):
        assert abs(found - expected) <= len(answers)
    assert abs(outcomes.without_retry_after - share) <= len(answers)


def test_a_stall_is_in_the_latency_of_all_calls_that_it_made_late() -> None:
    """One connection's worth of coordinated omission would show one slow call: here all that were scheduled meanwhile are slow."""

    def answering(number: int) -> tuple[float, bytes]:
        if number == 20:
            time.sleep(0.5)  # the whole server
        return 0, ok()

    with server(answering) as target:
        point, outcomes = offer(target, 100, 1)
    assert point.answered == point.calls
    late = sum(seconds > 0.1 for seconds in outcomes.answered)
    assert late > 0.25 * point.calls


def test_clients_without_pause_keep_so_many_calls_under_way() -> None:
    with server(lambda _: (0.05, ok())) as target:
        outcomes = saturate(target, 4, 1)
    assert outcomes.failed == 0
    assert 4 <= len(outcomes.answered) <= 4 * 21
    assert min(outcomes.answered) >= 0.05


def test_a_server_that_is_not_there_is_a_failure_of_each_call() -> None:
    with server(lambda _: (0, ok())) as target:
        pass
    point, _ = offer(target, 50, 0.5)
    assert point.failed == point.calls > 0
    assert point.spread is None


def test_what_is_achieved_counts_until_the_last_answer() -> None:
    outcomes = Outcomes(answered=[0.1] * 10, last=2.0)
    assert outcomes.point(10, 10, 1.0).achieved == 5
