"""Manifests and stores for the tests of faas_resources."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from faas_resources import Image, ImageSpec, Metadata
from faas_resources.store import Event, EventType
from faas_resources.store.directory import DirectoryStore


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
    """Collects what a watch tells, and waits for it with a bound."""

    def __init__(self, store: DirectoryStore) -> None:
        self._events: AsyncIterator[Event[Image]] = store.watch(Image)

    async def next(self) -> Event[Image]:
        async with asyncio.timeout(5):
            return await anext(self._events)

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
        async with asyncio.timeout(5):
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


@pytest.fixture
async def watcher(store: DirectoryStore) -> AsyncIterator[Callable[[], Watcher]]:
    watchers: list[Watcher] = []

    def begin() -> Watcher:
        watchers.append(Watcher(store))
        return watchers[-1]

    yield begin
    for watcher in watchers:
        await watcher.close()
