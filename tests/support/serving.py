"""A real `mayfly-monitor serve` for tests: bundles made by hand, the control stream read, calls made on its socket."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

MONITOR = Path(sys.executable).parent / "mayfly-monitor"

Event = dict[str, Any]

# How long anything of the monitor may take before a test gives up, seconds: generous, because two cores run all tests.
PATIENCE = 30.0


def make_bundle(
    directory: Path,
    rootfs: Path,
    args: Sequence[str],
    *,
    contract: str = "http",
    env: Sequence[str] = (),
    cwd: str = "/",
    **function: object,
) -> Path:
    """A bundle over an existing root, as docs/protocol.md section 1 says."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "ociVersion": "1.0.2",
        "process": {"args": list(args), "env": ["PATH=/usr/bin:/bin", "PORT=8080", *env], "cwd": cwd, "user": {"uid": 0, "gid": 0}},
        "root": {"path": str(rootfs), "readonly": True},
    }
    values: dict[str, object] = {
        "version": 1,
        "namespace": "default",
        "name": "test",
        "revision": "0123456789abcdef",
        "image": "sha256:" + "0" * 64,
        "reference": "oci:test",
        "contract": contract,
        "port": 8080,
        "timeout_ms": 10_000,
        "memory_bytes": 256 << 20,
        "concurrency": 16,
        "pool": 2,
        **function,
    }
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "function.json").write_text(json.dumps(values))
    return directory


@dataclass(frozen=True)
class Answer:
    """What came back on a connection."""

    instance: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool


class Serve:
    """One `serve` process; a context manager that kills it and waits for its end."""

    def __init__(
        self,
        bundle: Path,
        directory: Path,
        *options: str,
        pool: int = 2,
        instances: int = 16,
        ready_ms: int = 10_000,
        program: Sequence[str] = (str(MONITOR),),
    ) -> None:
        self.socket = directory / "s.sock"
        self.isolation = "kvm"
        self.events: list[Event] = []
        self._arrived: queue.Queue[Event | None] = queue.Queue()
        self._command = [
            *(*program, "serve", "--bundle", str(bundle), "--socket", str(self.socket)),
            *("--pool", str(pool), "--instances", str(instances), "--ready-timeout", str(ready_ms), *options),
        ]
        self._errors = directory / "serve.stderr"

    def __enter__(self) -> Self:
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._reader.join()
        self.process.stdin.close()
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._arrived.put(json.loads(line))
        self._arrived.put(None)

    def wait_for(
        self, kind: str, matches: Callable[[Event], bool] = lambda event: True, *, otherwise: str = "", patience: float = PATIENCE
    ) -> Event:
        """The first event of this kind, or of the kind `otherwise`, past or to come, that `matches`."""
        for event in self.events:
            if event["event"] in {kind, otherwise} and matches(event):
                return event
        deadline = time.monotonic() + patience
        while True:
            arrived = self._next(deadline)
            if arrived is None:
                shown = "\n".join(json.dumps(seen) for seen in self.events[-20:])
                raise AssertionError(f"no event {kind}; stderr: {self.errors()}; events:\n{shown}")
            self.events.append(arrived)
            if arrived["event"] in {kind, otherwise} and matches(arrived):
                return arrived

    def _next(self, deadline: float) -> Event | None:
        try:
            return self._arrived.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return None

    def ended(self, call: str) -> Event:
        return self.wait_for("ended", lambda event: event["call"] == call)

    def errors(self) -> str:
        return self._errors.read_text()

    def command(self, **fields: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(fields).encode() + b"\n")
        self.process.stdin.flush()

    def connect(self, patience: float = PATIENCE) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(patience)
        try:
            connection.connect(str(self.socket))
        except OSError:
            connection.close()
            raise
        return connection

    def call(
        self,
        name: str = "call-1",
        body: bytes = b"",
        *,
        path: str = "/",
        milliseconds: int = 10_000,
        headers: Mapping[str, str] | None = None,
        queue: float = PATIENCE,
    ) -> Answer:
        """One call, from the envelope to the end of the answer. It may take its time and, before an instance has it, `queue` seconds."""
        fields = {"Host": "f", "Connection": "close", "Content-Length": str(len(body)), **(headers or {})}
        head = "".join(f"{key}: {value}\r\n" for key, value in fields.items())
        with self.connect(queue + milliseconds / 1000) as connection:
            request = f"MAYFLY/1 {name} {milliseconds} -\nPOST {path} HTTP/1.1\r\n{head}\r\n".encode() + body
            # A program that does not read its input may end first; its answer is there all the same.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(request)
            return read_answer(connection)


def read_answer(connection: socket.socket) -> Answer:
    """Reads to the end of the connection; a reset after the answer is an end, too."""
    received = b""
    while True:
        try:
            piece = connection.recv(1 << 16)
        except ConnectionResetError:
            break
        if not piece:
            break
        received += piece
    greeting, _, rest = received.partition(b"\n")
    words = greeting.split()
    instance = words[1].decode() if len(words) == 2 and words[0] == b"MAYFLY/1" else ""
    head, separator, body = rest.partition(b"\r\n\r\n")
    if not separator:
        return Answer(instance, 0, {}, rest, whole=False)
    lines = head.decode("latin-1").split("\r\n")
    headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines[1:])}
    length = headers.get("content-length")
    whole = length is None or len(body) == int(length)
    return Answer(instance, int(lines[0].split()[1]), headers, body, whole)
