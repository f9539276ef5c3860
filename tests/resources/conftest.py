"""Manifests and stores for the tests of faas_resources.

`store` is the directory store; `port` is each store there is, in turn, and `namespace` one that is a test's own in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from faas_resources import Image, ImageSpec, Metadata
from faas_resources.store import Event, EventType, Store
from faas_resources.store.directory import DirectoryStore
from faas_resources.store.kubernetes import KubernetesStore, Pace
from tests.support.cluster import Cluster
from tests.support.faulty import Proxy, proxied

# As quick as a test wants it, and every wait still longer than a loaded machine needs.
PACE = Pace(patience=30, request=30, stall=60, first=0.05, longest=0.5)


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path)


@pytest.fixture
def image() -> Callable[..., Image]:
    """Makes an Image; keywords go into its spec."""

    def make(name: str = "hello", namespace: str = "default", **spec: Any) -> Image:
        return Image(metadata=Metadata(name=name, namespace=namespace), spec=ImageSpec(**{"image": "docker://r.example/hello:1", **spec}))

    return make


class Watcher:
    """Collects what a watch tells, and waits for it with a bound. `only`: of this namespace."""

    def __init__(self, store: Store, *, only: str | None = None) -> None:
        self._events: AsyncIterator[Event[Image]] = store.watch(Image)
        self._only = only

    async def next(self) -> Event[Image]:
        async with asyncio.timeout(30):
            while True:
                event = await anext(self._events)
                if self._only is None or event.resource is None or event.resource.namespace == self._only:
                    return event

    async def synced(self) -> list[Image]:
        """What was there when the watch began."""
        found = []
        while (event := await self.next()).type is not EventType.SYNCED:
            assert event.type is EventType.ADDED
            assert event.resource is not None
            found.append(event.resource)
        return found

    async def until(self, wanted: Callable[[Event[Image]], bool]) -> Event[Image]:
        """The first event that is wanted."""
        async with asyncio.timeout(30):
            while not wanted(event := await self.next()):
                pass
            return event

    async def silent(self, seconds: float) -> bool:
        """Whether nothing is told for so long. Ends the watch."""
        try:
            async with asyncio.timeout(seconds):
                await anext(self._events)
        except TimeoutError:
            return True
        return False

    async def close(self) -> None:
        await self._events.aclose()  # type: ignore[attr-defined]  # every generator has it, the port's iterator need not


@asynccontextmanager
async def watching(store: Store, only: str | None = None) -> AsyncIterator[Callable[[], Watcher]]:
    """Makes watchers, and ends them with the block."""
    watchers: list[Watcher] = []

    def begin() -> Watcher:
        watchers.append(Watcher(store, only=only))
        return watchers[-1]

    try:
        yield begin
    finally:
        for watcher in watchers:
            await watcher.close()


@pytest.fixture
async def watcher(store: DirectoryStore) -> AsyncIterator[Callable[[], Watcher]]:
    async with watching(store) as begin:
        yield begin


# Each store in turn

BOTH = ("directory", "kubernetes")


@pytest.fixture(params=BOTH)
async def port(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """Each store that implements the port."""
    if request.param == "directory":
        yield DirectoryStore(tmp_path)
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    async with KubernetesStore(kubeconfig=str(cluster.kubeconfig()), pace=PACE) as store:
        yield store


@pytest.fixture
def namespace(port: Store, request: pytest.FixtureRequest) -> str:
    """A namespace that nobody else uses."""
    if isinstance(port, DirectoryStore):
        return "default"
    cluster: Cluster = request.getfixturevalue("cluster")
    return cluster.namespace()


@pytest.fixture
def other_namespace(port: Store, request: pytest.FixtureRequest) -> str:
    """Another one, which is sorted behind."""
    if isinstance(port, DirectoryStore):
        return "other"
    cluster: Cluster = request.getfixturevalue("cluster")
    return cluster.namespace()


@pytest.fixture
async def port_watcher(port: Store, namespace: str) -> AsyncIterator[Callable[[], Watcher]]:
    async with watching(port, namespace) as begin:
        yield begin


# A cluster alone


@pytest.fixture
def place(cluster: Cluster) -> str:
    """A namespace of the cluster that nobody else uses."""
    return cluster.namespace()


@pytest.fixture
async def on_cluster(cluster: Cluster) -> AsyncIterator[KubernetesStore]:
    """A store that speaks to the API server itself."""
    async with KubernetesStore(kubeconfig=str(cluster.kubeconfig()), pace=PACE) as store:
        yield store


@pytest.fixture
async def proxy(cluster: Cluster) -> AsyncIterator[Proxy]:
    async with proxied(cluster) as running:
        yield running


@pytest.fixture
async def behind(cluster: Cluster, proxy: Proxy) -> AsyncIterator[KubernetesStore]:
    """A store whose every request passes the proxy."""
    async with KubernetesStore(kubeconfig=str(cluster.kubeconfig(server=proxy.url)), pace=PACE) as store:
        yield store


@pytest.fixture
async def behind_watcher(behind: KubernetesStore, place: str) -> AsyncIterator[Callable[[], Watcher]]:
    async with watching(behind, place) as begin:
        yield begin
