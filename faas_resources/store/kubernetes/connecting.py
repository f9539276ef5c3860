"""The connection to an API server: the only module that knows the Kubernetes client.

The client finds out where the server is and who we are (a kubeconfig, or the pod's service account whose token it reads again as it is
renewed) and makes the requests; what an answer means, how long to wait and when to try again is decided here and above.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import structlog
import yaml
from kubernetes.aio import client, config

from faas_resources.errors import StoreFailed
from faas_resources.store.kubernetes.pacing import Backoff, Pace

MERGE_PATCH = "application/merge-patch+json"
LINE_MAX = 16 << 20  # bytes; etcd takes objects of 1.5 MB
_BUSY = frozenset({408, 429, 500, 502, 503, 504})
_SHOWN = 300
_HOME = "~/.kube/config"

log = structlog.get_logger(__name__)

Query = Sequence[tuple[str, str]]


class ApiFailed(StoreFailed):
    """The API server's answer is an error (`code` is its HTTP status), or it gave none (`code` is 0)."""

    def __init__(
        self, text: str, code: int = 0, *, reason: str = "", details: Mapping[str, Any] | None = None, retry_after: float = 0
    ) -> None:
        super().__init__(text)
        self.code = code
        self.reason = reason
        self.details = dict(details or {})
        self.retry_after = retry_after

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed a little later."""
        return self.code == 0 or self.code in _BUSY


@dataclass(frozen=True)
class _Request:
    method: str
    path: str
    query: Query = ()
    body: object = None
    media: str = "application/json"

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Api:
    """One cluster. `kubeconfig` may be several files, as in $KUBECONFIG; without it that variable counts, then the pod we are in."""

    def __init__(self, pace: Pace, *, kubeconfig: str | None = None, context: str | None = None) -> None:
        self.pace = pace
        self._namespace: str | None = None
        self._kubeconfig = kubeconfig
        self._context = context
        self._client: client.ApiClient | None = None
        self._connecting = (
            asyncio.Lock()
        )  # who comes while another connects waits for that one's client; a second would be closed by nobody

    async def default_namespace(self) -> str | None:
        """The namespace that the kubeconfig's context names."""
        await self._connected()
        return self._namespace

    async def close(self) -> None:
        """Lets go of the connections. The next request makes new ones."""
        gone, self._client = self._client, None
        if gone is not None:
            await gone.close()

    async def request(self, method: str, path: str, *, query: Query = (), body: object = None, media: str = "application/json") -> Any:
        """The answer to a request, tried again while that may help and `patience` lasts. Raises ApiFailed."""
        backoff = Backoff(self.pace)
        ends = asyncio.get_running_loop().time() + self.pace.patience
        while True:
            try:
                return await self._once(_Request(method, path, query, body, media))
            except ApiFailed as error:
                pause = backoff.next(error.retry_after)
                if not error.passing or asyncio.get_running_loop().time() + pause > ends:
                    raise
                log.info("API server, trying again", reason=str(error), seconds=round(pause, 2))
                await asyncio.sleep(pause)

    @asynccontextmanager
    async def lines(self, path: str, query: Query) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of an answer that never ends. Raises ApiFailed when it is refused, breaks off, or is silent for `stall`."""
        request = _Request("GET", path, query)
        limits = aiohttp.ClientTimeout(total=None, sock_connect=self.pace.connect, sock_read=self.pace.stall)
        async with self._answer(request, limits) as response:
            yield _split(response.content.iter_any(), request)

    async def _once(self, request: _Request) -> Any:
        limits = aiohttp.ClientTimeout(total=self.pace.request, sock_connect=self.pace.connect)
        async with self._answer(request, limits) as response:
            content = await response.read()
        try:
            return json.loads(content)
        except ValueError as error:
            raise ApiFailed(f"{request}: the answer is no JSON: {_shown(content)}") from error

    @asynccontextmanager
    async def _answer(self, request: _Request, limits: aiohttp.ClientTimeout) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            response = await self._ask(request, limits)
            if response.status == 401:  # a token that has run out; the file may hold another by now
                _let_go(response)
                if self._client is not None:
                    await self._configure(self._client.configuration)
                response = await self._ask(request, limits)
            try:
                if response.status >= 400:
                    raise _refusal(request, response, await response.read())
                yield response
            finally:
                _let_go(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            said = str(error) or type(error).__name__
            raise ApiFailed(f"{request}: the API server does not answer: {said}") from error

    async def _ask(self, request: _Request, limits: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        connected = await self._connected()
        asked = await connected.param_serialize(
            request.method,
            request.path,
            query_params=list(request.query),
            header_params={"Accept": "application/json", "Content-Type": request.media},
            body=request.body,
            auth_settings=["BearerToken"],
        )
        answer = await connected.call_api(*asked[:4], _request_timeout=limits)
        response: aiohttp.ClientResponse = answer.response
        return response

    async def _connected(self) -> client.ApiClient:
        async with self._connecting:
            if self._client is None:
                settings = client.Configuration()
                await self._configure(settings)
                self._client = client.ApiClient(configuration=settings)
                self._client.user_agent = "mayfly"
            return self._client

    async def _configure(self, settings: client.Configuration) -> None:
        """Reads where the API server is and who we are; again when a token has run out."""
        named = self._kubeconfig or os.environ.get("KUBECONFIG")
        inside = named is None and "KUBERNETES_SERVICE_HOST" in os.environ
        files = named or _HOME
        try:
            if inside:
                config.load_incluster_config(client_configuration=settings)
                return
            if not _any_exists(files):
                raise StoreFailed(f"kubeconfig {files}: there is no such file; name one with --kubeconfig or KUBECONFIG")
            loader = await config.load_kube_config(files, context=self._context, client_configuration=settings, persist_config=False)
            self._namespace = loader.current_context["context"].get("namespace")
        except (config.ConfigException, OSError, yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
            where = "the pod's service account" if inside else f"kubeconfig {files}"
            raise StoreFailed(f"{where} cannot be used: {error}") from error


def _let_go(response: aiohttp.ClientResponse) -> None:
    """Ends an answer. If it was not read whole, its connection goes with it, at once: TLS would wait for the server's goodbye, and what
    waits when the event loop ends is a socket that nobody closes."""
    if response.content.at_eof():
        response.release()
        return
    if response.connection is not None and response.connection.protocol is not None:
        response.connection.protocol.abort()
    response.close()


def _any_exists(files: str) -> bool:
    return any(Path(file).expanduser().exists() for file in files.split(os.pathsep) if file)


async def _split(pieces: AsyncIterator[bytes], request: _Request) -> AsyncIterator[bytes]:
    """Whole lines, however the network cut them. An answer that ends within a line has broken off."""
    rest = bytearray()
    async for piece in pieces:
        rest += piece
        if b"\n" in piece:
            *whole, last = bytes(rest).split(b"\n")
            for line in whole:
                yield line
            rest = bytearray(last)
        if len(rest) > LINE_MAX:
            raise ApiFailed(f"{request}: a line of more than {LINE_MAX} bytes")
    if rest:
        raise ApiFailed(f"{request}: the answer ends within a line")


def _refusal(request: _Request, response: aiohttp.ClientResponse, content: bytes) -> ApiFailed:
    try:
        said = json.loads(content)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        said = {"message": _shown(content)}
    details = said.get("details") or {}
    return ApiFailed(
        f"{request}: {response.status} {said.get('message') or response.reason}",
        response.status,
        reason=str(said.get("reason") or ""),
        details=details if isinstance(details, dict) else {},
        retry_after=_seconds(response.headers.get("Retry-After")) or _seconds(details.get("retryAfterSeconds")),
    )


def _seconds(value: object) -> float:
    try:
        return max(0.0, float(str(value)))
    except ValueError:
        return 0.0


def _shown(content: bytes) -> str:
    return content[:_SHOWN].decode("utf-8", "replace").strip()
