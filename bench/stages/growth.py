"""How costs grow: over body size, touched memory, image size, and the number of functions with their parked instances."""

from __future__ import annotations

import time

from bench import accounting, images
from bench.arrivals import Target
from bench.contenders import Kind, Standing, request, slug
from bench.node import Node, manifest
from bench.quantiles import percentile, spread
from bench.results import Curve, Series, Workload
from bench.stages.plan import Plan

PARKED = 10  # instances of each function
_PAUSE_S = 0.012
_SETTLE_S = 0.5
_CALLS = 30
_PATIENCE_S = 120.0


def bodies(node: Node, plan: Plan) -> tuple[Curve, list[Workload]]:
    """The echo of a body, ours and the warm process."""
    ways = _both("echo", node)
    series: dict[str, Series] = {name: Series(name=name, points=[]) for name in ways}
    workloads = []
    for kib in plan.bodies_kib:
        body = b"x" * (kib << 10)
        targets = {
            name: Target(node.host, node.port, request(f"/default/{slug(kind)}/echo", body), body.__eq__) for name, kind in ways.items()
        }
        times = _interleaved(ways, targets, _CALLS if plan.mode != "test" else 2)
        for name, found in times.items():
            series[name].points.append((kib, 1000 * percentile(found, 0.5)))
        if kib in (1, 1024):
            size = "1 KB" if kib == 1 else "1 MB"
            ours, reuse = spread(times["parked"]), spread(times["reuse"])
            workloads.append(Workload(name=f"echo of {size}", suite="echo", ours=ours, reuse=reuse, ratio=ours.p50_ms / reuse.p50_ms))
    curve = Curve(name="bodies", title="Echo of a body", x="KiB", y="p50, ms", log_x=True, series=list(series.values()))
    return curve, workloads


def touched(node: Node, plan: Plan) -> Curve:
    """New memory that a call writes to."""
    ways = _both("touch", node)
    series: dict[str, Series] = {name: Series(name=name, points=[]) for name in ways}
    for mib in plan.touched_mib:
        expected = b'{"touched": %d}' % mib
        targets = {
            name: Target(node.host, node.port, request(f"/default/{slug(kind)}/touch?mib={mib}"), expected.__eq__)
            for name, kind in ways.items()
        }
        for name, found in _interleaved(ways, targets, _CALLS // 2 if plan.mode != "test" else 2).items():
            series[name].points.append((mib, 1000 * percentile(found, 0.5)))
    return Curve(name="touched", title="New memory that a call writes to", x="MiB", y="p50, ms", series=list(series.values()))


def image_sizes(node: Node, plan: Plan) -> list[Curve]:
    """Images with more in them: until they are ready, and what a call costs."""
    ready, calls = Series(name="apply to Ready", points=[]), Series(name="call", points=[])
    for mib in plan.images_mib:
        name = f"sized-{mib}"
        layout = images.sized(mib)
        began = time.perf_counter()
        node.apply([manifest(layout, name)])
        ready.points.append((mib, time.perf_counter() - began))
        kind = Kind(name, "", "CPython", "monitor")
        target = Target(node.host, node.port, request(f"/default/{name}"), lambda body: b"Ada" in body)
        times = _interleaved({name: kind}, {name: target}, _CALLS)
        calls.points.append((mib, 1000 * percentile(times[name], 0.5)))
        node.delete(name)
    return [
        Curve(
            name="image-ready", title="Deploying an image", x="MiB beside the interpreter", y="seconds to Ready", log_x=True, series=[ready]
        ),
        Curve(
            name="image-call",
            title="A call over the size of its image",
            x="MiB beside the interpreter",
            y="p50, ms",
            log_x=True,
            series=[calls],
        ),
    ]


def functions(node: Node, plan: Plan) -> list[Curve]:
    """More and more functions, each with parked instances: memory and what a call of the first one costs. On a node that has no others."""
    layout = images.cpython()
    memory, private = Series(name="memory of the machine", points=[]), Series(name="private memory of an instance", points=[])
    calls, deploying = Series(name="hello", points=[]), Series(name="to Ready", points=[])
    before = accounting.available_mib()
    deployed = 0
    kind = Kind("many-0", "", "CPython", "monitor")
    target = Target(node.host, node.port, request("/default/many-0"), lambda body: b"Ada" in body)
    for count in plan.functions:
        began = time.perf_counter()
        node.apply([manifest(layout, f"many-{number}", pool=PARKED) for number in range(deployed, count)])
        deploying.points.append((count, (time.perf_counter() - began) / (count - deployed)))
        deployed = count
        _await_parked(node, count * PARKED)
        time.sleep(_SETTLE_S)
        memory.points.append((count * PARKED, before - accounting.available_mib()))
        private.points.append((count * PARKED, node.instance_mib("many-0") or 0.0))
        times = _interleaved({"hello": kind}, {"hello": target}, _CALLS)
        calls.points.append((count, 1000 * percentile(times["hello"], 0.5)))
    parked = "parked instances"
    return [
        Curve(name="parked-memory", title="Memory over parked instances, ten of each function", x=parked, y="MiB", series=[memory]),
        Curve(name="parked-private", title="Private memory of one parked instance", x=parked, y="MiB", series=[private]),
        Curve(name="functions-call", title="A call beside other functions", x="functions", y="p50, ms", series=[calls]),
        Curve(name="functions-deploy", title="Deploying one function beside others", x="functions", y="seconds each", series=[deploying]),
    ]


def _await_parked(node: Node, wanted: int) -> None:
    until = time.monotonic() + _PATIENCE_S
    while True:
        found = node.get("/_mayfly/functions") or {"functions": []}
        parked = sum(function["serving"]["parked"] for function in found["functions"] if function["serving"])
        if parked >= wanted:
            return
        if time.monotonic() > until:
            raise SystemExit(f"{parked} of {wanted} instances are parked after {_PATIENCE_S:g} s")
        time.sleep(0.1)


def _both(name: str, node: Node) -> dict[str, Kind]:
    kinds = {"parked": Kind(f"{name}-parked", "", "CPython", "monitor"), "reuse": Kind(f"{name}-reuse", "", "CPython", "reuse")}
    layout = images.cpython()
    node.apply(
        [
            manifest(layout, slug(kinds["parked"]), memory="512Mi"),
            manifest(layout, slug(kinds["reuse"]), {"BENCH_WAY": "reuse"}, memory="512Mi"),
        ]
    )
    return kinds


def _interleaved(ways: dict[str, Kind], targets: dict[str, Target], calls: int) -> dict[str, list[float]]:
    standing = {name: Standing(kind, targets[name], lambda: 0.0, lambda: None) for name, kind in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(calls + 2):
        for name, contender in standing.items():
            took = contender.call()
            if number >= 2:  # what is cold is not what grows
                times[name].append(took)
            time.sleep(_PAUSE_S)
    for contender in standing.values():
        contender.close()
    return times
