"""Nodes that say that they are there, and what becomes of one that does not any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from faas_resources import ConditionReport, Image, StatusPatch, Truth
from faas_resources.store.kubernetes import KubernetesStore
from tests.resources.conftest import PACE
from tests.support.cluster import Cluster

pytestmark = pytest.mark.slow

Make = Callable[..., Image]
Look = Callable[[], Awaitable[dict[str, str]]]
READY = StatusPatch(conditions=(ConditionReport(type="Ready", status=Truth.TRUE, reason="Serving", message="serves"),))


@asynccontextmanager
async def present(cluster: Cluster, system: str, node: str, *, forget: float = 600) -> AsyncIterator[KubernetesStore]:
    """A node that says that it is there, until the block ends."""
    pace = replace(PACE, renew=0.2, lost=2.0, forget=forget)
    async with KubernetesStore(kubeconfig=str(cluster.kubeconfig()), node=node, system=system, pace=pace) as store:
        task = asyncio.create_task(store.attend())
        try:
            yield store
        finally:
            task.cancel()
            await asyncio.wait([task])


@pytest.fixture
async def seen(cluster: Cluster, place: str, on_cluster: KubernetesStore, image: Make) -> Look:
    """An Image in `place`, and a look at what each node's entry says there of Ready."""
    await on_cluster.apply(image(namespace=place))

    async def look() -> dict[str, str]:
        status = (await on_cluster.get(Image, place, "hello")).status
        return {entry.name: next(each.reason for each in entry.conditions if each.type == "Ready") for entry in status.nodes}

    return look


async def until(look: Look, wanted: dict[str, str]) -> None:
    async with asyncio.timeout(60):
        while await look() != wanted:  # noqa: ASYNC110 — what is waited for is in the cluster
            await asyncio.sleep(0.1)


async def leases(cluster: Cluster, system: str) -> set[str]:
    found = await asyncio.to_thread(cluster.objects, "get", "leases", "-n", system)
    return {item["spec"]["holderIdentity"] for item in found["items"]}


async def test_a_node_that_falls_silent_is_shown_as_lost_and_comes_back(
    cluster: Cluster, place: str, on_cluster: KubernetesStore, seen: Look
) -> None:
    async with AsyncExitStack() as stack:
        for name in ("a", "b"):
            store = await stack.enter_async_context(present(cluster, place, name))
            await store.patch_status(Image, place, "hello", READY)
        async with present(cluster, place, "c") as third:
            await third.patch_status(Image, place, "hello", READY)
            await until(seen, {"a": "Serving", "b": "Serving", "c": "Serving"})
        await until(seen, {"a": "Serving", "b": "Serving", "c": "NodeLost"})
        status = (await on_cluster.get(Image, place, "hello")).status
        ready = status.condition("Ready")
        assert ready is not None
        assert (ready.status, ready.message) == (Truth.TRUE, "serves")
        assert "not heard of: c" in (status.message or "")
        async with present(cluster, place, "c") as third:
            await third.patch_status(Image, place, "hello", READY)
            await until(seen, {"a": "Serving", "b": "Serving", "c": "Serving"})
            assert await leases(cluster, place) == {"a", "b", "c"}


async def test_the_first_by_name_may_be_the_one_that_is_lost(cluster: Cluster, place: str, seen: Look) -> None:
    async with present(cluster, place, "b") as second:
        await second.patch_status(Image, place, "hello", READY)
        async with present(cluster, place, "a") as first:
            await first.patch_status(Image, place, "hello", READY)
            async with asyncio.timeout(30):
                while await leases(cluster, place) != {"a", "b"}:  # noqa: ASYNC110 — it is in the cluster
                    await asyncio.sleep(0.1)
        await until(seen, {"a": "NodeLost", "b": "Serving"})


async def test_a_node_that_is_lost_for_long_is_given_up(cluster: Cluster, place: str, seen: Look) -> None:
    async with present(cluster, place, "a", forget=4) as first:
        await first.patch_status(Image, place, "hello", READY)
        async with present(cluster, place, "b") as second:
            await second.patch_status(Image, place, "hello", READY)
            await until(seen, {"a": "Serving", "b": "Serving"})
        await until(seen, {"a": "Serving"})
        async with asyncio.timeout(30):
            while await leases(cluster, place) != {"a"}:  # noqa: ASYNC110 — it is in the cluster
                await asyncio.sleep(0.1)


async def test_a_place_without_leases_is_said_once_and_harms_nothing(cluster: Cluster, capfd: pytest.CaptureFixture[str]) -> None:
    async with present(cluster, "no-such-namespace", "a"):
        await asyncio.sleep(1.5)
    said = capfd.readouterr().out
    assert said.count("this node cannot say that it is there") == 1
    assert "no-such-namespace" in said
