"""One call at a time, all contenders interleaved; then the processor time per call, in rounds of one contender."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence

from bench.contenders import Standing
from bench.quantiles import spread
from bench.results import Contender
from bench.stages.plan import Plan

_PAUSE_S = 0.012  # between calls: the next instance is made meanwhile. Latency is measured here, not throughput
_SETTLE_S = 0.4  # before processor time is read: instances end after their answer
_WARM = 10


def measure(contenders: Sequence[Standing], plan: Plan) -> list[Contender]:
    """All of them."""
    for contender in contenders:
        for _ in range(max(1, _WARM // contender.kind.every)):
            contender.call()
            time.sleep(_PAUSE_S)
    times = _interleaved(contenders, plan.rounds)
    return [
        Contender(
            name=contender.kind.name,
            what=contender.kind.what,
            language=contender.kind.language,
            front=contender.kind.front,
            latency=spread(times[contender.kind.name]),
            cpu_ms=_cpu_ms(contender, max(3, plan.cpu_calls // contender.kind.every), plan.cpu_rounds),
            instance_mib=contender.memory(),
        )
        for contender in contenders
    ]


def _interleaved(contenders: Sequence[Standing], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {contender.kind.name: [] for contender in contenders}
    chance = random.Random(rounds)
    for number in range(rounds):
        # A slow one is first called in the first round, whatever its share is.
        taking_part = [contender for contender in contenders if number % contender.kind.every == 0]
        for contender in chance.sample(taking_part, len(taking_part)):
            times[contender.kind.name].append(contender.call())
            time.sleep(_PAUSE_S)
    return times


def _cpu_ms(contender: Standing, calls: int, rounds: int) -> float:
    """The median of rounds."""
    found = []
    for _ in range(rounds):
        time.sleep(_SETTLE_S)
        before = contender.cpu()
        for _ in range(calls):
            contender.call()
        time.sleep(_SETTLE_S)
        found.append((contender.cpu() - before) / calls)
    return statistics.median(found)
