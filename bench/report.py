"""What people read: tables of a run's results for the terminal, and docs/performance.md with its plots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.machine import LOAD, ROOT
from bench.results import Contender, Ratio, Results, Spread

PAGE = ROOT / "docs" / "performance.md"
PLOTS = ROOT / "docs" / "performance"

_HEAD = """# Performance

{summary}

This page is made by `make bench` of `bench/results/latest.json`; nothing in it is written by hand. Times on shared machines drift from run
to run: ratios within the run are the result.
"""

_REPEAT = """## How to repeat it

    make bench         # all of it, about 15 minutes, on a machine that does nothing else
    make bench-quick   # the same parts with fewer calls, 2 minutes; saves nothing
    .venv/bin/python -m bench --parts contenders,load --save out.json
    .venv/bin/python -m bench --page      # this page, of bench/results/latest.json

Contenders behind the front are functions of one node (`mayfly up`), with the same image and the same handler; what differs is the way
that answers (`bench/standins.py`, `spec.runtime`). Closed loop: one call at a time, all contenders interleaved in random order. Open loop:
Poisson arrivals, latency from the scheduled moment, so that what is late makes the figures late. Every answer is checked. Processor time is
that of the server, monitors and instances together, ends included. A percentile is a time that was measured (nearest rank).
The schema of the results: `bench/results.py`. That no call sees anything of another is not measured here: `make prove` makes 10,000 calls
for it (tests/hazards), with all of this on.
"""


def tables(results: Results) -> str:
    """All tables, with their headings."""
    return "\n\n".join(f"{heading}\n\n{text}" for heading, text in _sections(results) if text)


def publish(results: Results) -> None:
    """Writes the page and the plots."""
    from bench import plots

    drawn = plots.draw(results, PLOTS)
    pictures = "\n".join(f"![{name}](performance/{name}.svg)" for name in drawn)
    parts = [_HEAD.format(summary=_summary(results)), tables(results), f"## Plots\n\n{pictures}", _REPEAT]
    PAGE.write_text("\n".join(f"{part.strip()}\n" for part in parts))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown, with columns of one width; nothing where there are no rows."""
    if not rows:
        return ""
    widths = [max(len(line[column]) for line in (head, *rows)) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines)


def _summary(results: Results) -> str:
    machine = results.machine
    versions = ", ".join(f"{name} {value}" for name, value in machine.versions.items())
    settings = ", ".join(f"{name} {value}" for name, value in machine.settings.items())
    changed = ", with changes" if results.changed else ""
    where = f"{machine.processor}, {machine.cores} cores, {machine.memory_mib} MiB, {machine.system}"
    busy = float(machine.settings.get(LOAD, 0)) > machine.cores / 2
    note = (
        "\n\n**The machine was busy with other work during this run: its times say little, its ratios only somewhat more.**" if busy else ""
    )
    return (
        f"Measured {results.began} at commit {results.commit}{changed}, mode {results.mode}, {results.seconds / 60:.0f} minutes.\n"
        f"{where}{f'; {machine.virtualized}' if machine.virtualized else ''}.\nSettings: {settings}.\nVersions: {versions}.{note}"
    )


def _sections(results: Results) -> Iterator[tuple[str, str]]:
    short = [claim for claim in results.claims if claim.met is False]
    yield (
        "## What is not as good as it should be",
        table(["Line", "What", "Bound", "Reached"], [[_line(claim.line), claim.what, claim.bound, claim.figure] for claim in short]),
    )
    kept = [claim for claim in results.claims if claim.met is not False]
    yield (
        "## What holds",
        table(["Line", "What", "Bound", "Reached"], [[_line(claim.line), claim.what, claim.bound, claim.figure] for claim in kept]),
    )
    yield "## Contenders", _contenders(results)
    yield "## Under load", _load(results)
    yield "## The virtual machine's part", _monitor(results)
    yield (
        "## Costs of the parts",
        table(
            ["Part", "Here", "Trials"],
            [
                [part.name, f"{part.value:.1f} {part.unit}", "–" if part.expected is None else f"{part.expected:g} {part.unit}"]
                for part in results.micro
            ],
        ),
    )
    yield (
        "## Where the time of one call goes",
        table(["Part", "Median"], [[part.name, f"{part.value:.0f} {part.unit}"] for part in results.profile]),
    )
    yield (
        "## The front",
        table(
            ["Front", "p50 µs, one at a time", "calls/s, 16 at a time", "CPU µs, one", "CPU µs, 16"],
            [
                [front.name, *(f"{value:.0f}" for value in (front.p50_us, front.calls_per_second, front.cpu_us, front.busy_cpu_us))]
                for front in results.fronts
            ],
        ),
    )
    yield "## Functions", _workloads(results)
    yield "## The way in", _arrival(results)
    yield "## Many functions", _idle(results)
    yield "## Not measured", table(["What", "Why"], [[name, why] for name, why in (results.missing | _unreached(results)).items()])


