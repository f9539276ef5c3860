"""Who is measured: each contender with its name, how it is called, and how its cost is read."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import accounting, images
from bench.arrivals import Target
from bench.machine import BIN, ROOT
from bench.node import Node, manifest

BODY = b"Ada"
START_S = 30.0
_KEPT_S = 20.0  # an idle connection; servers close theirs after a minute or so


@dataclass(frozen=True)
class Kind:
    """A contender, before it stands."""

    name: str
    what: str
    language: str
    way: str  # monitor, boot, a stand-in's, an OCI runtime's name, or alone
    every: int = 1  # it is called in one of so many rounds: the slow ones would take all the time
    loaded: bool = True  # whether it meets open-loop load
    in_quick: bool = True

    @property
    def front(self) -> bool:
        """Whether it stands behind Mayfly's front."""
        return self.way != "alone"


KINDS = (
    Kind("parked", "Mayfly: a clone in a virtual machine of its own, parked", "CPython", "monitor"),
    Kind("reuse", "a warm process that answers one call after the other", "CPython", "reuse"),
    Kind("fork", "a process forked of a warm one; no isolation", "CPython", "fork"),
    Kind("exec", "a new interpreter; no isolation", "CPython", "exec", every=5),
    Kind("boot", "Mayfly: a virtual machine that boots the program", "CPython", "boot", every=20, loaded=False),
    Kind("crun", "a container of crun", "CPython", "crun", every=20, loaded=False, in_quick=False),
    Kind("runc", "a container of runc", "CPython", "runc", every=20, loaded=False, in_quick=False),
    Kind("runsc", "a sandbox of gVisor", "CPython", "runsc", every=50, loaded=False, in_quick=False),
    Kind("floor", "an empty virtual machine, made for the call", "C", "floor"),
    Kind("gunicorn", "gunicorn alone, a worker for each core, 4 threads each", "CPython", "alone", in_quick=False),
    Kind("uvicorn", "uvicorn alone, a worker for each core", "CPython", "alone", in_quick=False),
    Kind("node parked", "Mayfly: a parked clone", "Node", "monitor"),
    Kind("node reuse", "a warm process", "Node", "reuse"),
    Kind("node alone", "Node's own http server", "Node", "alone", in_quick=False),
    Kind("go parked", "Mayfly: a parked clone", "Go", "monitor"),
    Kind("go reuse", "a warm process", "Go", "reuse"),
)


