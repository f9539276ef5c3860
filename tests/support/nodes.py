"""A real server in a process of its own, over a scripted monitor, and a client whose every byte a test chooses."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE = 60.0  # for whatever a test waits for; much more than it takes


def wait_for(condition: Callable[[], T | None], what: str, patience: float = PATIENCE) -> T:
    """The first true value of `condition`."""
    limit = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < limit, f"{what}: not within {patience} s"
        time.sleep(0.005)
    return found


def scripted_monitor(directory: Path) -> Path:
    """A program that starts tests/support/scripted_monitor.py."""
    program = directory / "scripted-monitor"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {ROOT}/tests/support/scripted_monitor.py "$@"\n')
    program.chmod(0o755)
    return program


def deploy(data: Path, name: str, *script: str, namespace: str = "default", **spec: Any) -> str:
    """Publishes a bundle as bundles.revisions lays it out; `script` is for the scripted monitor. Returns the revision."""
    revision = secrets.token_hex(8)
    digest = "ab" * 32
    (data / f"bundles/unpacked/sha256-{digest}/rootfs").mkdir(parents=True, exist_ok=True)
    function = data / "bundles/revisions" / namespace / name
    bundle = function / revision
    fresh = data / "bundles/tmp" / revision
    fresh.mkdir(parents=True)
    function.mkdir(parents=True, exist_ok=True)
    document = {
        "version": 1,
        "namespace": namespace,
        "name": name,
        "revision": revision,
        "image": f"sha256:{digest}",
        "reference": "docker://registry.test/peer:1",
        "contract": "http",
        "port": 8080,
        "timeout_ms": 20_000,
        "memory_bytes": 1 << 28,
        "concurrency": 64,
        "pool": 4,
    }
    (fresh / "function.json").write_text(json.dumps({**document, **spec}))
    (fresh / "config.json").write_text(json.dumps({"process": {"args": ["scripted", *script]}}))
    fresh.rename(bundle)
    link = data / "bundles/tmp" / f"{revision}.current"
    link.symlink_to(revision)
    link.rename(function / "current")
    return revision


def unpublish(data: Path, name: str, namespace: str = "default") -> None:
    """Takes the function away."""
    (data / "bundles/revisions" / namespace / name / "current").unlink()


@dataclass
class Reply:
    """A response, read whole."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The message of an error that the server made."""
        return str(self.json["error"]["message"])


class Node:
    """A running server."""

    def __init__(
        self, data: Path, monitor: Path, settings: Mapping[str, str | float] | None = None, *, pass_fds: tuple[int, ...] = ()
    ) -> None:
        self.data = data
        self.lines: list[str] = []
        environment = {
            **os.environ,
            **{f"MAYFLY_{name.upper()}": str(value) for name, value in (settings or {}).items()},
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-m", "faas_server", "--data", str(data), "--listen", "127.0.0.1:0", "--monitor", str(monitor)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=data, pass_fds=pass_fds)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.port: int = wait_for(self._listening, "the server listens")["port"]
        except AssertionError:
            self.kill()  # nobody else knows of it
            raise

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stderr:
            self.lines.extend(iter(stderr.readline, ""))

    def _listening(self) -> dict[str, Any] | None:
        assert self.process.poll() is None, "".join(self.lines)
        return next((json.loads(line) for line in list(self.lines) if '"listening"' in line), None)

    def log(self) -> list[dict[str, Any]]:
        """What the operator reads."""
        return [json.loads(line) for line in list(self.lines)]

    def stop(self, patience: float = PATIENCE) -> int:
        """SIGTERM, and the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(patience)
        self._reader.join(5)
        return status

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def call(self, path: str, body: bytes | None = None, method: str | None = None, headers: Mapping[str, str] | None = None) -> Reply:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, body, dict(headers or {}))
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    @contextmanager
    def connected(self) -> Iterator[socket.socket]:
        """A connection for raw bytes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            yield connection

    def exchange(self, data: bytes) -> bytes:
        """All that comes back for these bytes, until the server closes."""
        with self.connected() as connection:
            connection.sendall(data)
            return until_closed(connection)

    def status(self, name: str, namespace: str = "default") -> dict[str, Any] | None:
        """The function's status, None while there is none."""
        reply = self.call(f"/_mayfly/functions/{namespace}/{name}")
        return reply.json if reply.status == 200 else None

    def wait_ready(self, name: str, revision: str | None = None) -> dict[str, Any]:
        """The status once the function (of that revision) is ready."""

        def ready() -> dict[str, Any] | None:
            status = self.status(name)
            return status if status and status["ready"] and revision in (None, status["revision"]) else None

        return wait_for(ready, f"{name} is ready")

    @contextmanager
    def held(self, *names: str) -> Iterator[list[Reply]]:
        """One call of each of these functions is under way, or waits, while the block runs; after it the list has what came of them."""
        gate = self.data / f"gate-{secrets.token_hex(4)}"
        replies: list[Reply] = []
        with ThreadPoolExecutor(len(names)) as pool:
            calls = [pool.submit(self.call, f"/default/{name}/hold?until={gate}") for name in names]
            try:
                yield replies
            finally:
                gate.touch()
            replies += [call.result() for call in calls]

    def receipt(self, call: str) -> dict[str, Any]:
        """The receipt of a call, once it is there."""

        def found() -> dict[str, Any] | None:
            reply = self.call(f"/_mayfly/receipts/{call}")
            return reply.json if reply.status == 200 else None

        return wait_for(found, f"the receipt of {call}")

    def log_of(self, call: str, name: str = "peer") -> list[str]:
        """What a call's instance has written so far."""
        lines = self.call(f"/_mayfly/functions/default/{name}/logs?tail=1000").body.splitlines()
        return [line["line"] for line in map(json.loads, lines) if line["call"] == call]


def until_closed(connection: socket.socket) -> bytes:
    """What comes until the other end closes, or resets."""
    data = b""
    try:
        while part := connection.recv(1 << 20):
            data += part
    except ConnectionResetError:
        pass
    return data


def alive(pid: int) -> bool:
    """Whether that process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def resident(pid: int) -> int:
    """The process's resident memory in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
