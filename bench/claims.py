"""The bounds that a run is held to, each with the figure that it reached; what is short is told, not hidden."""

from __future__ import annotations

from collections.abc import Iterator

from bench.results import Claim, Contender, Results, Spread


def claims(results: Results) -> list[Claim]:
    """All that the results have figures for, in the order of their lines."""
    return [
        *_latency(results),
        *_machine(results),
        *_memory(results),
        *_load(results),
        *_bodies(results),
        *_idle(results),
        *_arrival(results),
    ]


def _latency(results: Results) -> Iterator[Claim]:
    pairs = (("CPython", "parked", "reuse", 0.4), ("Node", "node parked", "node reuse", 1.0), ("Go", "go parked", "go reuse", 1.0))
    for language, ours_name, reuse_name, more in pairs:
        ours, reuse = results.contender(ours_name), results.contender(reuse_name)
        if ours and reuse and ours.latency and reuse.latency:
            yield _at_most(1, f"{language} hello, p50 beside the warm process", ours.latency.p50_ms, reuse.latency.p50_ms, more)
            if language == "CPython":
                yield _at_most(1, f"{language} hello, p99 beside the warm process", ours.latency.p99_ms, reuse.latency.p99_ms, 1.5)


def _at_most(line: int, what: str, ours: float, base: float, more: float) -> Claim:
    return Claim(
        line=line, what=what, bound=f"≤ {base:.2f} + {more:g} ms", figure=f"{ours:.2f} ms (+ {ours - base:.2f} ms)", met=ours <= base + more
    )


def _machine(results: Results) -> Iterator[Claim]:
    floor = results.contender("floor")
    for monitor in results.monitor:
        if monitor.language == "CPython":
            yield _below(2, "the VM's part of a CPython call, p50", monitor.critical.p50_ms, 0.35, "ms")
            yield _below(2, "processor time of the VM's whole life", monitor.cpu_ms, 2.2, "ms")
            if floor is not None and floor.cpu_ms:
                yield _below(2, "the same over the floor's", monitor.cpu_ms / floor.cpu_ms, 2.5, "×")
        least = {"CPython": 300.0, "Node": 120.0}.get(monitor.language)
        if least is not None and monitor.per_core is not None:
            yield Claim(
                line=2,
                what=f"fresh-VM {monitor.language} calls/s/core, the VM's work alone",
                bound=f"≥ {least:.0f}",
                figure=f"{monitor.per_core:.0f}",
                met=monitor.per_core >= least,
            )


def _memory(results: Results) -> Iterator[Claim]:
    ours = results.contender("parked")
    if ours is not None and ours.instance_mib is not None:
        yield _below(3, "private memory of a parked CPython", ours.instance_mib, 1.5, "MiB")
    for curve in results.curves:
        if curve.name == "parked-memory" and curve.series[0].points:
            count, mib = curve.series[0].points[-1]
            yield Claim(
                line=3,
                what="parked instances, ten of each function",
                bound="1000",
                figure=f"{count:.0f} in {mib:.0f} MiB",
                met=count >= 1000,
            )


def _load(results: Results) -> Iterator[Claim]:
    ours = results.contender("parked")
    spread = _at_share(ours, 0.7) if ours is not None else None
    if spread is not None:
        yield _below(4, "open loop at 70 % of saturation, p99 over p50", spread.p99_ms / spread.p50_ms, 3, "×")


def _at_share(contender: Contender, share: float) -> Spread | None:
    if not contender.saturation:
        return None
    wanted = share * contender.saturation
    return next((point.spread for point in contender.load if abs(point.offered - wanted) < 0.01 * wanted), None)


def _bodies(results: Results) -> Iterator[Claim]:
    for workload in results.workloads:
        yield Claim(
            line=5,
            what=f"{workload.name} ({workload.suite}), p50 over the warm process's",
            bound="told",
            figure=f"{workload.ratio:.2f} ×",
            met=None,
        )
    if (streaming := results.streaming) is not None:
        yield _below(5, "a streamed part is passed on, p50", streaming.first_byte_ms.p50_ms, 1, "ms")
        for way, value in (("answer", streaming.down_mb_s), ("request", streaming.up_mb_s)):
            what = f"{streaming.mib} MiB as a body of the {way}"
            yield Claim(line=5, what=what, bound="≥ 300 MB/s", figure=f"{value:.0f} MB/s", met=value >= 300)
        yield _below(5, "growth of the server's memory meanwhile", streaming.server_growth_mib, 16, "MiB")
    if (over := results.overload) is not None:
        what = f"{over.offered / over.capacity:.0f} × capacity for {over.seconds:.0f} s: "
        yield Claim(
            line=0,
            what=f"{what}goodput",
            bound="≥ 90 % of its peak",
            figure=f"{100 * over.goodput_share:.0f} %",
            met=over.goodput_share >= 0.9,
        )
        if over.refusal_p99_ms is not None:
            yield _below(0, f"{what}refusals, p99", over.refusal_p99_ms, 50, "ms")
        yield Claim(
            line=0,
            what=f"{what}refusals without Retry-After, failures",
            bound="none",
            figure=f"{over.without_retry_after}, {over.failed}",
            met=over.without_retry_after == over.failed == 0,
        )
        yield _below(0, f"{what}recovery", over.recovery_s, 2, "s")


def _idle(results: Results) -> Iterator[Claim]:
    if (idle := results.idle) is not None:
        yield Claim(line=6, what="functions deployed, all idle", bound="10000", figure=str(idle.functions), met=idle.functions >= 10_000)
        yield _below(6, "a hot function beside them, p50 over that beside ten", idle.hot_ratio, 1.05, "×")
        if idle.first_call is not None:
            yield _below(6, "first call of an idle function, p50", idle.first_call.p50_ms, 25, "ms")


def _arrival(results: Results) -> Iterator[Claim]:
    if (arrival := results.arrival) is not None:
        yield _below(7, "apply → Ready over skopeo copy + umoci unpack", arrival.ratio, 0.6, "×")


def _below(line: int, what: str, value: float, bound: float, unit: str) -> Claim:
    return Claim(line=line, what=what, bound=f"≤ {bound:g} {unit}", figure=f"{value:.2f} {unit}", met=value <= bound)
