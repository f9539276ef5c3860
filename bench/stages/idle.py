"""Many deployed functions that nobody calls: what the server's start, its memory and a first call cost, and a hot function beside them.

Some of them are real: they were booted, and sleep with their snapshot on disk; the first calls are theirs. The others are what a server
finds of functions that sleep, bundle and note, with a file in the snapshot's place that nobody opens: to boot 10,000 functions once would
take an hour. The server is started alone, as its plane in `mayfly up`: there are no `Image` resources for so many.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import accounting, images
from bench.arrivals import Target
from bench.contenders import Kind, Standing, await_port, free_port, request, says_hello
from bench.machine import BIN
from bench.node import get, manifest, running
from bench.quantiles import spread
from bench.results import Idle
from bench.stages.plan import Plan

_HOT_CALLS = 300
_PAUSE_S = 0.012
_SLEEP_AFTER = 2.0
_PATIENCE_S = 180.0


def measure(plan: Plan, place: Path) -> Idle:
    """On a data directory of its own."""
    with running(place, images.floor(), name="idle") as node:
        node.apply([manifest(images.cpython(), "hot")])
        data = node.data
    names = [f"idle-{number}" for number in range(plan.idle_real)]
    for name in names:
        _publish(data, name)
    with _serving(data) as server:
        _await(server, lambda: _asleep(server) >= len(names), "all sleep but the hot one")
        few = _hot(server)
        before = accounting.private_mib(server.pid)
    for number in range(plan.idle - plan.idle_real):
        revision = _publish(data, f"other-{number}")
        directory = data / "snapshots" / revision
        directory.mkdir(mode=0o700)
        (directory / "snapshot").touch()
        (directory / "asleep").touch()
    began = time.perf_counter()
    with _serving(data) as server:
        _await(server, lambda: (server.get("/readyz") or {"ready": False})["ready"], "the server is ready")
        start = time.perf_counter() - began
        memory = accounting.private_mib(server.pid)
        many = _hot(server)
        first = _first_calls(server, names)
    return Idle(
        functions=plan.idle,
        server_start_s=start,
        server_mib=memory,
        per_function_kib=(memory - before) * 1024 / max(1, plan.idle - plan.idle_real),
        first_call=spread(first),
        hot_beside_few=spread(few),
        hot_beside_many=spread(many),
        hot_ratio=spread(many).p50_ms / spread(few).p50_ms,
    )


class Server:
    """The server's plane alone."""

    def __init__(self, pid: int, port: int) -> None:
        self.pid = pid
        self.host, self.port = "127.0.0.1", port

    def get(self, path: str) -> Any:
        """An answer of the management front."""
        return get(self.host, self.port, path)


@contextmanager
def _serving(data: Path) -> Iterator[Server]:
    port = free_port()
    environment = {**os.environ, "MAYFLY_SLEEP_AFTER": str(_SLEEP_AFTER)}
    words = [
        sys.executable,
        "-m",
        "faas_server",
        "--data",
        str(data),
        "--listen",
        f"127.0.0.1:{port}",
        "--monitor",
        str(BIN / "mayfly-monitor"),
    ]
    with (data / "server.log").open("ab") as log:
        process = subprocess.Popen(words, env=environment, stderr=log)
    try:
        await_port(port, process, "faas_server")
        yield Server(process.pid, port)
    finally:
        process.terminate()
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _publish(data: Path, name: str) -> str:
    """A function like the hot one, as the downloader leaves it; its revision."""
    functions = data / "bundles" / "revisions" / "default"
    template = functions / "hot" / os.readlink(functions / "hot" / "current")
    revision = secrets.token_hex(8)
    bundle = functions / name / revision
    bundle.mkdir(parents=True)
    spec: dict[str, Any] = json.loads((template / "function.json").read_text())
    (bundle / "function.json").write_text(json.dumps({**spec, "name": name, "revision": revision}))
    (bundle / "config.json").write_bytes((template / "config.json").read_bytes())
    (functions / name / "current").symlink_to(revision)
    return revision


def _asleep(server: Server) -> int:
    found = server.get("/_mayfly/functions") or {"functions": []}
    return sum((function["serving"] or {}).get("state") == "asleep" for function in found["functions"] if function["name"] != "hot")


def _await(server: Server, condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > until or not Path(f"/proc/{server.pid}").exists():
            raise SystemExit(f"{what}: not within {_PATIENCE_S:g} s")
        time.sleep(0.05)


def _hot(server: Server) -> list[float]:
    hot = _standing(server, "hot")
    times = []
    for _ in range(_HOT_CALLS):
        times.append(hot.call())
        time.sleep(_PAUSE_S)
    hot.close()
    return times[10:]


def _first_calls(server: Server, names: list[str]) -> list[float]:
    times = []
    for name in random.Random(1).sample(names, len(names)):
        standing = _standing(server, name)
        times.append(standing.call())
        standing.close()
    return times


def _standing(server: Server, name: str) -> Standing:
    target = Target(server.host, server.port, request(f"/default/{name}"), says_hello)
    return Standing(Kind(name, "", "CPython", "monitor"), target, lambda: 0.0, lambda: None)