def _unreached(results: Results) -> dict[str, str]:
    """Parts that have neither figures nor a reason: the run was ended before them."""
    curves = {curve.name for curve in results.curves}
    there = {
        "load": any(contender.load for contender in results.contenders),
        "profile": results.profile,
        "overload": results.overload,
        "streaming": results.streaming,
        "fronts": results.fronts,
        "bodies": "bodies" in curves,
        "workloads": any(workload.suite != "echo" for workload in results.workloads),
        "monitor": results.monitor,
        "functions": "parked-memory" in curves,
        "arrival": results.arrival,
        "idle": results.idle,
        "images": "image-ready" in curves,
    }
    return {name: "the run was ended before it" for name, found in there.items() if not found and name not in results.missing}


def _contenders(results: Results) -> str:
    head = [
        "Contender",
        "What answers",
        "p50 ms",
        "p95",
        "p99",
        "max",
        "CPU ms",
        f"calls/s/core, p99 ≤ {results.p99_bound_ms:g} ms",
        "calls/s, busy",
    ]
    head += ["MiB each", "to reuse: p50", "p99", "CPU", "to floor: p50", "CPU"]
    return table(head, [_contender(contender) for contender in results.contenders])


def _contender(contender: Contender) -> list[str]:
    reuse = contender.to_reuse or Ratio(p50=None, p99=None, cpu=None)
    floor = contender.to_floor or Ratio(p50=None, p99=None, cpu=None)
    return [
        contender.name,
        contender.what + ("" if contender.front else " (no front)"),
        *_times(contender.latency),
        number(contender.cpu_ms),
        number(contender.per_core, 0),
        number(contender.saturation, 0),
        number(contender.instance_mib),
        *(number(value) for value in (reuse.p50, reuse.p99, reuse.cpu, floor.p50, floor.cpu)),
    ]


def _load(results: Results) -> str:
    rows = [
        [contender.name, f"{point.offered:.0f}", f"{point.achieved:.0f}", *_times(point.spread), str(point.refused), str(point.failed)]
        for contender in results.contenders
        for point in contender.load
    ]
    return table(["Contender", "offered/s", "answered/s", "p50 ms", "p95", "p99", "max", "refused", "failed"], rows)


def _monitor(results: Results) -> str:
    rows = [
        [
            monitor.language,
            *_times(monitor.critical),
            number(monitor.cpu_ms),
            number(monitor.per_core, 0),
            f"{monitor.exits:.0f}",
            f"{monitor.pages:.0f}",
        ]
        for monitor in results.monitor
    ]
    return table(["Language", "p50 ms", "p95", "p99", "max", "CPU ms", "calls/s/core", "exits", "page faults"], rows)


def _workloads(results: Results) -> str:
    rows = [
        [workload.suite, workload.name, number(workload.ours.p50_ms), number(workload.reuse.p50_ms), number(workload.ratio)]
        for workload in results.workloads
    ]
    return table(["Suite", "Function", "ours, p50 ms", "reuse, p50 ms", "ratio"], rows)


def _arrival(results: Results) -> str:
    arrival = results.arrival
    if arrival is None:
        return ""
    head = f"{arrival.image_mib:.0f} MiB, {arrival.files} files; ratio {arrival.ratio:.2f}."
    return f"{head}\n\n{table(['Part', 'Took'], [[part.name, f'{part.value:.2f} {part.unit}'] for part in arrival.parts])}"


def _idle(results: Results) -> str:
    idle = results.idle
    if idle is None:
        return ""
    rows = [
        ["functions deployed, none called", str(idle.functions)],
        ["start of the server with all of them", f"{idle.server_start_s:.1f} s"],
        ["memory of the server", f"{idle.server_mib:.0f} MiB"],
        ["memory of the machine per function", f"{idle.per_function_kib:.0f} KiB"],
        ["a hot function beside ten, p50", f"{idle.hot_beside_few.p50_ms:.2f} ms"],
        ["a hot function beside all, p50", f"{idle.hot_beside_many.p50_ms:.2f} ms"],
    ]
    if idle.first_call is not None:
        rows.append(
            [
                f"first call of {idle.first_call.calls} of them, p50 and p99",
                f"{idle.first_call.p50_ms:.1f}, {idle.first_call.p99_ms:.1f} ms",
            ]
        )
    return table(["What", "Figure"], rows)


def _times(spread: Spread | None) -> list[str]:
    return ["–"] * 4 if spread is None else [number(value) for value in (spread.p50_ms, spread.p95_ms, spread.p99_ms, spread.max_ms)]


def _line(line: int) -> str:
    return str(line) if line else "faults"


def number(value: float | None, digits: int = 2) -> str:
    """A figure, or that there is none."""
    return "–" if value is None else f"{value:.{digits}f}"
