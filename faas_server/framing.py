"""What of HTTP passes between a client and a program, in each direction, and what is refused.

Both parsers (aiohttp's towards clients, httptools towards instances) accept more than RFC 9112 allows. Wherever two readers could
disagree about where a message ends, the message is refused here. Message framing is never copied from one side to the other: it is made
anew on each connection, and hop-by-hop fields, with every field that `Connection` names, stay on theirs.

Field names that this server gives a meaning (`X-Call-Id`, `X-Forwarded-*`, `X-Mayfly-*`) cannot be forged: they are removed in both
directions, in any spelling, and set anew. The trust rule for `X-Forwarded-*`: what a peer in `trusted_proxies` says is kept and continued;
from anybody else it is dropped.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from email.utils import formatdate
from enum import Enum
from functools import lru_cache
from http import HTTPStatus

from aiohttp import HttpVersion10, HttpVersion11, web

from faas_server.errors import BrokenPromise, Refusal

Fields = list[tuple[bytes, bytes]]

_TARGET = re.compile(r"/[!-\"$-~]*")  # printable ASCII but '#'
_HOST = re.compile(r"[A-Za-z0-9._~:\[\]%-]*")
_HOP_BY_HOP = frozenset(b"connection http2-settings keep-alive proxy-authenticate proxy-authorization proxy-connection te".split()) | {
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}
_FORWARDED = frozenset(b"forwarded x-forwarded-for x-forwarded-host x-forwarded-proto x-forwarded-port x-real-ip".split())
_OURS = frozenset((b"content-length", b"expect", b"x-call-id")) | _HOP_BY_HOP | _FORWARDED
_OURS_PREFIX = b"x-mayfly-"
_FROM_PROGRAM_DROPPED = frozenset((b"content-length", b"x-call-id")) | _HOP_BY_HOP
_NONE: frozenset[bytes] = frozenset()
FAILURE_FIELD = b"x-mayfly-failure"


class Framing(Enum):
    """How the end of a response's body is known."""

    NONE = "none"  # there is no body: HEAD, 204, 304
    LENGTH = "length"
    CHUNKED = "chunked"
    EOF = "eof"  # the end of the connection: only the receipt can tell whether it is whole


class ResponseHead:
    """Status and header fields as the instance sent them, and how the body is framed."""

    __slots__ = ("fields", "framing", "length", "status")

    def __init__(self, status: int, fields: Fields, framing: Framing, length: int | None) -> None:
        self.status = status
        self.fields = fields
        self.framing = framing
        self.length = length

    def get(self, lower_name: bytes) -> bytes | None:
        """The value of the first field of that name."""
        return next((value for name, value in self.fields if name.lower() == lower_name), None)


# ---- from a client


def check_request(request: web.Request) -> None:
    """Raises Refusal for a request whose meaning or end two readers could see differently."""
    if request.method == "CONNECT":
        raise Refusal(405, "CONNECT is not offered", close=True)
    if request.version not in (HttpVersion11, HttpVersion10):
        raise Refusal(505, "only HTTP/1.1 and HTTP/1.0 are spoken here", close=True)
    if not _TARGET.fullmatch(request.raw_path):
        raise _malformed("the request target must be a path: printable ASCII, no scheme, no fragment")
    hosts = codings = 0
    upgrade = b""
    for name, value in request.raw_headers:
        match name.lower():
            case b"host":
                hosts += 1
                if not _HOST.fullmatch(value.decode("latin-1")):
                    raise _malformed("the Host field is malformed")
            case b"transfer-encoding":
                codings += 1
                if value.lower() != b"chunked" or codings > 1 or request.version == HttpVersion10:
                    raise _malformed("Transfer-Encoding may only be chunked, once, in HTTP/1.1")
            case b"upgrade":
                upgrade = value
    if hosts > 1 or (hosts == 0 and request.version == HttpVersion11):
        raise _malformed("a request needs one Host field")
    if upgrade and upgrade.strip().lower() != b"h2c":
        raise Refusal(501, "protocol upgrades are not granted", close=True)


def _malformed(message: str) -> Refusal:
    return Refusal(400, message, close=True)


