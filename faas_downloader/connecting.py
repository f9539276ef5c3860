"""HTTP for one pull: every connection, redirect and wait goes through here and is bounded.

requests and urllib3 do the protocol; this module decides where they may go (`destinations`), how long a peer may take and how much of an
answer that nobody asked for is read, and makes every error of theirs one of ours.

A blocking read cannot be given a deadline: a peer that sends a byte a second never lets a socket's timeout pass. So a `Line` knows every
socket of its pull, and a watching thread shuts them down when the pull stalls or its time is over; the read then ends at once. `cut` does
the same for whoever wants the pull to end.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import socket
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urljoin

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.connection import create_connection

from faas_downloader.destinations import Destinations
from faas_downloader.errors import BadAnswer, DownloadError, Interrupted, TooSlow, Unavailable

MAX_REDIRECTS = 5
MAX_UNASKED = 1 << 20  # bytes of an answer that is not the content: errors, tokens
_PIECE = 1 << 18
_TICK = 0.1
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Pace:
    """How long things may take, in seconds, and the least speed in bytes per second."""

    connect: float = 10
    stall: float = 30
    total: float = 1800
    minimum_speed: int = 1024


class Line:
    """The connections of one pull, and the clock on them. Used by the thread that pulls, cut by any other."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._ends = time.monotonic() + pace.total
        self._done = threading.Event()
        self._lock = threading.Lock()
        # Guarded by the lock. Sockets are duplicates: TLS takes the original out of the hands of whoever made it.
        self._sockets: list[socket.socket] = []
        self._reason: DownloadError | None = None
        self._waiting_since: float | None = None
        self._waited = 0.0  # seconds of waiting for the peer since it last did well
        self._bytes = 0  # and bytes received since then
        self._watcher = threading.Thread(target=self._watch, name="pull-watcher", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """Ends the watch; the pull is over."""
        self._done.set()
        self._watcher.join()
        with self._lock:
            while self._sockets:
                self._sockets.pop().close()

    def cut(self, reason: DownloadError | None = None) -> None:
        """Makes whatever the pull is doing on the network fail with `reason`, now and from now on."""
        with self._lock:
            self._reason = self._reason or reason or Interrupted("the pull was ended from outside")
            for each in self._sockets:
                _shut_down(each)

    def check(self) -> None:
        """Raises the reason if the line was cut."""
        if self._reason is not None:
            raise self._reason

    def add(self, connection: socket.socket) -> None:
        """Takes a new connection under the clock."""
        with self._lock:
            duplicate = connection.dup()
            self._sockets.append(duplicate)
            if self._reason is not None:
                _shut_down(duplicate)

    @contextmanager
    def waiting(self, *, afresh: bool = False) -> Iterator[None]:
        """Around every wait for the peer; `afresh` when a new request begins."""
        self.check()
        with self._lock:
            if afresh:
                self._waited, self._bytes = 0.0, 0
            self._waiting_since = began = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._waiting_since = None
                self._waited += time.monotonic() - began

    def received(self, count: int) -> None:
        """The peer sent so many bytes."""
        with self._lock:
            self._bytes += count
            if self._bytes >= self.pace.minimum_speed * self.pace.stall:
                self._waited, self._bytes = 0.0, 0

    def _watch(self) -> None:
        while not self._done.wait(_TICK):
            now = time.monotonic()
            with self._lock:
                waited = self._waited + (now - self._waiting_since if self._waiting_since is not None else 0)
                count = self._bytes
            if now > self._ends:
                self.cut(TooSlow(f"the pull took longer than {self.pace.total:g} s (--pull-timeout)"))
            elif waited > self.pace.stall:
                self.cut(TooSlow(f"the registry stalled: {count} bytes in {self.pace.stall:g} s (--stall-timeout, --minimum-speed)"))


class Session(requests.Session):
    """A requests session on a line. Follows redirects itself, by the rules of `destinations`."""

    def __init__(self, line: Line, destinations: Destinations) -> None:
        super().__init__()
        self._line = line
        self._destinations = destinations
        self.trust_env = False  # no proxies, no ~/.netrc
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.headers.clear()
        # Content is hashed as it comes: no encodings.
        self.headers.update({"User-Agent": "mayfly", "Accept-Encoding": "identity"})
        adapter = _Adapter(line, destinations)
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Asks, and follows. The body of an answer is left to be read only if it is the content that was asked for."""
        streamed = bool(options.get("stream"))
        # The line's clock is the one that counts; the socket's own is for a read that the line cannot wake.
        options |= {"stream": True, "allow_redirects": False, "timeout": (self._line.pace.connect, 2 * self._line.pace.stall + 1)}
        for _ in range(MAX_REDIRECTS + 1):
            login = str(request.headers.get("Authorization", "")).startswith("Basic ")
            self._destinations.check_url(request.url or "", login=login)
            with _errors(self._line, request.url):
                response = super().send(request, **options)
            if not (streamed and response.status_code == 200):
                self._buffer(response)
            if not response.is_redirect:
                return response
            request = self._redirected(request, response.headers["location"])
        raise BadAnswer(f"{request.url!r}: more than {MAX_REDIRECTS} redirects")

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """None: requests would otherwise read the redirect's body, however long, even when it does not follow."""
        return None

    def chunks(self, response: requests.Response) -> Generator[bytes, None, None]:
        """The body as it comes, undecoded."""
        try:
            while True:
                with _errors(self._line, response.url), self._line.waiting():
                    piece: bytes = response.raw.read1(_PIECE, decode_content=False)
                self._line.check()  # a shut socket looks like an end
                if not piece:
                    return
                self._line.received(len(piece))
                yield piece
        finally:
            response.close()

    def _buffer(self, response: requests.Response) -> None:
        """Takes a bounded body in, so that the connection is free for what comes next."""
        body = bytearray()
        with closing(self.chunks(response)) as pieces:
            for piece in pieces:
                body += piece
                if len(body) > MAX_UNASKED:
                    break
        response.raw = io.BytesIO(bytes(body[:MAX_UNASKED]))

    def _redirected(self, request: requests.PreparedRequest, location: str) -> requests.PreparedRequest:
        before = request.url or ""
        after = request.copy()
        with _errors(self._line, before):
            after.prepare_url(urljoin(before, location), None)
        self._destinations.check_url(after.url or "")
        if not self._destinations.same_origin(before, after.url or ""):
            after.headers.pop("Authorization", None)
        return after


class _Adapter(HTTPAdapter):
    """Makes requests' connections on the line, to addresses that were checked."""

    def __init__(self, line: Line, destinations: Destinations) -> None:
        self._line = line
        self._destinations = destinations
        super().__init__(max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **options)
        line, destinations = self._line, self._destinations

        # urllib3 makes connections by class, so what they must know is bound into classes of this adapter's own.
        class Plain(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                return _connect(self, line, destinations)

        class Encrypted(HTTPSConnection):
            def _new_conn(self) -> socket.socket:
                return _connect(self, line, destinations)

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class EncryptedPool(HTTPSConnectionPool):
            ConnectionCls = Encrypted

        self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": EncryptedPool}

    def send(self, request: requests.PreparedRequest, *arguments: Any, **options: Any) -> requests.Response:
        with self._line.waiting(afresh=True):
            return super().send(request, *arguments, **options)


def _connect(connection: HTTPConnection, line: Line, destinations: Destinations) -> socket.socket:
    """A connection to the host, if it may be had. The addresses that were checked are those that are connected to."""
    found = socket.getaddrinfo(connection.host.strip("[]"), connection.port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    for address in addresses:
        destinations.check_address(connection.host, ipaddress.ip_address(address.partition("%")[0]))
    failure: OSError | None = None
    for address in addresses:
        try:
            made = create_connection((address, connection.port), connection.timeout, socket_options=connection.socket_options)
        except OSError as error:
            failure = error
            continue
        line.add(made)
        return made
    raise failure or OSError(f"{connection.host} has no address")


@contextmanager
def _errors(line: Line, url: str | None) -> Iterator[None]:
    """Makes errors of the libraries ours, whatever they are; a line that was cut says why."""
    try:
        yield
    except DownloadError:
        raise
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema, UnicodeError) as error:
        raise BadAnswer(f"{str(url)[:200]!r}: the registry sends us to no usable address: {error}") from error
    except requests.exceptions.SSLError as error:
        line.check()
        raise Unavailable(f"{_host(url)}: no TLS: {_innermost(error)}; see --registry-ca and --insecure-registries") from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
        line.check()
        raise Unavailable(f"{_host(url)}: {_innermost(error)}") from error


def failed(response: requests.Response, what: str) -> DownloadError:
    """The error for an answer that is neither the content nor a question of login."""
    status = f"{what}: the registry answered {response.status_code}{_said(response)}"
    if response.status_code in _BUSY:
        return Unavailable(status, _retry_after(response))
    return BadAnswer(status)


def _said(response: requests.Response) -> str:
    """What the registry says of it, by the distribution specification's error format."""
    try:
        error = response.json()["errors"][0]
        return f": {str(error.get('message') or error.get('code'))[:200]!r}"
    except (ValueError, LookupError, TypeError, AttributeError):
        return ""  # an error in another form says nothing that is worth more than its number


def _retry_after(response: requests.Response) -> float | None:
    text = response.headers.get("Retry-After", "")
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _shut_down(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the other side was faster


def _host(url: str | None) -> str:
    return urllib3.util.parse_url(url or "").netloc or "the registry"


def _innermost(error: BaseException) -> str:
    """The cause that says most: libraries wrap one error several times."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        inner = getattr(error, "reason", None) or error.__cause__ or error.__context__ or next(iter(error.args), None)
        if not isinstance(inner, BaseException):
            break
        error = inner
    return str(error)[:300] or type(error).__name__
