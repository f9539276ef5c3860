"""HTTP for programs that speak none: the request read whole, the response written whole, in blocking calls of one thread.

The peer is our own server, but method, target, fields and body are a client's bytes: parsed by httptools, bounded, and what is not one
sound request ends the call.
"""

from __future__ import annotations

import socket
import time
from http import HTTPStatus
from typing import IO

import httptools

from faas_server.runtimes.waiting import readable

HEAD_BYTES = 128 << 10
_PIECE = 64 << 10
FRAMING = frozenset(
    (
        *("connection", "content-length", "keep-alive", "proxy-authenticate", "proxy-authorization", "te"),
        *("trailer", "transfer-encoding", "upgrade"),
    )
)


class Gone(Exception):
    """The caller has gone, or sent what is no request."""


class Late(Exception):
    """The call's time is over."""


class Request:
    """One request; the body goes to a file as it arrives."""

    def __init__(self, body: IO[bytes]) -> None:
        self.method = ""
        self.target = b""
        self.fields: list[tuple[str, str]] = []
        self.bytes_in = 0
        self._body = body
        self._whole = False
        self._head_bytes = 0
        self._headed = False
        self._parser = httptools.HttpRequestParser(self)

    def receive(self, connection: socket.socket, until: float) -> None:
        """Reads it. Raises Gone, Late, and OSError when the body cannot be kept."""
        while not self._whole:
            data = receive(connection, until)
            if not data:
                raise Gone("the caller went away in the middle of its request")
            self.bytes_in += len(data)
            self._head_bytes += 0 if self._headed else len(data)
            if self._head_bytes > HEAD_BYTES:
                raise Gone(f"the request's head is longer than {HEAD_BYTES} bytes")
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserError as error:
                raise Gone(f"no sound request: {error}") from error
        self.method = self._parser.get_method().decode("ascii")

    # ---- what the parser tells

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self._headed = True

    def on_body(self, body: bytes) -> None:
        self._body.write(body)

    def on_message_complete(self) -> None:
        self._whole = True


def receive(connection: socket.socket, until: float) -> bytes:
    """The next bytes, empty at the end. Raises Late at `until` (monotonic seconds)."""
    if not readable(connection, until - time.monotonic()):
        raise Late
    try:
        return connection.recv(_PIECE)
    except ConnectionError:
        return b""


def respond(connection: socket.socket, status: int, fields: list[tuple[str, str]], body: bytes) -> int:
    """Writes a response and gives its length in bytes. Raises Gone."""
    lines = [f"HTTP/1.1 {status} {_phrase(status)}", *(f"{name}: {value}" for name, value in fields)]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "Connection: close", "", ""]).encode("latin-1")
    try:
        connection.sendall(head + body)
    except OSError as error:
        raise Gone("the caller went away before its response") from error
    return len(head) + len(body)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
