"""The node that all contenders behind the front stand on: `mayfly up` as everybody starts it, with room for stand-ins."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from bench import accounting
from bench.machine import BIN, ROOT

START_S = 60.0
READY_S = 300.0

# Functions that name a way in their environment are served by it; all others, and all other commands, are the monitor's.
_CHOOSER = """#!/bin/sh
for word in "$@"; do
    [ "$before" = --bundle ] && bundle=$word
    before=$word
done
if [ -n "$bundle" ] && grep -q '"BENCH_WAY=' "$bundle/config.json"; then
    export PYTHONPATH="{root}" BENCH_FLOOR="{floor}"
    exec "{python}" -m bench.standins "$@"
fi
exec "{monitor}" "$@"
"""


class Node:
    """A running node."""

    def __init__(self, data: Path, process: subprocess.Popen[bytes]) -> None:
        self.data = data
        self.pid = process.pid
        self._process = process
        address = json.loads((data / "run" / "up.json").read_text())["url"].removeprefix("http://")
        self.host, _, port = address.rpartition(":")
        self.port = int(port)

    def apply(self, manifests: list[dict[str, Any]], *, wait: bool = True) -> None:
        """Deploys functions, and waits until they can be called."""
        words = ("apply", "-f", "-", *(("--wait", "--timeout", f"{READY_S:.0f}s") if wait else ()))
        self.mayfly(*words, stdin=yaml.safe_dump_all(manifests))

    def delete(self, *names: str) -> None:
        """Takes functions away."""
        for name in names:
            self.mayfly("delete", "image", name)

    def mayfly(self, *words: str, stdin: str | None = None) -> str:
        """What the command says; its error ends the run."""
        environment = {**os.environ, "MAYFLY_DATA": str(self.data), "NO_COLOR": "1"}
        finished = subprocess.run([str(BIN / "mayfly"), *words], env=environment, input=stdin, capture_output=True, text=True, check=False)
        if finished.returncode != 0:
            raise SystemExit(f"mayfly {' '.join(words[:3])}: {finished.stderr.strip()}")
        return finished.stdout

    def get(self, path: str) -> Any:
        """An answer of the management front; None if there is none under that path."""
        return get(self.host, self.port, path)

    def receipt(self, call: str) -> dict[str, Any] | None:
        """The receipt of a call, both halves of it."""
        found: dict[str, Any] | None = self.get(f"/_mayfly/receipts/{call}")
        return found

    def plane(self, module: str) -> int:
        """The process of a plane."""
        return next(pid for pid in accounting.tree(self.pid) if module.encode() in accounting.command(pid) and pid != self.pid)

    def cpu_ms(self) -> float:
        """Processor time of all that a call concerns: the server, monitors, instances; not the supervisor, not the downloader."""
        return accounting.tree_cpu_ms(self.plane("faas_server"))

    def monitor(self, function: str) -> int:
        """The process that serves a function; 0 if there is none."""
        mark = f"/{function}/".encode()
        server = self.plane("faas_server")
        children = [pid for pid in accounting.tree(server) if pid != server and mark in accounting.command(pid)]
        return children[0] if children else 0

    def instance_mib(self, function: str) -> float | None:
        """Private memory of what waits for calls of a function, the mean of its processes."""
        top = self.monitor(function)
        waiting = [pid for pid in accounting.tree(top) if pid != top] if top else []
        sizes = [size for pid in waiting if (size := accounting.private_mib(pid)) > 0]
        return sum(sizes) / len(sizes) if sizes else None

    def stop(self) -> None:
        """Drains it."""
        self._process.terminate()
        try:
            self._process.wait(START_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def get(host: str, port: int, path: str) -> Any:
    """A JSON answer of a server; None if it has none under that path."""
    connection = http.client.HTTPConnection(host, port, timeout=180)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        return json.loads(body) if response.status == 200 else None
    finally:
        connection.close()


def manifest(layout: Path, name: str, environment: Mapping[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    """An Image resource that names a layout of this machine."""
    variables = [{"name": key, "value": value} for key, value in (environment or {}).items()]
    return {
        "apiVersion": "build.kontain.app/v1",
        "kind": "Image",
        "metadata": {"name": name},
        "spec": {"image": f"oci:{layout}", **({"env": variables} if variables else {}), **spec},
    }


@contextmanager
def running(place: Path, floor: Path, settings: Mapping[str, str] | None = None, *, name: str = "node") -> Iterator[Node]:
    """A node in `place`, until the block ends."""
    data = place / name
    data.mkdir(exist_ok=True)
    chooser = place / "monitor"
    chooser.write_text(_CHOOSER.format(root=ROOT, floor=floor, python=sys.executable, monitor=BIN / "mayfly-monitor"))
    chooser.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MAYFLY_")}
    environment = {**kept, "MAYFLY_DATA": str(data), "MAYFLY_MONITOR": str(chooser), "NO_COLOR": "1", **(settings or {})}
    log = place / f"{name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen([BIN / "mayfly", "up", "--listen", "127.0.0.1:0"], env=environment, stdout=output, stderr=output)
    deadline = time.monotonic() + START_S
    node = None
    try:
        while not (data / "run" / "up.json").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the node did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.02)
        node = Node(data, process)
        yield node
    finally:
        if node is not None:
            node.stop()
        elif process.poll() is None:
            process.kill()
            process.wait()
