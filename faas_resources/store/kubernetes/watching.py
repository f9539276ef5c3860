"""List and watch: what the API server has, and every change from there on, whatever happens to the connection.

A list gives a state and its resourceVersion, a watch tells what changed after one. A watch that ends, breaks, falls silent or is refused is
begun again after the last version that was seen; only where the API server has forgotten that version (410) everything is listed again, and
what differs from what was told is told: so a deletion that nobody saw is still one. The API server tells the changes of a kind in the order
of their versions, so whatever is not newer than the last is a repetition.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Generic, TypeVar

import structlog

from faas_resources.errors import InvalidResource, StoreFailed
from faas_resources.metadata import Resource
from faas_resources.store.comparing import differences
from faas_resources.store.kubernetes.connecting import Api, ApiFailed
from faas_resources.store.kubernetes.pacing import Backoff
from faas_resources.store.kubernetes.reading import Latest, key_of, path_of, resource_of, version_of
from faas_resources.store.port import Event, EventType, Key

R = TypeVar("R", bound=Resource)

PAGE = 500
_GONE = 410
_TOO_SHORT = 1.0  # seconds; a watch that ended so soon and told nothing was no success

log = structlog.get_logger(__name__)


async def list_raw(api: Api, kind: type[R], namespace: str | None = None) -> tuple[list[dict[str, Any]], str]:
    """All objects of a kind, and the version of this state. Pages belong to one state: when that has expired, all is asked for at once."""
    path = path_of(kind, namespace)
    found: list[dict[str, Any]] = []
    token = ""
    while True:
        try:
            page = await api.request("GET", path, query=[("limit", str(PAGE)), *([("continue", token)] if token else [])])
        except ApiFailed as error:
            if error.code != _GONE or not token:
                raise
            log.info("the list expired between two pages and is asked for whole")
            page, found = await api.request("GET", path), []
        found += page.get("items") or []
        token = (page.get("metadata") or {}).get("continue") or ""
        if not token:
            return found, version_of(page)


class Watch(Generic[R]):
    """One watcher of all resources of a kind. Its events never end; it raises nothing of the store's."""

    def __init__(self, api: Api, kind: type[R], node: str | None = None, latest: Latest | None = None) -> None:
        """`latest` is kept as what the watch tells."""
        self._api = api
        self._latest = Latest() if latest is None else latest
        self._node = node
        self._kind = kind
        self._told: dict[Key, R] = {}
        self._version: str | None = None  # None: everything is to be listed
        self._backoff = Backoff(api.pace)
        self._complained: set[tuple[Key, str]] = set()

    async def events(self) -> AsyncGenerator[Event[R], None]:
        """See Store.watch."""
        synced = False
        while True:
            try:
                if self._version is None:
                    now, version = await self._listed()
                    told, self._told, self._version = self._told, now, version
                    for event in differences(told, now):
                        yield event
                    if not synced:
                        synced = True
                        yield Event(EventType.SYNCED)
                async with aclosing(self._changes(self._version)) as changes:
                    async for event in changes:
                        yield event
            except StoreFailed as error:
                if isinstance(error, ApiFailed) and error.code == _GONE:
                    log.info("the API server has forgotten where the watch was, listing again")
                    self._version = None
                pause = self._backoff.next(error.retry_after if isinstance(error, ApiFailed) else None)
                log.warning("watch interrupted, trying again", reason=_advised(error, self._kind), seconds=round(pause, 2))
                await asyncio.sleep(pause)

    async def _listed(self) -> tuple[dict[Key, R], str]:
        items, version = await list_raw(self._api, self._kind)
        self._latest.replace(items)
        now: dict[Key, R] = {}
        for raw in items:
            key = key_of(raw)
            resource = self._read(raw) or self._last_good(raw)
            if resource is not None:
                now[key] = resource
        return now, version

    async def _changes(self, version: str) -> AsyncGenerator[Event[R], None]:
        """One watch, from where the last one ended to its own end. Raises ApiFailed."""
        seconds = int(self._api.pace.watch * random.uniform(0.75, 1.0)) or 1
        query = [("watch", "1"), ("allowWatchBookmarks", "true"), ("resourceVersion", version), ("timeoutSeconds", str(seconds))]
        began, told = asyncio.get_running_loop().time(), False
        async with self._api.lines(path_of(self._kind), query) as lines:
            async for line in lines:
                if not line.strip():
                    continue
                for event in self._understood(line):
                    yield event
                told = True
                self._backoff.reset()
        if not told and asyncio.get_running_loop().time() - began < min(_TOO_SHORT, seconds / 2):
            raise ApiFailed("the API server ended the watch at once")

    def _understood(self, line: bytes) -> list[Event[R]]:
        try:
            message = json.loads(line)
            type_, raw = message["type"], message["object"]
            version = version_of(raw)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ApiFailed(f"the watch tells what is no event: {line[:200]!r}") from error
        match type_:
            case "ERROR":
                raise ApiFailed(
                    f"the watch ended: {raw.get('message')}",
                    int(raw.get("code") or 0),
                    reason=str(raw.get("reason") or ""),
                    retry_after=float((raw.get("details") or {}).get("retryAfterSeconds") or 0),
                )
            case "BOOKMARK":
                self._advance(version)
                return []
            case "ADDED" | "MODIFIED" | "DELETED":
                if not self._advance(version):
                    return []
                return self._deleted(raw) if type_ == "DELETED" else self._changed(raw)
            case _:
                log.warning("an event of an unknown type is passed over", type=str(type_)[:40])
                return []

    def _advance(self, version: str) -> bool:
        """Notes how far the watch has come; false for what it has told before. Versions that are no numbers are taken as they come."""
        before = self._version or ""
        if not version or (version.isdecimal() and before.isdecimal() and int(version) <= int(before)):
            return False
        self._version = version
        return True

    def _changed(self, raw: Mapping[str, Any]) -> list[Event[R]]:
        self._latest.told(raw)
        return self._become(key_of(raw), self._read(raw) or self._last_good(raw))

    def _deleted(self, raw: Mapping[str, Any]) -> list[Event[R]]:
        self._latest.gone(raw)
        return self._become(key_of(raw), None)

    def _become(self, key: Key, resource: R | None) -> list[Event[R]]:
        before = self._told.pop(key, None)
        if resource is not None:
            self._told[key] = resource
        return list(differences({key: before} if before else {}, {key: resource} if resource else {}))

    def _read(self, raw: Mapping[str, Any]) -> R | None:
        """The resource; None for an object that breaks our rules, which is said once of each of its versions."""
        try:
            return resource_of(self._kind, raw, self._node)
        except InvalidResource as error:
            complaint = (key_of(raw), version_of(raw))
            if complaint not in self._complained:
                self._complained = {known for known in self._complained if known[0] != complaint[0]} | {complaint}
                log.error("an object is passed over; its last good version stays in force", reason=str(error))
            return None

    def _last_good(self, raw: Mapping[str, Any]) -> R | None:
        known = self._told.get(key_of(raw))
        return known if known is not None and known.metadata.uid == (raw.get("metadata") or {}).get("uid") else None


def _advised(error: StoreFailed, kind: type[Resource]) -> str:
    """What happened, and the way out where a person has to take it."""
    match error.code if isinstance(error, ApiFailed) else 0:
        case 401:
            return f"{error}; the token is not accepted: is the service account there, and the cluster the right one?"
        case 403:
            return f"{error}; the service account needs get, list and watch on {kind.PLURAL} (k8s/ has the role)"
        case 404:
            return f"{error}; the cluster does not know {kind.PLURAL}: kubectl apply -k crds/"
        case _:
            return str(error)
