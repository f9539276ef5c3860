"""The contender `reuse`: one warm Python process answers every call, behind the same server as ours.

It speaks docs/protocol.md to the server, so that all in front of it is equal: greeting, envelope, one connection a call. What differs is
what answers: no virtual machine, no clone, no isolation, always the same process. It takes the arguments of `mayfly-monitor serve`, reads
the bundle, and runs the handler class of the program's own `main.py`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import secrets
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace


def event(kind: str, **fields: object) -> None:
    """One line of the control stream."""
    sys.stdout.write(json.dumps({"event": kind, "time": time.time(), **fields}) + "\n")
    sys.stdout.flush()


def handler_of(bundle: Path) -> type[BaseHTTPRequestHandler]:
    """The handler class in the program that the bundle runs."""
    root = Path(json.loads((bundle / "config.json").read_text())["root"]["path"])
    spec = importlib.util.spec_from_file_location("function", root / "app" / "main.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    classes = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, BaseHTTPRequestHandler)]
    return next(value for value in classes if value is not BaseHTTPRequestHandler)


def read_envelope(connection: socket.socket) -> str:
    """The line before the request; nothing beyond it is taken."""
    while b"\n" not in (seen := connection.recv(512, socket.MSG_PEEK)):
        if not seen:
            raise ConnectionError("no envelope")
    line = connection.recv(seen.index(b"\n") + 1)
    return line.split()[1].decode()


def main() -> None:
    """Serves until the server's end of the commands closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--version", action="version", version="reuse: one warm process, no virtual machine")
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--socket", required=True)
    options, _ = parser.parse_known_args()
    handler = handler_of(options.bundle)
    listener = socket.socket(socket.AF_UNIX)
    Path(options.socket).unlink(missing_ok=True)
    listener.bind(options.socket)
    listener.listen(128)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    event("booting", pid=os.getpid())
    event("ready", boot_ms=0, snapshot=None, reason="one warm process", layers=[])
    name = secrets.token_hex(8)
    event("parked", instance=name, pid=os.getpid())
    server = SimpleNamespace(server_name="reuse", server_port=0)
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(f"MAYFLY/1 {name}\n".encode())
            call = read_envelope(connection)
            event("accepted", instance=name, call=call)
            handler(connection, ("127.0.0.1", 0), server)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