@dataclass
class Standing:
    """A contender that takes calls."""

    kind: Kind
    target: Target
    cpu: Callable[[], float]
    memory: Callable[[], float | None]
    _connection: http.client.HTTPConnection | None = None
    _used: float = 0.0

    def call(self) -> float:
        """One call on a connection that is kept, checked; seconds from its first byte to the answer's last. A wrong answer ends the run."""
        if time.perf_counter() - self._used > _KEPT_S:
            self.close()
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self.target.host, self.target.port, timeout=60)
            self._connection.connect()
        sock = self._connection.sock
        assert sock is not None
        began = time.perf_counter()
        sock.sendall(self.target.request)
        response = http.client.HTTPResponse(sock, method="POST")
        response.begin()
        body = response.read()
        self._used = time.perf_counter()
        took = self._used - began
        if response.status != 200 or not self.target.right(body):
            raise SystemExit(f"{self.kind.name}: a call was answered {response.status}: {body[:300]!r}")
        if response.will_close:
            self.close()
        return took

    def close(self) -> None:
        """Its client's connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def request(path: str, body: bytes = BODY, *, headers: str = "", call: str = "") -> bytes:
    """A POST as it goes over the wire."""
    named = f"X-Call-Id: {call}\r\n" if call else ""
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: text/plain\r\n{named}{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def says_hello(body: bytes) -> bool:
    """Whether an answer is the right one."""
    try:
        return bool(json.loads(body) == {"hello": BODY.decode()})
    except ValueError:
        return False


def available(kinds: Sequence[Kind]) -> tuple[list[Kind], dict[str, str]]:
    """Those that this machine can run, and why not the others."""
    needs = {"crun": "crun", "runc": "runc", "runsc": "runsc"}
    found, missing = [], {}
    for kind in kinds:
        program = {"Node": "node", "Go": "go"}.get(kind.language) or needs.get(kind.way)
        if program is not None and shutil.which(program) is None:
            missing[kind.name] = f"{program} is not installed on this machine"
        else:
            found.append(kind)
    return found, missing


def slug(kind: Kind) -> str:
    """Its name as a function."""
    return kind.name.replace(" ", "-")


def manifest_of(kind: Kind) -> dict[str, object]:
    """The function that a contender behind the front is."""
    layout = {"Node": images.node, "Go": images.go}.get(kind.language, images.cpython)()
    match kind.way:
        case "monitor":
            return manifest(layout, slug(kind))
        case "boot":
            return manifest(layout, slug(kind), {"BENCH_UNSNAPSHOTTABLE": "1"}, pool=0)
        case "crun" | "runc" | "runsc":
            return manifest(layout, slug(kind), runtime=kind.way)
        case _:
            return manifest(layout, slug(kind), {"BENCH_WAY": kind.way})


@contextmanager
def standing(kinds: Sequence[Kind], node: Node, place: Path) -> Iterator[list[Standing]]:
    """All of them, ready, until the block ends."""
    node.apply([manifest_of(kind) for kind in kinds if kind.front])
    with ExitStack() as stack:
        found = [_behind(kind, node) if kind.front else stack.enter_context(_alone(kind, place)) for kind in kinds]
        for contender in found:
            stack.callback(contender.close)
        yield found


def _behind(kind: Kind, node: Node) -> Standing:
    target = Target(node.host, node.port, request(f"/default/{slug(kind)}"), says_hello)
    return Standing(kind, target, node.cpu_ms, lambda: node.instance_mib(slug(kind)))


@contextmanager
def _alone(kind: Kind, place: Path) -> Iterator[Standing]:
    """A server that clients call directly."""
    port = free_port()
    workers = str(os.cpu_count() or 1)
    words = {
        "gunicorn": [
            *(sys.executable, "-m", "gunicorn", "--workers", workers, "--threads", "4", "--bind", f"127.0.0.1:{port}"),
            *("--keep-alive", "75", "--log-level", "error", "bench.programs.alone:wsgi"),
        ],
        "uvicorn": [
            *(sys.executable, "-m", "uvicorn", "--workers", workers, "--host", "127.0.0.1", "--port", str(port), "--no-access-log"),
            *("--timeout-keep-alive", "75", "--log-level", "error", "bench.programs.alone:asgi"),
        ],
        "node alone": ["node", str(images.PROGRAMS / "node/main.js")],
    }[kind.name]
    environment = {**os.environ, "PORT": str(port), "BENCH_HOST": "127.0.0.1", "PATH": f"{BIN}:{os.environ['PATH']}"}
    with (place / f"{slug(kind)}.log").open("wb") as log:
        process = subprocess.Popen(words, env=environment, cwd=ROOT, stdout=log, stderr=log)
    try:
        await_port(port, process, kind.name)
        target = Target("127.0.0.1", port, request("/"), says_hello)
        yield Standing(kind, target, lambda: accounting.tree_cpu_ms(process.pid), lambda: _largest(process.pid))
    finally:
        process.terminate()
        try:
            process.wait(START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _largest(pid: int) -> float:
    """Private memory of the process that answers: the largest of a server's."""
    return max(accounting.private_mib(member) for member in accounting.tree(pid))


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def await_port(port: int, process: subprocess.Popen[bytes], name: str) -> None:
    """Until somebody listens there; the end of the run if its process never will."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{name}: it does not listen") from None
            time.sleep(0.05)
        else:
            return
