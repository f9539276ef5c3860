"""What answers in the monitor's place: other ways to run the same handler, behind the same front and the same boundary (docs/protocol.md).

| Way | What answers a call |
|---|---|
| `reuse` | processes that stay warm, one for each processor: of-watchdog, Knative |
| `fork` | a process forked of a warm one |
| `exec` | a new interpreter: the classic watchdog |
| `floor` | an empty virtual machine, made for the call: the least that a machine per call can cost here |

It is chosen by a function's environment (`BENCH_WAY`), so that all stand on one node and nothing but the way differs. It says no more on
the control stream than it must: what the front learns of our instances and writes into receipts, these do not pay for.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.programs import once

WAYS = ("reuse", "fork", "exec", "floor")
_BACKLOG = 1024


def event(kind: str, **fields: object) -> None:
    """One line of the control stream."""
    sys.stdout.write(json.dumps({"event": kind, "time": time.time(), **fields}) + "\n")
    sys.stdout.flush()


class StandIn:
    """One function served in one way."""

    def __init__(self, bundle: Path, path: str) -> None:
        config: dict[str, Any] = json.loads((bundle / "config.json").read_text())
        self._args: list[str] = config["process"]["args"]
        self._environment = dict(entry.split("=", 1) for entry in config["process"]["env"])
        self._app = f"{config['root']['path']}/app"
        self._instance = secrets.token_hex(8)
        self._listener = socket.socket(socket.AF_UNIX)
        Path(path).unlink(missing_ok=True)
        self._listener.bind(path)
        self._listener.listen(_BACKLOG)
        self._started: list[int] = []

    def serve(self, way: str) -> None:
        """Until the commands end."""
        os.environ.update(self._environment)
        signal.signal(signal.SIGCHLD, reap)
        event("booting", pid=os.getpid())
        match way:
            case "reuse" if self._is_python:
                self._workers(once.handler_of(self._app))
            case "reuse":
                self._warm_programs()
            case "floor":
                self._start([os.environ["BENCH_FLOOR"], "serve", str(self._listener.fileno()), self._instance])
            case _:
                worker = os.fork()
                if worker == 0:
                    signal.signal(signal.SIGCHLD, reap)
                    self._per_call(once.handler_of(self._app) if way == "fork" else None)
                self._started.append(worker)
        event("ready", boot_ms=0, snapshot=None, reason=f"stand-in {way}", layers=[])
        event("parked", instance=self._instance, pid=os.getpid())
        self._obey()

    @property
    def _is_python(self) -> bool:
        return "python" in self._args[0]

    def _workers(self, handler: Any) -> None:
        """Warm processes that accept by themselves."""
        for _ in range(os.cpu_count() or 1):
            worker = os.fork()
            if worker == 0:
                while True:
                    connection, _ = self._listener.accept()
                    with connection:
                        once.serve(connection, handler, self._instance)
            self._started.append(worker)

    def _warm_programs(self) -> None:
        """The function's own program, which accepts by itself."""
        words = [word.replace("/app/", f"{self._app}/") for word in self._args]
        for _ in range(os.cpu_count() or 1):
            self._start(words, {"BENCH_DESCRIPTOR": str(self._listener.fileno()), "BENCH_INSTANCE": self._instance})

    def _start(self, words: list[str], environment: Mapping[str, str] = {}) -> None:
        descriptor = self._listener.fileno()
        started = subprocess.Popen(words, env={**os.environ, **environment}, pass_fds=(descriptor,), stdin=subprocess.DEVNULL, stdout=2)
        self._started.append(started.pid)

    def _per_call(self, handler: Any | None) -> None:
        """A process for each connection: forked as this one is, or a new interpreter."""
        interpreter = os.path.realpath(sys.executable)
        words = [interpreter, "-I", str(Path(once.__file__).resolve()), self._app, self._instance]
        while True:
            connection, _ = self._listener.accept()
            if handler is None:
                os.posix_spawn(interpreter, words, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, connection.fileno(), 0)])
            elif os.fork() == 0:
                once.serve(connection, handler, self._instance)
                os._exit(0)
            connection.close()

    def _obey(self) -> None:
        """To drain is to end: whoever asks for it has no calls under way."""
        while command := os.read(0, 1 << 16):
            if b'"drain"' in command:
                break
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for started in self._started:
            os.kill(started, signal.SIGKILL)
        os._exit(0)


def reap(_number: int, _frame: object) -> None:
    """Ended children, so that their processor time is in this process's account."""
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        return


def main() -> None:
    """The command line of `mayfly-monitor serve`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--socket", required=True)
    options, _ = parser.parse_known_args()
    # A session of its own is what the server gives; what it kills goes with all that was started.
    threading.stack_size(1 << 18)
    standin = StandIn(options.bundle, options.socket)
    standin.serve(os.environ.get("BENCH_WAY") or way_of(options.bundle))


def way_of(bundle: Path) -> str:
    """What the function's environment says."""
    environment: list[str] = json.loads((bundle / "config.json").read_text())["process"]["env"]
    return next(entry.partition("=")[2] for entry in environment if entry.startswith("BENCH_WAY="))


if __name__ == "__main__":
    main()
