"""Which nodes are there: each says so by a lease, and one that does not say so any more is shown as lost in the statuses.

A lease counts as long as its holder renews it: what is measured is for how long it has not changed, by the clock of whoever looks, so that
clocks need not agree. Of the nodes that are there the first by name writes about those that are not; two that think so write the same.
Nodes without a lease (of another version) are left alone. What a lost node said is kept for a while, as it may come back, and is then taken
out together with its lease.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import structlog

from faas_resources.errors import NotFound, StoreFailed
from faas_resources.store.kubernetes.connecting import Api, ApiFailed

_KIND = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
_LABEL = "mayfly.build.kontain.app/node"
_PREFIX = "mayfly-node-"

log = structlog.get_logger(__name__)

Tell = Callable[[str], Awaitable[None]]


class Roll:
    """The roll of a cluster's nodes, as one of them keeps it."""

    def __init__(self, api: Api, namespace: str, node: str) -> None:
        self._api = api
        self._node = node
        self._namespace = namespace
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._mine: Mapping[str, Any] | None = None
        self._seen: dict[str, tuple[str, float]] = {}  # of each node: its lease as it is, and since when it is so, on our clock
        self._told: dict[str, float] = {}  # when it was last said of a node that it is lost
        self._problem = ""

    async def keep(self, lost: Tell, gone: Tell) -> None:
        """Never ends. `lost` is called for a node that is not heard of, and again from time to time; `gone` once, when it is given up."""
        while True:
            try:
                await self._say_here()
                await self._look(lost, gone)
                self._problem = ""
            except (StoreFailed, NotFound) as error:
                if str(error) != self._problem:
                    log.warning("this node cannot say that it is there, or see which others are; trying again", reason=str(error))
                    self._problem = str(error)
            await asyncio.sleep(self._api.pace.renew * random.uniform(0.8, 1.0))

    async def _say_here(self) -> None:
        spec = {
            "holderIdentity": self._node,
            "leaseDurationSeconds": max(1, int(self._api.pace.lost)),
            "renewTime": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        }
        name = f"{_PREFIX}{self._node}"
        path = f"{self._path}/{name}"
        try:
            before = self._mine or await self._api.request("GET", path)
            self._mine = await self._api.request("PUT", path, body={**before, "spec": spec})
        except ApiFailed as error:
            self._mine = None
            if error.code == 404:
                metadata = {"name": name, "namespace": self._namespace, "labels": {_LABEL: "true"}}
                self._mine = await self._api.request("POST", self._path, body={**_KIND, "metadata": metadata, "spec": spec})
            elif error.code != 409:  # somebody has touched it: it is read again the next time
                raise

    async def _look(self, lost: Tell, gone: Tell) -> None:
        found = await self._api.request("GET", self._path, query=[("labelSelector", f"{_LABEL}=true")])
        now = asyncio.get_running_loop().time()
        self._seen = dict(self._aged(found.get("items") or [], now))
        silent = {name: now - since for name, (_, since) in self._seen.items() if name != self._node}
        missing = {name: seconds for name, seconds in silent.items() if seconds > self._api.pace.lost}
        self._told = {name: at for name, at in self._told.items() if name in missing}
        if self._node != min({self._node, *silent} - missing.keys()):
            return
        for name, seconds in sorted(missing.items()):
            if seconds <= self._api.pace.forget:
                if now - self._told.get(name, -self._api.pace.lost) >= self._api.pace.lost:
                    await lost(name)
                    self._told[name] = now
                continue
            await gone(name)
            log.info("a node that is lost is given up", node=name)
            try:
                await self._api.request("DELETE", f"{self._path}/{_PREFIX}{name}")
            except ApiFailed as error:
                if error.code != 404:
                    raise

    def _aged(self, items: Iterable[Mapping[str, Any]], now: float) -> Iterable[tuple[str, tuple[str, float]]]:
        for item in items:
            spec = item.get("spec") or {}
            name, renewed = str(spec.get("holderIdentity") or ""), str(spec.get("renewTime") or "")
            if name:
                known, since = self._seen.get(name, ("", now))
                yield name, (renewed, since if known == renewed else now)
