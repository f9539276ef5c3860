"""Functions of SeBS and FunctionBench: a clone for each call beside the warm process, interleaved."""

from __future__ import annotations

import json
import time

from bench import images
from bench.arrivals import Target
from bench.contenders import Kind, Standing, request
from bench.node import Node, manifest
from bench.quantiles import spread
from bench.results import Workload
from bench.stages.plan import Plan

_PAUSE_S = 0.015
_WARM = 2

# Name, suite, and what the answer is: the same for every call of a function.
FUNCTIONS: dict[str, tuple[str, dict[str, object] | None]] = {
    "dynamic_html": ("SeBS 110.dynamic-html", {"items": 1000}),
    "graph_pagerank": ("SeBS 501.graph-pagerank", {"ranks": 10_000}),
    "graph_mst": ("SeBS 502.graph-mst", {"edges": 9_999}),
    "graph_bfs": ("SeBS 503.graph-bfs", {"visited": 10_000}),
    "float_operations": ("FunctionBench float_operation", None),
    "pyaes_encryption": ("FunctionBench pyaes", {"same": True}),
    "chameleon_table": ("FunctionBench chameleon", {"rows": 100}),
    "linpack": ("FunctionBench linpack", {"right": True}),
    "matmul": ("FunctionBench matmul", None),
    "gzip_compression": ("FunctionBench gzip_compression", {"same": True}),
}


def measure(node: Node, plan: Plan) -> list[Workload]:
    """One after the other: each pair is deployed for its measurement alone."""
    layout = images.functions()
    found = []
    for name in plan.workloads or tuple(FUNCTIONS):
        suite, answer = FUNCTIONS[name]
        function = name.replace("_", "-")
        environment = {"FUNCTION": name, "OPENBLAS_NUM_THREADS": "1"}
        pair = (function, f"{function}-reuse")
        node.apply(
            [
                manifest(layout, pair[0], environment, memory="512Mi"),
                manifest(layout, pair[1], {**environment, "BENCH_WAY": "reuse"}, memory="512Mi"),
            ]
        )
        judge = Judge(answer)
        standing = [
            Standing(
                Kind(each, "", "CPython", ""), Target(node.host, node.port, request(f"/default/{each}"), judge), lambda: 0.0, lambda: None
            )
            for each in pair
        ]
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(plan.workload_calls + _WARM):
            for contender, taken in zip(standing, times, strict=True):
                took = contender.call()
                if number >= _WARM:
                    taken.append(took)
                time.sleep(_PAUSE_S)
        for contender in standing:
            contender.close()
        node.delete(*pair)
        ours, reuse = spread(times[0]), spread(times[1])
        found.append(Workload(name=name, suite=suite, ours=ours, reuse=reuse, ratio=ours.p50_ms / reuse.p50_ms))
    return found


class Judge:
    """Whether an answer is the known one or, where the value is the computation's, that of both ways' first call."""

    def __init__(self, answer: dict[str, object] | None) -> None:
        self._answer = answer

    def __call__(self, body: bytes) -> bool:
        try:
            said = json.loads(body)
        except ValueError:
            return False
        if self._answer is None:
            self._answer = said
        return bool(said == self._answer)
