"""The first figure: Python hello in a fresh virtual machine a call, beside the same handler in a warm reused process, concurrency 1.

Both stand behind the same server program, on nodes of their own; calls alternate, so that a change of the machine's speed meets both. CPU
is that of the server, the monitor and all instances together, taken from /proc over rounds of calls to one contender at a time.

    .venv/bin/python -m bench.first_figure [--calls 500]
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import stat
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
_START_SECONDS = 60.0
_SETTLE_SECONDS = 0.3  # between a round of calls and reading its CPU: instances end after their answer
_ROUNDS = 5
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Contender:
    """One node with the function, and what was measured of it."""

    name: str
    process: subprocess.Popen[bytes]
    connection: http.client.HTTPConnection
    seconds: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    instances: set[str] = field(default_factory=set)
    calls: int = 0

    def call(self) -> float:
        """One call, checked; the seconds from the first byte sent to the last byte received."""
        began = time.perf_counter()
        self.connection.request("POST", "/default/hello", body=b"Ada", headers={"Content-Type": "text/plain"})
        response = self.connection.getresponse()
        body = response.read()
        took = time.perf_counter() - began
        if response.status != 200 or json.loads(body)["hello"] != "Ada":
            raise SystemExit(f"{self.name}: a call was answered {response.status}: {body[:300]!r}")
        self.instances.add(response.headers["X-Mayfly-Instance"])
        self.calls += 1
        return took

    def cpu(self) -> float:
        """CPU milliseconds of the node's processes but the downloader and the supervisor, with their ended children."""
        return sum(_cpu_ms(pid) for pid in _tree(self.process.pid) if pid != self.process.pid and b"faas_downloader" not in _command(pid))

    def report(self) -> dict[str, float]:
        """Milliseconds."""
        ordered = sorted(self.seconds)
        at = [1000 * ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.95, 0.99)]
        return {"p50_ms": at[0], "p95_ms": at[1], "p99_ms": at[2], "cpu_ms": statistics.median(self.cpu_ms)}


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _cpu_ms(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return sum(int(value) for value in fields[11:15]) * 1000 / _TICKS


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:
            continue
        for child in children:
            yield from _tree(int(child))


def _run(data: Path, *arguments: str, stdin: str | None = None) -> None:
    environment = {**os.environ, "MAYFLY_DATA": str(data)}
    subprocess.run([str(BIN / "mayfly"), *arguments], env=environment, input=stdin, text=True, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def node(name: str, place: Path, layout: Path, monitor: Path) -> Iterator[Contender]:
    """`mayfly up` with this monitor and the function ready."""
    data = place / name
    environment = {**os.environ, "MAYFLY_DATA": str(data), "MAYFLY_MONITOR": str(monitor)}
    with (place / f"{name}.log").open("wb") as log:
        process = subprocess.Popen([BIN / "mayfly", "up", "--listen", "127.0.0.1:0"], env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not (data / "run" / "up.json").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{name}: the node did not start:\n{(place / f'{name}.log').read_text()}")
            time.sleep(0.05)
        manifest = (ROOT / "examples" / "hello" / "image.yaml").read_text().replace("oci:image.oci", f"oci:{layout}")
        _run(data, "apply", "-f", "-", "--wait", "--timeout", "60s", stdin=manifest)
        address = json.loads((data / "run" / "up.json").read_text())["url"].removeprefix("http://")
        connection = http.client.HTTPConnection(address, timeout=30)
        yield Contender(name, process, connection)
        connection.close()
    finally:
        process.terminate()
        process.wait()


def measure(contenders: list[Contender], calls: int) -> None:
    """Latency with calls alternating, then CPU in rounds of one contender at a time."""
    for contender in contenders:
        for _ in range(20):
            contender.call()
    for number in range(calls):
        for contender in contenders if number % 2 else reversed(contenders):
            contender.seconds.append(contender.call())
            time.sleep(0.01)  # concurrency 1 with time to park the next: latency, not throughput
    for _ in range(_ROUNDS):
        for contender in contenders:
            time.sleep(_SETTLE_SECONDS)
            before = contender.cpu()
            count = max(20, calls // _ROUNDS)
            for _ in range(count):
                contender.call()
            time.sleep(_SETTLE_SECONDS)
            contender.cpu_ms.append((contender.cpu() - before) / count)


def main() -> None:
    """Prints a table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=500, help="calls of each contender [500]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as name, ExitStack() as stack:
        place = Path(name)
        layout = place / "hello.oci"
        _run(place, "image", "build", str(ROOT / "examples" / "hello"), "-o", str(layout))
        reuse = place / "reuse-monitor"
        reuse.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT}/bench/reuse.py "$@"\n')
        reuse.chmod(reuse.stat().st_mode | stat.S_IXUSR)
        monitors = {"parked": BIN / "mayfly-monitor", "reuse": reuse}
        contenders = [stack.enter_context(node(name, place, layout, monitor)) for name, monitor in monitors.items()]
        measure(contenders, options.calls)
        rows = {contender.name: contender.report() for contender in contenders}
        system = f"{platform.system()} {platform.release()}, {os.cpu_count()} CPUs"
        print(f"{system}, Python {platform.python_version()}, {options.calls} calls each")
        print(f"{'contender':<10} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8} {'CPU ms/call':>12} {'instances':>10}")
        for contender in contenders:
            row = rows[contender.name]
            shown = " ".join(f"{row[key]:8.2f}" for key in ("p50_ms", "p95_ms", "p99_ms"))
            print(f"{contender.name:<10} {shown} {row['cpu_ms']:12.2f} {len(contender.instances):>6}/{contender.calls}")
        ratios = {key: rows["parked"][key] / max(rows["reuse"][key], 1e-9) for key in rows["parked"]}
        print("parked / reuse: " + ", ".join(f"{key.removesuffix('_ms')} {ratio:.2f}" for key, ratio in ratios.items()))


if __name__ == "__main__":
    main()
