"""A program that keeps docs/protocol.md, sections 2 to 5, as far as a server can tell, and breaks it where a test asks for that.

It makes no virtual machines. What it is for is what no honest monitor and no honest program shows: garbage on the control stream, a death
at a chosen moment, an answer that lies about its length. `config.json` of the bundle says how it boots (`process.args`: words `key=value`),
the path of a request says how its instance behaves (`BEHAVIOURS`). The standard library only: the server starts it like any monitor.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

OK = b"HTTP/1.1 200 OK\r\n"


class Monitor:
    """The control stream and the socket."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.spec = json.loads((options.bundle / "function.json").read_text())
        words = json.loads((options.bundle / "config.json").read_text())["process"]["args"][1:]
        self.script = dict(word.split("=", 1) for word in words)
        self.draining = threading.Event()
        self._speaking = threading.Lock()
        self._places = threading.Semaphore(int(self.script.get("places", options.instances)))
        self._running: set[threading.Thread] = set()
        self._listener = socket.socket(socket.AF_UNIX)

    def say(self, event: str, **fields: Any) -> None:
        self.write(json.dumps({"event": event, "time": time.time(), **fields}).encode() + b"\n")

    def write(self, data: bytes) -> None:
        with self._speaking:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()

    def run(self) -> int:
        threading.Thread(target=self._obey, daemon=True).start()
        signal.signal(signal.SIGTERM, lambda *_: self.drain())
        self.say("booting", pid=os.getpid())
        time.sleep(float(self.script.get("delay", "0")))
        while "gate" in self.script and not os.path.exists(self.script["gate"]):
            time.sleep(0.002)
        boot = self.script.get("boot", "ready")
        if boot == "failed":
            self.say("failed", reason="exited", message="the program ended with status 3", output="Traceback: \x1b[31mno module\n")
            return 1
        if boot == "exit":
            return 7
        if boot == "silent":
            signal.pause()
        if boot == "garbage":
            for _ in range(500):
                self.write(b"{not json\n")
            self.write(b"[" * 60_000 + b"\n" + b"x" * 200_000 + b"\n")
        if boot == "odd":  # lines that a reader must take or leave, and go on
            self.write(
                b'{"event": "of a later version", "time": 1}\n\xff\xfe\n\n{"event": "parked", "instance": 5}\n' + b"[" * 60_000 + b"\n"
            )
            self.write(b"x" * 200_000 + b"\n")
        scratch = self.options.socket.with_suffix(".scratch")
        scratch.mkdir()
        (scratch / "file").write_text("of an instance")
        self._listener.bind(str(self.options.socket))
        self._listener.listen(int(self.script.get("backlog", "128")))
        if "leaves" in self.script:  # a process that holds the control stream open when this one is gone
            subprocess.Popen(["sleep", self.script["leaves"]], stdin=subprocess.DEVNULL)
        for _ in range(self.options.pool):
            self.say("parked", instance=secrets.token_hex(8), pid=os.getpid())
        kept = self.options.snapshot
        source = "file" if kept and kept.exists() else "boot"
        if kept:
            kept.write_text(self.spec["revision"])
        self.say(
            "ready",
            boot_ms=12.5,
            snapshot={"digest": "sha256:" + "5" * 64, "bytes": 1 << 20, "threads": 1, "source": source},
            reason=None,
            layers=["seccomp", "landlock"],
            later="ignored",
        )
        if "repeats" in self.script:
            self.say("checked", repeats=[{"what": "values in the answer", "examples": [self.script["repeats"]]}], reason=None)
        if boot == "mortal":
            time.sleep(float(self.script["life"]))
            os._exit(9)
        return self._serve()

    def drain(self) -> None:
        self.draining.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)

    def _obey(self) -> None:
        for line in sys.stdin.buffer:
            if json.loads(line)["command"] == "drain" and self.script.get("drain") != "never":
                self.drain()
        os._exit(0)  # the server is gone

    def _serve(self) -> int:
        while True:
            self._places.acquire()
            try:
                connection, _ = self._listener.accept()
            except OSError:
                break
            if self.draining.is_set():
                connection.close()
                break
            thread = threading.Thread(target=self._instance, args=(connection,))
            self._running.add(thread)
            thread.start()
        self._listener.close()
        for thread in list(self._running):
            thread.join()
        return 0

    def _instance(self, connection: socket.socket) -> None:
        instance = Instance(self, connection)
        try:
            instance.live()
        finally:
            connection.close()
            self._places.release()
            self._running.discard(threading.current_thread())


