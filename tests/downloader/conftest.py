"""A downloader on a directory of its own, and the registries it pulls from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bundles.revisions import Bundle, RevisionStore
from faas_downloader import Downloader, Settings
from faas_resources import Image, ImageSpec, Metadata, Truth
from faas_resources.store import EventType
from faas_resources.store.directory import DirectoryStore

QUICK: dict[str, Any] = {
    "poll_interval": 0.2,
    "local_poll_interval": 0.1,
    "retry_first": 0.05,
    "retry_steady": 0.3,
    "collect_interval": 0.3,
    "worker_timeout": 0.3,
    "owner_timeout": 0.1,
    "stall_timeout": 20,
}


@dataclass
class Node:
    """A data directory, seen as the other planes see it."""

    data: Path
    store: DirectoryStore
    revisions: RevisionStore

    async def apply(self, reference: str, name: str = "hello", **spec: Any) -> Image:
        fields = {"image": reference, **spec}
        made = ImageSpec.model_validate(fields, context={"allow_local": True})
        resource, _ = await self.store.apply(Image(metadata=Metadata(name=name), spec=made))
        return resource

    async def delete(self, name: str = "hello") -> None:
        await self.store.delete(Image, "default", name)

    def current(self, name: str = "hello") -> Bundle | None:
        return self.revisions.current("default", name)

    async def until(self, wanted: Callable[[Image], bool], name: str = "hello", seconds: float = 30) -> Image:
        """Waits until a resource is as wanted."""
        last: Image | None = None
        try:
            async with asyncio.timeout(seconds):
                events = self.store.watch(Image)
                try:
                    async for event in events:
                        last = event.resource if event.resource and event.resource.name == name else last
                        if event.type is not EventType.SYNCED and event.resource and event.resource.name == name and wanted(event.resource):
                            return event.resource
                finally:
                    await events.aclose()  # type: ignore[attr-defined]  # every generator has it, the port's iterator need not
        except TimeoutError as error:
            shown = last.status.model_dump_json(indent=1) if last else "no such resource"
            raise AssertionError(f"still not as wanted after {seconds} s: {shown}") from error
        raise AssertionError("a watch never ends")

    async def published(self, image: Image, seconds: float = 30) -> Bundle:
        """Waits until this generation is published."""
        await self.until(lambda found: is_published(found) and found.status.observed_generation == image.generation, image.name, seconds)
        bundle = self.current(image.name)
        assert bundle is not None
        return bundle

    async def failed(self, reason: str, name: str = "hello", seconds: float = 30) -> Image:
        """Waits until a condition is False for that reason."""
        return await self.until(lambda found: reason in reasons(found), name, seconds)

    async def eventually(self, wanted: Callable[[], bool], seconds: float = 20) -> None:
        """Waits for something that no status tells."""
        async with asyncio.timeout(seconds):
            while not wanted():  # noqa: ASYNC110 — what is waited for is on disk
                await asyncio.sleep(0.02)


def is_published(image: Image) -> bool:
    conditions = [image.status.condition(type_) for type_ in ("Pulled", "Published")]
    return all(condition and condition.status == Truth.TRUE for condition in conditions)


def reasons(image: Image) -> set[str]:
    """Why conditions are False."""
    return {condition.reason for condition in image.status.conditions if condition.status == Truth.FALSE}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    data = tmp_path / "data"
    return Node(data, DirectoryStore(data), RevisionStore(data / "bundles"))


Start = Callable[..., Any]


@asynccontextmanager
async def running_downloader(node: Node, **settings: Any) -> AsyncIterator[Downloader]:
    """A downloader of the node that runs until the block ends."""
    downloader = Downloader(node.store, node.revisions, Settings(data=node.data, **{**QUICK, **settings}))
    with node.revisions.owned():
        task = asyncio.create_task(downloader.run())
        try:
            yield downloader
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.fixture
async def start(node: Node) -> AsyncIterator[Start]:
    """Starts a downloader for the rest of the test; keywords are settings."""
    async with AsyncExitStack() as stack:

        async def begin(**settings: Any) -> Downloader:
            return await stack.enter_async_context(running_downloader(node, **settings))

        yield begin
