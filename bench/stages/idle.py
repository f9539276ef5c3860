"""Many deployed functions that nobody calls: what the server's start, its memory and a first call cost, and a hot function beside them."""

from __future__ import annotations

import random
import time
from pathlib import Path

from bench import accounting, images
from bench.arrivals import Target
from bench.contenders import Kind, Standing, request, says_hello
from bench.node import Node, manifest, running
from bench.quantiles import spread
from bench.results import Idle
from bench.stages.plan import Plan

_FEW = 10
_FIRST_CALLS = 200
_HOT_CALLS = 300
_PAUSE_S = 0.012
_SETTLE_S = 2.0


def measure(plan: Plan, place: Path) -> Idle:
    """On a node of its own, started again with all of them."""
    layout = images.cpython()
    names = [f"idle-{number}" for number in range(plan.idle)]
    with running(place, images.floor(), name="idle") as node:
        node.apply([manifest(layout, name, pool=0) for name in names[:_FEW]] + [manifest(layout, "hot")])
        time.sleep(_SETTLE_S)
        few = _hot(node)
        before = accounting.available_mib()
        node.apply([manifest(layout, name, pool=0) for name in names[_FEW:]])
        time.sleep(_SETTLE_S)
        per_function = (before - accounting.available_mib()) * 1024 / max(1, len(names) - _FEW)
        many = _hot(node)
        first = _first_calls(node, names)
    began = time.perf_counter()
    with running(place, images.floor(), name="idle") as node:
        while not (node.get("/readyz") or {"ready": False})["ready"]:
            time.sleep(0.05)
        start = time.perf_counter() - began
        server = accounting.resident_mib(node.plane("faas_server"))
    return Idle(
        functions=plan.idle,
        server_start_s=start,
        server_mib=server,
        per_function_kib=per_function,
        first_call=spread(first),
        hot_beside_few=spread(few),
        hot_beside_many=spread(many),
        hot_ratio=spread(many).p50_ms / spread(few).p50_ms,
    )


def _hot(node: Node) -> list[float]:
    hot = _standing(node, "hot")
    times = []
    for _ in range(_HOT_CALLS):
        times.append(hot.call())
        time.sleep(_PAUSE_S)
    hot.close()
    return times[10:]


def _first_calls(node: Node, names: list[str]) -> list[float]:
    times = []
    for name in random.Random(1).sample(names, min(_FIRST_CALLS, len(names))):
        standing = _standing(node, name)
        times.append(standing.call())
        standing.close()
    return times


def _standing(node: Node, name: str) -> Standing:
    target = Target(node.host, node.port, request(f"/default/{name}"), says_hello)
    return Standing(Kind(name, "", "CPython", "monitor"), target, lambda: 0.0, lambda: None)