def request_head(request: web.Request, target: bytes, *, framing: bytes, added: bytes, trusted: bool) -> bytes:
    """The head that a program gets.

    `framing` is the field line that frames the body, or nothing; `added` are field lines of ours. `trusted`: the peer is a proxy that may
    speak of whom it forwards for.
    """
    named = _named_by_connection(request.raw_headers)
    peer = (request.remote or "-").encode("ascii", "replace")
    host = b""
    parts = [request.method.encode("ascii"), b" ", target, b" HTTP/1.1\r\n"]
    for name, value in request.raw_headers:
        lower = name.lower()
        # Programs that see fields as environment variables cannot tell X_Call_Id from X-Call-Id.
        canonical = lower.replace(b"_", b"-") if b"_" in lower else lower
        if canonical == b"host":
            host = value
            if lower != canonical:
                continue
        elif trusted and lower in _FORWARDED:
            if lower == b"x-forwarded-for":
                peer = value + b", " + peer
                continue
        elif canonical in _OURS or canonical.startswith(_OURS_PREFIX) or lower in named:
            continue
        parts += (name, b": ", value, b"\r\n")
    if not host:  # HTTP/1.0 knows requests without it, HTTP/1.1 does not
        host = b"localhost"
        parts.append(b"Host: localhost\r\n")
    parts += (b"X-Forwarded-For: ", peer, b"\r\n")
    if not trusted:
        parts += (b"X-Forwarded-Host: ", host, b"\r\nX-Forwarded-Proto: ", request.scheme.encode("ascii"), b"\r\n")
    parts += (added, framing, b"Connection: close\r\n\r\n")
    return b"".join(parts)


def _named_by_connection(fields: Iterable[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """The field names that `Connection` fields declare hop-by-hop."""
    named = [value for name, value in fields if len(name) == len(b"connection") and name.lower() == b"connection"]
    return frozenset(token.strip().lower() for value in named for token in value.split(b",")) if named else _NONE


# ---- from a program


def judged(status: int, version: str, fields: Fields, *, bodiless: bool) -> ResponseHead:
    """The head of a program's answer, as the parser found it; raises BrokenPromise where it leaves the end of the answer in doubt."""
    if version not in ("1.1", "1.0"):
        raise BrokenPromise("the answer is not HTTP/1.1")
    if not 200 <= status <= 599:
        raise BrokenPromise(f"the answer has status {status}")
    coding = length = None
    for name, value in fields:
        match name.lower():
            case b"transfer-encoding":
                if coding is not None or value.lower() != b"chunked" or version == "1.0":
                    raise BrokenPromise("the answer's Transfer-Encoding is not chunked, once, in HTTP/1.1")
                coding = value
            case b"content-length":
                length = int(value)  # digits, and only one: the parser saw to that
    if bodiless or status in (204, 304):
        framing = Framing.NONE
    elif coding is not None:
        framing = Framing.CHUNKED
    else:
        framing = Framing.EOF if length is None else Framing.LENGTH
    return ResponseHead(status, list(fields), framing, length)


def response_head(head: ResponseHead, version: tuple[int, int], *, framing: bytes, added: bytes, close: bool) -> bytes:
    """The head that a client gets; `framing` and `added` as in `request_head`, `close`: the connection ends with this answer."""
    named = _named_by_connection(head.fields)
    dated = False
    parts = [_status_line(head.status, version)]
    for name, value in head.fields:
        lower = name.lower()
        if lower in _FROM_PROGRAM_DROPPED or lower.startswith(_OURS_PREFIX) or lower in named:
            continue
        dated = dated or lower == b"date"
        parts += (name, b": ", value, b"\r\n")
    if not dated:  # whoever forwards an answer adds it (RFC 9110, 6.6.1)
        parts.append(_date(int(time.time())))
    parts += (added, framing)
    if close:
        parts.append(b"Connection: close\r\n")
    elif version == HttpVersion10:
        parts.append(b"Connection: keep-alive\r\n")
    parts.append(b"\r\n")
    return b"".join(parts)


@lru_cache(maxsize=1)
def _date(now: int) -> bytes:
    return f"Date: {formatdate(now, usegmt=True)}\r\n".encode("ascii")


@lru_cache(maxsize=1024)
def _status_line(status: int, version: tuple[int, int]) -> bytes:
    """A status line with the standard phrase: the program's own is unchecked bytes and means nothing."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/{version[0]}.{version[1]} {status} {phrase}\r\n".encode("ascii")
