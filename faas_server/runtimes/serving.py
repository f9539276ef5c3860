"""The adapter's life: ready once its runtime has run the program, then a thread per connection, until it is told to drain.

A place is taken before a connection is accepted, so never more containers run than the server allows; what waits, waits in the socket's
backlog, where the server expects it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

from bundles.runtime_config import FunctionSpec
from faas_server.runtimes.calling import Call
from faas_server.runtimes.container import Container, Runtime
from faas_server.runtimes.control import TEXT_BYTES, say
from faas_server.runtimes.flavors import flavor, version
from faas_server.runtimes.waiting import readable

_BACKLOG = 1024
_OUTPUT_BYTES = 16 << 10  # of what a program said that did not get ready


class Adapter:
    """Serves one function revision through one OCI runtime."""

    def __init__(
        self, spec: FunctionSpec, runtime: Runtime, socket_path: Path, *, instances: int, ready_s: float, log_bytes: int, output_bytes: int
    ) -> None:
        self._spec, self._runtime, self._path = spec, runtime, socket_path
        self._ready_s, self._log_bytes, self._output_bytes = ready_s, log_bytes, output_bytes
        self._places = threading.Semaphore(instances)
        self._calls: dict[threading.Thread, Call] = {}
        self._changing = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX)

    def run(self) -> int:
        """Serves until it has drained; the exit status."""
        self._runtime.scratch.mkdir(mode=0o700)
        try:
            threading.Thread(target=self._obey, daemon=True).start()
            if not self._get_ready():
                return 1
            self._accept()
            for call in list(self._calls):
                call.join()
        finally:
            self._listener.close()
            self._path.unlink(missing_ok=True)
            shutil.rmtree(self._runtime.scratch, ignore_errors=True)
        return 0

    def drain(self) -> None:
        """Accepts no more; `run` returns when the last call has ended."""
        with contextlib.suppress(OSError):  # it does not listen yet
            self._listener.shutdown(socket.SHUT_RDWR)

    # ---- readiness

    def _get_ready(self) -> bool:
        began = time.monotonic()
        say("booting", pid=os.getpid())
        try:
            said = version(self._runtime.program)
        except (OSError, subprocess.SubprocessError) as error:
            return self._failed(
                "config", f"spec.runtime {self._runtime.name}: {self._runtime.program} cannot be asked for its version: {error}"
            )
        problem: list[tuple[str, str, str]] = []
        if self._spec.contract == "http":
            trial = threading.Thread(target=lambda: problem.extend(self._trial()))
            trial.start()
            trial.join()
        if problem:
            return self._failed(*problem[0])
        self._path.unlink(missing_ok=True)
        self._listener.bind(str(self._path))
        self._listener.listen(_BACKLOG)
        say(
            "ready",
            boot_ms=(time.monotonic() - began) * 1000,
            snapshot=None,
            reason=f"every call starts a container of {self._runtime.name}",
            layers=[
                f"oci:{self._runtime.name}",
                "namespaces",
                "no network",
                *(["memory"] if flavor(self._runtime.name).limits_memory else []),
            ],
            isolation=f"oci:{self._runtime.name}",
            runtime=said,
        )
        return True

    def _trial(self) -> list[tuple[str, str, str]]:
        """Runs the program once up to where it listens; why it does not, if so."""
        container = Container(self._runtime, secrets.token_hex(8))
        try:
            container.start(stdin=subprocess.DEVNULL)
            connection = container.connect(self._spec.port, time.monotonic() + self._ready_s)
            if connection is not None:
                connection.close()
                return []
            output = _said(container)
            if container.running:
                return [("timeout", f"nothing listens on port {self._spec.port} after {self._ready_s:g} s", output)]
            how = container.wait(0)
            ended = "ended" if how is None else f"ended with signal {how.signal}" if how.signal else f"ended with status {how.status}"
            return [("exited", f"the program {ended} before it listened on port {self._spec.port}", output)]
        except (OSError, ValueError) as error:
            return [("internal", f"{self._runtime.name}: {error}", "")]
        finally:
            container.end()

    def _failed(self, reason: str, message: str, output: str = "") -> bool:
        say("failed", reason=reason, message=message[:TEXT_BYTES], output=output)
        return False

    # ---- calls

    def _accept(self) -> None:
        while True:
            self._places.acquire()
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            call = Call(connection, self._spec, self._runtime, log_bytes=self._log_bytes, output_bytes=self._output_bytes)
            thread = threading.Thread(target=self._call, args=(call,))
            with self._changing:
                self._calls[thread] = call
            thread.start()

    def _call(self, call: Call) -> None:
        try:
            call.run()
        finally:
            with self._changing:
                self._calls.pop(threading.current_thread(), None)
            self._places.release()

    # ---- commands

    def _obey(self) -> None:
        # Unbuffered: an interpreter that ends may not wait for a reader's lock.
        while command := os.read(0, 1 << 16):
            if b'"drain"' in command:
                self.drain()
        # The server is gone: nobody waits for what runs.
        self.drain()
        with self._changing:
            calls = list(self._calls.values())
        for call in calls:
            call.abandon()


def _said(container: Container) -> str:
    output = b""
    for stream in (container.stdout, container.stderr):
        if readable(stream, 0):
            output += os.read(stream.fileno(), _OUTPUT_BYTES)
    return output[-_OUTPUT_BYTES:].decode("utf-8", "replace")
