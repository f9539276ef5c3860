"""The server of this node, over HTTP: calls of functions, and what the server keeps about them under `/_mayfly/`.

The only module of this package that speaks to the server. It uses the standard library's blocking client: a command makes one request, and
an event loop would only cost it start-up time. Bodies stream both ways.
"""

import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import quote, urlencode, urlsplit

from mayfly.errors import MayflyError, NoServer, NotFound, NotReady

MANAGEMENT = "/_mayfly"
_BLOCK = 64 << 10
_MESSAGE_LIMIT = 4096

Body = bytes | IO[bytes] | None


@dataclass(frozen=True)
class Call:
    """What to send to a function."""

    namespace: str
    name: str
    method: str
    path: str
    headers: Mapping[str, str]
    body: Body = None


class Answer:
    """A response whose body has not been read yet."""

    def __init__(self, response: http.client.HTTPResponse, began: float, failures: Callable[[], AbstractContextManager[None]]) -> None:
        self._response = response
        self._began = began
        self._failures = failures
        self.status = response.status
        self.reason = response.reason
        self.headers = response.getheaders()

    def header(self, name: str) -> str | None:
        return self._response.getheader(name)

    @property
    def from_function(self) -> bool:
        """Whether an instance answered, and not the server for it."""
        return self.header("X-Mayfly-Instance") is not None

    @property
    def seconds(self) -> float:
        """Since the request began."""
        return time.monotonic() - self._began

    def blocks(self) -> Iterator[bytes]:
        while True:
            with self._failures():
                block = self._response.read1(_BLOCK)
                # read1 takes any end of the connection for the end of the body; the announced length says whether it is.
                if not block and self._response.length:
                    raise http.client.IncompleteRead(b"", self._response.length)
            if not block:
                return
            yield block

    def read(self) -> bytes:
        return b"".join(self.blocks())

    def lines(self) -> Iterator[bytes]:
        while True:
            with self._failures():
                line = self._response.readline()
            if not line:
                return
            yield line


class Client:
    """Requests to one server."""

    def __init__(self, url: str, *, timeout: float | None = None) -> None:
        """`timeout` bounds each wait for the server; the function's own timeout bounds a call anyway."""
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError as error:
            raise MayflyError(f"{url}: {error}", hint="Write http://HOST:PORT.") from error
        if not parts.hostname:
            raise MayflyError(f"{url}: names no host", hint="Write http://HOST:PORT.")
        self.url = url
        self._host, self._port, self._timeout = parts.hostname, port or 80, timeout

    @contextmanager
    def call(self, call: Call) -> Iterator[Answer]:
        path = "".join(letter if letter.isascii() else quote(letter) for letter in call.path)
        path = path if path.startswith("/") else f"/{path}"
        target = f"/{quote(call.namespace)}/{quote(call.name)}{'' if path == '/' else path}"
        with self._request(call.method, target, call.headers, call.body) as answer:
            yield answer

    def get_json(self, path: str) -> Any:
        """A document under `/_mayfly/`."""
        with self._request("GET", MANAGEMENT + path, {}, None) as answer:
            body = self._checked(answer, path).read()
        try:
            return json.loads(body)
        except ValueError as error:
            raise MayflyError(f"{self.url}{MANAGEMENT}{path}: not JSON: {error}", hint="Is this the address of a Mayfly server?") from error

    def stream_json(self, path: str, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Documents under `/_mayfly/`, one a line, as they come."""
        with self._request("GET", f"{MANAGEMENT}{path}?{urlencode(query)}", {}, None) as answer:
            for line in self._checked(answer, path).lines():
                if line.strip():
                    yield json.loads(line)

    def _checked(self, answer: Answer, path: str) -> Answer:
        if answer.status < 400:
            return answer
        message = message_of(answer)
        if answer.status == 404:
            raise NotFound(message)
        raise MayflyError(f"{self.url}{MANAGEMENT}{path}: {answer.status} {answer.reason}: {message}")

    @contextmanager
    def _request(self, method: str, target: str, headers: Mapping[str, str], body: Body) -> Iterator[Answer]:
        began = time.monotonic()
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        try:
            with self._failures():
                connection.connect()
                chunked = body is not None and not isinstance(body, bytes) and "Content-Length" not in headers
                sent = {**headers, **({"Transfer-Encoding": "chunked"} if chunked else {})}
                # The server may answer before it has the whole body (too large, unknown function): its answer says why.
                with suppress(BrokenPipeError, ConnectionResetError):
                    connection.request(method, target, body=body, headers=sent, encode_chunked=chunked)
                answer = Answer(connection.getresponse(), began, self._failures)
            yield answer
        finally:
            connection.close()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise NotReady(f"{self.url}: no answer within {self._timeout:g} s", hint="Allow more time with --timeout.") from error
        except ConnectionRefusedError as error:
            raise NoServer(f"{self.url}: nothing answers there", hint="Start the node with `mayfly up`.") from error
        except http.client.InvalidURL as error:
            raise MayflyError(f"{error}", hint="Percent-encode spaces and control characters in --path.") from error
        except (http.client.HTTPException, OSError) as error:
            raise MayflyError(f"{self.url}: the connection broke: {str(error) or type(error).__name__}") from error


def message_of(answer: Answer) -> str:
    """What the server says of an error, which it writes as {"error": …} or as plain text."""
    text = answer.read()[:_MESSAGE_LIMIT].decode("utf-8", "replace").strip()
    try:
        document = json.loads(text)
    except ValueError:
        return text or f"{answer.status} {answer.reason}"
    error = document.get("error", text) if isinstance(document, dict) else text
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)
