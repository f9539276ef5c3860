"""One connection, one call, one container: greeting, envelope, the contract, the receipt (docs/protocol.md, sections 3 and 5)."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import re
import secrets
import select
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundles.runtime_config import FunctionSpec
from faas_server.runtimes.container import Container, End, Runtime
from faas_server.runtimes.control import TEXT_BYTES, Log, say
from faas_server.runtimes.exchange import FRAMING, Gone, Late, Request, receive, respond
from faas_server.runtimes.waiting import readable

ENVELOPE = re.compile(rb"MAYFLY/1 ([A-Za-z0-9._-]{1,64}) ([0-9]{1,12}) ([!-~]{1,128})\n")
_ENVELOPE_BYTES = 512
_ENVELOPE_S = 1.0
_PIECE = 64 << 10
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(slots=True)
class Receipt:
    """What `ended` says of the call beside what the container's end tells."""

    cause: str = "internal"
    message: str | None = None
    bytes_in: int = 0
    bytes_out: int = 0


class Failure(Exception):
    """The function failed in a way that the protocol has words for."""

    def __init__(self, reason: str, cause: str, message: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.cause, self.message = reason, cause, message


class Call:
    """One call, in a thread of its own."""

    def __init__(self, connection: socket.socket, spec: FunctionSpec, runtime: Runtime, *, log_bytes: int, output_bytes: int) -> None:
        self.instance = secrets.token_hex(8)
        self._connection = connection
        self._spec, self._runtime = spec, runtime
        self._log_bytes, self._output_bytes = log_bytes, output_bytes
        self._container = Container(runtime, self.instance)
        self._receipt = Receipt()
        self._until = time.monotonic() + _ENVELOPE_S

    def abandon(self) -> None:
        """Ends it from another thread, as if the caller had gone."""
        with contextlib.suppress(OSError):  # it has ended by itself
            self._connection.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        """Serves it, and says how it ended."""
        call: str | None = None
        began = time.monotonic()
        log = Log(self.instance, None, self._log_bytes)
        try:
            call, budget = self._begin()
            say("accepted", instance=self.instance, call=call)
            self._until = time.monotonic() + budget
            log = Log(self.instance, call, self._log_bytes)
            self._serve(log)
        except Gone as error:
            self._ended("abandoned", str(error))
        except Late:
            self._ended("deadline", None)
            self._fail("deadline")
        except Failure as failure:
            self._ended(failure.cause, failure.message)
            self._fail(failure.reason)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self._ended("internal", f"{self._runtime.name}: {error}")
            self._fail("internal")
        finally:
            how = self._container.end()
            log.finish()
            self._connection.close()
            self._say_ended(call, how, log, began)

    def _begin(self) -> tuple[str, float]:
        self._connection.sendall(f"MAYFLY/1 {self.instance}\n".encode())
        line = b""
        while not line.endswith(b"\n"):
            if len(line) > _ENVELOPE_BYTES:
                raise Gone("the envelope is too long")
            # Byte by byte: what follows the line is the request's.
            self._await(self._connection)
            piece = self._connection.recv(1)
            if not piece:
                raise Gone("the caller went away before its envelope")
            line += piece
        found = ENVELOPE.fullmatch(line)
        if found is None:
            raise Gone("the envelope is malformed")
        return found[1].decode(), int(found[2]) / 1000

    def _await(self, connection: socket.socket) -> None:
        if not readable(connection, self._until - time.monotonic()):
            raise Gone("the envelope came too late")

    def _serve(self, log: Log) -> None:
        match self._spec.contract:
            case "http":
                self._http(log)
            case "stdin":
                self._stdin(log)
            case "kontain":
                self._kontain(log)

    # ---- contracts

    def _http(self, log: Log) -> None:
        self._container.start(stdin=subprocess.DEVNULL)
        program = self._container.connect(self._spec.port, self._until)
        if program is None:
            self._drain(log)
            raise Late if self._container.running else self._died()
        with program:
            self._bridge(program, log)
        self._ended("closed", None)

    def _bridge(self, program: socket.socket, log: Log) -> None:
        """Carries bytes both ways until the program has closed its side: then its response is whole."""
        pipes = {self._container.stdout.fileno(): "stdout", self._container.stderr.fileno(): "stderr"}
        watched = select.poll()
        for descriptor in (self._connection.fileno(), program.fileno(), *pipes):
            watched.register(descriptor, select.POLLIN)
        while True:
            left = self._until - time.monotonic()
            events = watched.poll(max(0.0, left) * 1000)
            if not events:
                raise Late
            for descriptor, _ in events:
                if descriptor in pipes:
                    data = os.read(descriptor, _PIECE)
                    log.feed(pipes[descriptor], data)
                    if not data:
                        watched.unregister(descriptor)
                elif descriptor == program.fileno():
                    data = receive(program, self._until)
                    if not data:
                        if not self._receipt.bytes_out:
                            raise Failure("internal", "closed", "the program closed the connection without an answer")
                        return
                    self._receipt.bytes_out += len(data)
                    self._send(self._connection, data)
                else:
                    data = receive(self._connection, self._until)
                    if not data:
                        raise Gone("the caller went away")
                    self._receipt.bytes_in += len(data)
                    self._send(program, data)

    def _send(self, to: socket.socket, data: bytes) -> None:
        to.settimeout(max(0.001, self._until - time.monotonic()))
        try:
            to.sendall(data)
        except TimeoutError as error:
            raise Late from error
        except OSError as error:
            if to is self._connection:
                raise Gone("the caller went away") from error
            # A program that answers without having read all of the request is no failure: its answer is still to come.

    def _stdin(self, log: Log) -> None:
        with tempfile.TemporaryFile(dir=self._runtime.scratch) as body:
            self._request(Request(body))
            body.seek(0)
            self._container.start(stdin=body)
            output = self._run_to_the_end(log, collect=True)
        self._answer(200, [("Content-Type", "application/octet-stream")], output)

    def _kontain(self, log: Log) -> None:
        with tempfile.TemporaryDirectory(dir=self._runtime.scratch) as directory, tempfile.TemporaryFile(dir=directory) as body:
            sent = self._request(Request(body))
            body.seek(0)
            request, reply = Path(directory) / "request", Path(directory) / "reply"
            request.write_text(_request_json(sent, body.read()))
            reply.touch()
            for path in (request, reply):
                path.chmod(0o666)  # the program's user may be any; nobody else reaches the directory
            self._container.start(stdin=subprocess.DEVNULL, mounts={"/.request": request, "/.reply": reply})
            self._run_to_the_end(log, collect=False)
            if not (size := reply.stat().st_size):
                raise Failure("no reply", "exited")
            if size > self._output_bytes * 3 // 2 + _PIECE:
                raise Failure("output limit", "output", f"more than {self._output_bytes} bytes of output")
            status, fields, answer = _reply(reply.read_bytes())
        self._answer(status, fields, answer)

    def _request(self, request: Request) -> Request:
        try:
            request.receive(self._connection, self._until)
        finally:
            self._receipt.bytes_in = request.bytes_in
        return request

    def _run_to_the_end(self, log: Log, *, collect: bool) -> bytes:
        """Waits for the program's end; what it wrote to stdout, if that is the answer."""
        output = bytearray()
        pipes = {self._container.stdout.fileno(): "stdout", self._container.stderr.fileno(): "stderr"}
        watched = select.poll()
        for descriptor in pipes:
            watched.register(descriptor, select.POLLIN)
        watched.register(self._connection, 0)  # only for its end
        while pipes:
            events = watched.poll(max(0.0, self._until - time.monotonic()) * 1000)
            if not events:
                raise Late
            for descriptor, _ in events:
                if descriptor not in pipes:
                    raise Gone("the caller went away")
                data = os.read(descriptor, _PIECE)
                if not data:
                    watched.unregister(descriptor)
                    del pipes[descriptor]
                elif collect and pipes[descriptor] == "stdout":
                    output += data
                    if len(output) > self._output_bytes:
                        raise Failure("output limit", "output", f"more than {self._output_bytes} bytes of output")
                else:
                    log.feed(pipes[descriptor], data)
        how = self._container.wait(max(0.0, self._until - time.monotonic()))
        if how is None:
            raise Late
        if how.status != 0:
            raise _failed(how)
        self._ended("exited", None)
        return bytes(output)

    # ---- endings

    def _drain(self, log: Log) -> None:
        """What a program said before it ended without listening."""
        for name, stream in (("stdout", self._container.stdout), ("stderr", self._container.stderr)):
            os.set_blocking(stream.fileno(), False)
            log.feed(name, stream.read(_PIECE) or b"")

    def _died(self) -> Failure:
        return _failed(self._container.wait(0) or End(None, None, 0))

    def _answer(self, status: int, fields: list[tuple[str, str]], body: bytes) -> None:
        self._connection.settimeout(max(0.001, self._until - time.monotonic()))
        self._receipt.bytes_out = respond(self._connection, status, fields, body)

    def _fail(self, reason: str) -> None:
        if self._receipt.bytes_out == 0:
            try:
                self._connection.settimeout(_ENVELOPE_S)
                self._receipt.bytes_out = respond(self._connection, 500, [("X-Mayfly-Failure", reason)], b"")
            except (Gone, OSError):
                return

    def _ended(self, cause: str, message: str | None) -> None:
        self._receipt.cause, self._receipt.message = cause, message

    def _say_ended(self, call: str | None, how: End, log: Log, began: float) -> None:
        receipt = self._receipt
        code = None
        if receipt.cause in ("exited", "signal"):
            code = how.signal if receipt.cause == "signal" else how.status
        say(
            "ended",
            instance=self.instance,
            call=call,
            isolation=f"oci:{self._runtime.name}",
            cause=receipt.cause,
            code=code,
            message=receipt.message[:TEXT_BYTES] if receipt.message else None,
            parked_us=0,
            run_us=int((time.monotonic() - began) * 1e6),
            cpu_us=how.cpu_us,
            bytes_in=receipt.bytes_in,
            bytes_out=receipt.bytes_out,
            tail=log.tail.decode("utf-8", "replace"),
        )


def _failed(how: End) -> Failure:
    if how.signal is not None:
        return Failure(f"signal {how.signal}", "signal")
    return Failure(f"exit status {how.status}", "exited")


def _request_json(request: Request, body: bytes) -> str:
    fields: dict[str, list[str]] = {}
    for name, value in request.fields:
        if name.lower() not in FRAMING:
            fields.setdefault("-".join(part.capitalize() for part in name.split("-")), []).append(value)
    target = request.target.decode("latin-1")
    return json.dumps({"Method": request.method, "Url": target, "Headers": fields, "Data": base64.b64encode(body).decode()})


def _reply(data: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, fields and body of a reply; raises Failure where it is none that can be sent."""
    try:
        reply: Any = json.loads(data)
        status, headers = reply["Status"], reply.get("Headers") or {}
        body = base64.b64decode(reply.get("Data") or "", validate=False)
        fields = [(name, value) for name, values in headers.items() for value in ([values] if isinstance(values, str) else values)]
        sound = isinstance(status, int) and 200 <= status <= 599
        sound = sound and all(_TOKEN.fullmatch(name) and not _CONTROL.search(value) for name, value in fields)
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise Failure("bad reply", "exited", f"/.reply: {error!r}"[:TEXT_BYTES]) from error
    if not sound:
        raise Failure("bad reply", "exited", "/.reply: its Status or Headers cannot be sent")
    kept = [(name, value) for name, value in fields if name.lower() not in FRAMING and not name.lower().startswith("x-mayfly-")]
    return status, kept, body
