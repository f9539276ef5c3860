"""What the front costs: ours beside the least that one on the same libraries can be, before the same warm process, interleaved."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from bench import accounting, images
from bench.arrivals import Outcomes, Target, saturate
from bench.contenders import await_port, free_port, request, says_hello
from bench.node import Node, manifest
from bench.quantiles import percentile
from bench.results import Front
from bench.stages.plan import Plan

_NAME = "front"
_MANY = 16
_ROUNDS = 3


@dataclass
class _Measured:
    name: str
    target: Target
    cpu: Callable[[], float]
    one: list[float] = field(default_factory=list)
    many: list[float] = field(default_factory=list)
    one_cpu: list[float] = field(default_factory=list)
    many_cpu: list[float] = field(default_factory=list)


def measure(node: Node, plan: Plan) -> list[Front]:
    """Ours, the least, and the least with a worker for each core."""
    node.apply([manifest(images.go() if plan.mode != "test" else images.cpython(), _NAME, {"BENCH_WAY": "reuse"})])
    path = next(word for word in accounting.command(node.monitor(_NAME)).decode().split("\0") if word.endswith(".sock"))
    server = node.plane("faas_server")
    with ExitStack() as stack:
        fronts = [_Measured("ours", Target(node.host, node.port, request(f"/default/{_NAME}"), says_hello), lambda: _own_ms(server))]
        for name, workers in (("the least", 1), ("the least, a worker for each core", os.cpu_count() or 1)):
            port = free_port()
            words = [sys.executable, str(images.PROGRAMS / "least_front.py"), path, str(port), str(workers)]
            process = subprocess.Popen(words)
            stack.callback(_end, process)
            await_port(port, process, name)
            fronts.append(_Measured(name, Target("127.0.0.1", port, request("/"), says_hello), _cpu_of(process.pid)))
        for _ in range(_ROUNDS):
            for front in fronts:
                for at_a_time, times, cpu in ((1, front.one, front.one_cpu), (_MANY, front.many, front.many_cpu)):
                    before = front.cpu()
                    outcomes = saturate(front.target, at_a_time, plan.saturation_s)
                    times.append(_value(outcomes, at_a_time, front.name))
                    cpu.append((front.cpu() - before) * 1000 / len(outcomes.answered))
    return [
        Front(
            name=front.name,
            p50_us=1e6 * statistics.median(front.one),
            calls_per_second=statistics.median(front.many),
            cpu_us=statistics.median(front.one_cpu),
            busy_cpu_us=statistics.median(front.many_cpu),
        )
        for front in fronts
    ]


def _value(outcomes: Outcomes, at_a_time: int, name: str) -> float:
    """The p50 of calls one at a time, the rate of many."""
    if outcomes.failed or not outcomes.answered:
        raise SystemExit(f"{name}: {outcomes.failed} calls failed, {len(outcomes.answered)} were answered")
    return percentile(outcomes.answered, 0.5) if at_a_time == 1 else len(outcomes.answered) / outcomes.last


def _own_ms(pid: int) -> float:
    """Of this process alone, not of what it started."""
    fields = (accounting.stat(pid) or [])[11:13]
    return sum(int(value) for value in fields) * 1000 / accounting.TICKS


def _cpu_of(pid: int) -> Callable[[], float]:
    return lambda: accounting.tree_cpu_ms(pid)


def _end(process: subprocess.Popen[bytes]) -> None:
    for pid in list(accounting.tree(process.pid)):
        if pid != process.pid:
            os.kill(pid, 9)
    process.kill()
    process.wait()
