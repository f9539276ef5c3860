"""The condition Ready in the store follows the reports, and the resource."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import pytest

from faas_resources.conditions import Condition, ConditionReport, StatusPatch, Truth
from faas_resources.errors import StoreFailed
from faas_resources.image import Image
from faas_resources.manifests import load_manifest
from faas_resources.metadata import Resource
from faas_resources.store.directory import DirectoryStore
from faas_server.reporting import Report, Reporter

R = TypeVar("R", bound=Resource)

KEY = ("default", "peer")
ONE, TWO = "0" * 15 + "1", "0" * 15 + "2"
SERVING = Report(Truth.TRUE, "Serving", "it serves", ONE)


def image(image: str = "registry.test/peer:1") -> Image:
    manifest = f"apiVersion: build.kontain.app/v1\nkind: Image\nmetadata: {{name: peer}}\nspec: {{image: '{image}'}}\n"
    loaded = load_manifest(manifest)
    assert isinstance(loaded, Image)
    return loaded


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path)


@pytest.fixture
async def reporter(store: DirectoryStore) -> AsyncIterator[Reporter]:
    it = Reporter(store)
    task = asyncio.create_task(it.run())
    yield it
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled(), task.exception()


async def until(store: DirectoryStore, reason: str, generation: int) -> Condition:
    """The condition once it says that."""
    async with asyncio.timeout(15):
        async for event in store.watch(Image):
            condition = event.resource.status.condition("Ready") if event.resource is not None else None
            if condition is not None and (condition.reason, condition.observed_generation) == (reason, generation):
                return condition
    raise AssertionError("a watch never ends")


def published(revision: str, generation: int) -> StatusPatch:
    """What the downloader reports."""
    return StatusPatch(revision=revision, observed_generation=generation)


async def test_a_report_is_written_with_the_generation_it_is_about(store: DirectoryStore, reporter: Reporter) -> None:
    await store.apply(image())
    await store.patch_status(Image, *KEY, published(ONE, 1))
    reporter.report(KEY, SERVING)
    condition = await until(store, "Serving", 1)
    assert (condition.status, condition.message) == (Truth.TRUE, "it serves")


async def test_the_generation_is_found_though_the_downloader_reports_later(store: DirectoryStore, reporter: Reporter) -> None:
    await store.apply(image())
    reporter.report(KEY, SERVING)
    await until(store, "Serving", 0)
    await store.patch_status(Image, *KEY, published(ONE, 1))
    await until(store, "Serving", 1)


async def test_the_generation_follows_a_change_that_leaves_the_revision_the_same(store: DirectoryStore, reporter: Reporter) -> None:
    await store.apply(image())
    await store.patch_status(Image, *KEY, published(ONE, 1))
    reporter.report(KEY, SERVING)
    await until(store, "Serving", 1)
    await store.apply(image("registry.test/peer:same"))
    await store.patch_status(Image, *KEY, published(ONE, 2))
    await until(store, "Serving", 2)


async def test_a_report_about_another_revision_claims_no_generation(store: DirectoryStore, reporter: Reporter) -> None:
    await store.apply(image())
    await store.patch_status(Image, *KEY, published(TWO, 1))
    reporter.report(KEY, SERVING)
    await until(store, "Serving", 0)


async def test_a_report_waits_for_its_resource(store: DirectoryStore, reporter: Reporter) -> None:
    reporter.report(KEY, SERVING)
    await store.apply(image())
    await until(store, "Serving", 0)
    reporter.forget(KEY)
    reporter.report(("default", "nobody"), SERVING)


async def test_conditions_of_others_are_left_alone(store: DirectoryStore, reporter: Reporter) -> None:
    await store.apply(image())
    other = ConditionReport(type="Published", status=Truth.TRUE, reason="Done", message="theirs")
    await store.patch_status(Image, *KEY, StatusPatch(conditions=(other,)))
    reporter.report(KEY, SERVING)
    await until(store, "Serving", 0)
    condition = (await store.get(Image, *KEY)).status.condition("Published")
    assert condition is not None
    assert condition.message == "theirs"


async def test_only_what_is_new_is_written(store: DirectoryStore, reporter: Reporter) -> None:
    await store.apply(image())
    reporter.report(KEY, SERVING)
    await until(store, "Serving", 0)
    version = (await store.get(Image, *KEY)).metadata.resource_version
    reporter.report(KEY, SERVING)
    reporter.report(KEY, Report(Truth.FALSE, "Restarting", "", ONE))
    reporter.report(KEY, SERVING)
    await store.apply(image("registry.test/peer:2"))  # something later that is seen
    reporter.report(KEY, Report(Truth.TRUE, "Updating", "", ONE))
    await until(store, "Updating", 0)
    written = int((await store.get(Image, *KEY)).metadata.resource_version or 0) - int(version or 0)
    assert written <= 4


async def test_a_store_that_fails_is_tried_again(tmp_path: Path) -> None:
    class Failing(DirectoryStore):
        failures = 2

        async def patch_status(self, kind: type[R], namespace: str, name: str, patch: StatusPatch, *, uid: str | None = None) -> R:
            if self.failures:
                self.failures -= 1
                raise StoreFailed("the disk is full")
            return await super().patch_status(kind, namespace, name, patch, uid=uid)

    store = Failing(tmp_path)
    await store.apply(image())
    it = Reporter(store)
    task = asyncio.create_task(it.run())
    it.report(KEY, SERVING)
    await until(store, "Serving", 0)
    assert store.failures == 0
    task.cancel()
    await asyncio.wait([task])
