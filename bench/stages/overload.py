"""Ten times what the node can do: what it still does, how soon it refuses the rest, and how soon it is itself again."""

from __future__ import annotations

import threading
import time

from bench.arrivals import Target, offer, saturate
from bench.contenders import Kind, Standing, request, says_hello
from bench.node import Node
from bench.quantiles import percentile
from bench.results import Overload
from bench.stages.plan import Plan

TIMES = 10
_CLIENTS = 32
_USUAL = 50
_IN_A_ROW = 10
_PATIENCE_S = 20.0
_PAUSE_S = 0.012


def measure(node: Node, plan: Plan, function: str) -> Overload:
    """Of a function that is deployed."""
    target = Target(node.host, node.port, request(f"/default/{function}"), says_hello)
    probe = Standing(Kind(function, "", "", "monitor"), target, lambda: 0.0, lambda: None)
    usual = []
    for _ in range(_USUAL if plan.mode != "test" else 5):
        usual.append(probe.call())
        time.sleep(_PAUSE_S)
    before = saturate(target, _CLIENTS, max(1.0, plan.saturation_s))
    capacity = len(before.answered) / before.last
    recovery = Recovery(probe, 2 * percentile(usual, 0.99), plan.overload_s)
    recovery.start()
    point, outcomes = offer(target, TIMES * capacity, plan.overload_s)
    recovery.join()
    goodput = point.answered / max(plan.overload_s, outcomes.last)
    return Overload(
        capacity=capacity,
        offered=TIMES * capacity,
        seconds=plan.overload_s,
        goodput=goodput,
        goodput_share=goodput / capacity,
        refusal_p99_ms=point.refusals.p99_ms if point.refusals else None,
        without_retry_after=outcomes.without_retry_after,
        failed=point.failed,
        recovery_s=recovery.seconds,
    )


class Recovery(threading.Thread):
    """Calls one after the other from the end of the load, until they take what they usually take."""

    def __init__(self, probe: Standing, bound: float, load_s: float) -> None:
        super().__init__()
        self.seconds = _PATIENCE_S
        self._probe = probe
        self._bound = bound
        self._begins = time.perf_counter() + load_s

    def run(self) -> None:
        time.sleep(max(0.0, self._begins - time.perf_counter()))
        in_a_row = 0
        while (now := time.perf_counter() - self._begins) < _PATIENCE_S:
            try:
                in_a_row = in_a_row + 1 if self._probe.call() <= self._bound else 0
            except SystemExit:  # it was refused
                in_a_row = 0
                self._probe.close()
            if in_a_row == _IN_A_ROW:
                self.seconds = now
                return
            time.sleep(_PAUSE_S)