class Instance:
    """One connection."""

    def __init__(self, monitor: Monitor, connection: socket.socket) -> None:
        self.monitor = monitor
        self.connection = connection
        self.id = secrets.token_hex(8)
        self.call: str | None = None
        self.cause: str = "closed"
        self.code: int | None = None
        self.target = ""
        self.words: dict[str, str] = {}
        self.head: list[str] = []
        self.rest = b""
        self.sent = 0

    def live(self) -> None:
        began = time.monotonic()
        if self.monitor.script.get("greeting") == "none":
            return
        self.send(self.monitor.script.get("greeting", f"MAYFLY/1 {self.id}\\n").encode().decode("unicode_escape").encode("latin-1"))
        try:
            envelope = self._until(b"\n", 512).decode().split()
            self.call, self.milliseconds, self.trace = envelope[1], int(envelope[2]), envelope[3]
            self.monitor.say("accepted", instance=self.id, call=self.call)
            self.head = self._until(b"\r\n\r\n", 1 << 20).decode("latin-1").split("\r\n")
            self.target = self.head[0].split(" ")[1]
            parts = urlsplit(self.target)
            self.words = dict(parse_qsl(parts.query))
            BEHAVIOURS.get(parts.path.strip("/").split("/")[0], echo)(self)
        except (OSError, EOFError):
            self.cause = "abandoned"
        self.connection.close()
        self.monitor.say(
            "ended",
            instance=self.id,
            call=self.call,
            cause=self.cause,
            code=self.code,
            message=None,
            parked_us=1,
            run_us=int((time.monotonic() - began) * 1e6),
            cpu_us=1500,
            exits=6,
            syscalls=5,
            pages=40,
            bytes_in=0,
            bytes_out=self.sent,
            tail=self.words.get("tail", ""),
        )

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)
        self.sent += len(data)

    def field(self, name: str) -> str | None:
        return next((line.split(":", 1)[1].strip() for line in self.head[1:] if line.lower().startswith(name + ":")), None)

    def body(self) -> bytes:
        """The whole body of the request."""
        if self.field("transfer-encoding") == "chunked":
            body = b""
            while size := int(self._until(b"\r\n", 100), 16):
                body += self._exactly(size)
                self._exactly(2)
            self._exactly(2)
            return body
        return self._exactly(int(self.field("content-length") or 0))

    def answer(self, body: bytes, head: bytes = OK) -> None:
        self.send(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    def until_gone(self) -> None:
        """Waits until the server closes."""
        while self.connection.recv(65536):
            pass

    def log(self, stream: str, line: str) -> None:
        self.monitor.say("log", instance=self.id, call=self.call, stream=stream, line=line, truncated=False)

    def _until(self, end: bytes, limit: int) -> bytes:
        while end not in self.rest:
            if len(self.rest) > limit:
                raise EOFError
            self._more()
        found, _, self.rest = self.rest.partition(end)
        return found

    def _exactly(self, size: int) -> bytes:
        while len(self.rest) < size:
            self._more()
        found, self.rest = self.rest[:size], self.rest[size:]
        return found

    def _more(self) -> None:
        data = self.connection.recv(65536)
        if not data:
            raise EOFError
        self.rest += data


def echo(instance: Instance) -> None:
    """Says what it got."""
    body = instance.body()
    got = {
        "request": instance.head[0],
        "fields": instance.head[1:],
        "body": body.decode("latin-1"),
        "call": instance.call,
        "milliseconds": instance.milliseconds,
        "trace": instance.trace,
        "instance": instance.id,
        "revision": instance.monitor.spec["revision"],
    }
    instance.answer(json.dumps(got).encode(), OK + b"Content-Type: application/json\r\n")


def raw(instance: Instance) -> None:
    """Answers with the request's body, byte by byte, and closes; `cause` and `code` are how it says that it ended."""
    data = instance.body()
    instance.cause = instance.words.get("cause", "closed")
    instance.code = int(instance.words["code"]) if "code" in instance.words else None
    step = int(instance.words.get("step", len(data) or 1))
    for start in range(0, len(data), step):
        instance.send(data[start : start + step])
        if step < len(data):
            time.sleep(0.002)


def raw_then_stay(instance: Instance) -> None:
    """As `raw`, but leaves the connection open."""
    instance.send(instance.body())
    instance.until_gone()


def early(instance: Instance) -> None:
    """Answers without having read the body, and closes."""
    instance.answer(b"x" * int(instance.words.get("size", "5")))


def hang(instance: Instance) -> None:
    """Says that it is there, and never answers."""
    instance.log("stdout", "hanging")
    instance.until_gone()
    instance.cause = "abandoned"


def close(instance: Instance) -> None:
    """Closes without an answer."""
    instance.body()


def sleep(instance: Instance) -> None:
    """Answers after a while."""
    instance.body()
    time.sleep(float(instance.words["seconds"]))
    instance.answer(b"slept")


def hold(instance: Instance) -> None:
    """Answers when there is a file of that name."""
    instance.body()
    while not os.path.exists(instance.words["until"]):
        time.sleep(0.002)
    instance.answer(json.dumps({"revision": instance.monitor.spec["revision"]}).encode())


def stream(instance: Instance) -> None:
    """Many parts, `framing` chunked or eof or length."""
    count, size, pause = int(instance.words["count"]), int(instance.words["size"]), float(instance.words.get("pause", "0"))
    framing = instance.words.get("framing", "chunked")
    head = {"chunked": b"Transfer-Encoding: chunked\r\n", "length": b"Content-Length: %d\r\n" % (count * size), "eof": b""}[framing]
    instance.send(OK + head + b"\r\n")
    for number in range(count):
        part = b"%d" % (number % 10) * size
        instance.send(b"%x\r\n%b\r\n" % (size, part) if framing == "chunked" else part)
        time.sleep(pause)
    if framing == "chunked":
        instance.send(b"0\r\n\r\n")


def duplex(instance: Instance) -> None:
    """Sends back each part of the body as it comes."""
    left = int(instance.field("content-length") or 0)
    instance.send(OK + b"Content-Length: %d\r\n\r\n" % left)
    while left:
        if not instance.rest:
            instance._more()
        part, instance.rest = instance.rest, b""
        left -= len(part)
        instance.send(part)


def sink(instance: Instance) -> None:
    """Reads the whole body, slowly if asked, and says how long it was."""
    left, seen = int(instance.field("content-length") or 0), len(instance.rest)
    while seen < left:
        data = instance.connection.recv(65536)
        if not data:
            raise EOFError
        seen += len(data)
        time.sleep(float(instance.words.get("pause", "0")))
    instance.answer(b"%d" % seen)


def write(instance: Instance) -> None:
    """Writes lines before it answers."""
    for number in range(int(instance.words.get("lines", "1"))):
        instance.log(instance.words.get("stream", "stdout"), instance.words.get("text", "line {}").format(number))
    instance.answer(b"written")


def die(instance: Instance) -> None:
    """The monitor dies, and all instances with it."""
    os.kill(os.getpid(), signal.SIGKILL)


def fail(instance: Instance) -> None:
    """What a monitor answers for a function of another contract than http."""
    instance.body()
    reason = instance.words.get("reason", "exit status 3")
    instance.answer(b"", b"HTTP/1.1 500 Internal Server Error\r\nX-Mayfly-Failure: " + reason.encode("latin-1") + b"\r\n")


LAYERS = [
    {"name": "seccomp", "available": True, "detail": "played"},
    {"name": "mounts", "available": False, "detail": "allow user namespaces"},
]

BEHAVIOURS: dict[str, Callable[[Instance], None]] = {
    "close": close,
    "die": die,
    "duplex": duplex,
    "early": early,
    "fail": fail,
    "hang": hang,
    "hold": hold,
    "raw": raw,
    "raw-then-stay": raw_then_stay,
    "sink": sink,
    "sleep": sleep,
    "stream": stream,
    "write": write,
}


def main() -> int:
    if sys.argv[1:] == ["doctor", "--json"]:
        sys.stdout.write(json.dumps({"kvm": {"nested": True}, "layers": LAYERS, "hints": []}))
        return sys.stdout.flush() or 0
    parser = argparse.ArgumentParser()
    parser.add_argument("serve", choices=["serve"])
    for name in ("bundle", "socket"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("pool", "instances", "ready-timeout", "log-limit", "output-limit"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--snapshot", type=Path)
    parser.add_argument("--snapshot-age", type=int)
    return Monitor(parser.parse_args()).run()


if __name__ == "__main__":
    os._exit(main())  # not by way of the interpreter, which would wait for the thread that reads commands
