"""The downloader on a cluster: what kubectl applies is published on each node, and the cluster shows it."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from bundles.revisions import RevisionStore
from faas_downloader import Downloader, Settings
from faas_resources import Image
from faas_resources.store.kubernetes import KubernetesStore, Pace
from tests.downloader.conftest import QUICK, is_published
from tests.support.cluster import Cluster
from tests.support.faulty import event, proxied, status
from tests.support.figures import Figure
from tests.support.images import tiny_image
from tests.support.registry import Registry
from tests.support.system import resident, size

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
IMAGES = size("IMAGES", 40)  # 2,000 for the full figures
PACE = Pace(patience=30, request=30, stall=60, first=0.05, longest=0.5)


@asynccontextmanager
async def node(data: Path, name: str, kubeconfig: Path) -> AsyncIterator[RevisionStore]:
    """A node's downloader, until the block ends."""
    revisions = RevisionStore(data / "bundles")
    async with KubernetesStore(kubeconfig=str(kubeconfig), node=name, pace=PACE) as store:
        downloader = Downloader(store, revisions, Settings(data=data, node=name, **QUICK))
        with revisions.owned():
            task = asyncio.create_task(downloader.run())
            try:
                yield revisions
            finally:
                task.cancel()
                await asyncio.wait([task])


def manifest(place: str, reference: str, **spec: Any) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": Image.API_VERSION,
            "kind": "Image",
            "metadata": {"name": "hello", "namespace": place},
            "spec": {"image": reference, **spec},
        }
    )


async def eventually(wanted: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(wanted):  # noqa: ASYNC110 — what is waited for is on disk, or what kubectl shows
            await asyncio.sleep(0.05)


async def kubectl(cluster: Cluster, *arguments: str, given: str | None = None) -> str:
    return await asyncio.to_thread(lambda: cluster.kubectl(*arguments, given=given))


@pytest.fixture
def place(cluster: Cluster) -> str:
    cluster.empty()
    return cluster.namespace()


async def published(cluster: Cluster, place: str, generation: int) -> Image:
    """Waits until every node that has said something has published it."""
    async with KubernetesStore(kubeconfig=str(cluster.kubeconfig()), pace=PACE) as store:
        events = store.watch(Image)
        try:
            async with asyncio.timeout(60):
                async for told in events:
                    image = told.resource
                    if image is None or image.namespace != place or not image.status.nodes:
                        continue
                    if is_published(image) and image.status.observed_generation == generation:
                        return image
        finally:
            await events.aclose()  # type: ignore[attr-defined]  # every generator has it, the port's iterator need not
    raise AssertionError("a watch never ends")


async def test_image_comes_follows_its_spec_and_goes(cluster: Cluster, place: str, registry: Registry, tmp_path: Path) -> None:
    first, second = tiny_image({"app": b"one"}), tiny_image({"app": b"two"})
    references = [registry.push(made, place, tag) for made, tag in ((first, "v1"), (second, "v2"))]
    async with node(tmp_path, "n1", cluster.kubeconfig()) as revisions:
        await kubectl(cluster, "apply", "-f", "-", given=manifest(place, references[0]))
        image = await published(cluster, place, 1)
        bundle = revisions.current(place, "hello")
        assert bundle is not None
        assert (image.status.digest, image.status.revision) == (first.digest, bundle.spec.revision)
        assert [entry.name for entry in image.status.nodes] == ["n1"]
        await kubectl(cluster, "apply", "-f", "-", given=manifest(place, references[1]))
        image = await published(cluster, place, 2)
        bundle = revisions.current(place, "hello")
        assert bundle is not None
        assert (bundle.rootfs / "app").read_bytes() == b"two"
        assert image.status.digest == second.digest
        await kubectl(cluster, "delete", "image", "hello", "-n", place)
        await eventually(lambda: revisions.current(place, "hello") is None)


async def test_every_node_publishes_and_says_so(cluster: Cluster, place: str, registry: Registry, tmp_path: Path) -> None:
    made = tiny_image({"app": b"everywhere"})
    reference = registry.push(made, place)
    config = cluster.kubeconfig()
    async with (
        node(tmp_path / "1", "n1", config) as one,
        node(tmp_path / "2", "n2", config) as two,
        node(tmp_path / "3", "n3", config) as three,
    ):
        await kubectl(cluster, "apply", "-f", "-", given=manifest(place, reference))

        def told() -> bool:
            found = cluster.objects("get", "image", "hello", "-n", place).get("status", {})
            entries = {entry["name"]: entry.get("digest") for entry in found.get("nodes", [])}
            return entries == dict.fromkeys(("n1", "n2", "n3"), made.digest) and found.get("digest") == made.digest

        await eventually(told)
        for revisions in (one, two, three):
            bundle = revisions.current(place, "hello")
            assert bundle is not None
            assert (bundle.rootfs / "app").read_bytes() == b"everywhere"


async def test_row_15_delete_while_the_downloader_was_down(cluster: Cluster, place: str, registry: Registry, tmp_path: Path) -> None:
    reference = registry.push(tiny_image({"app": b"one"}), place)
    async with node(tmp_path, "n1", cluster.kubeconfig()):
        await kubectl(cluster, "apply", "-f", "-", given=manifest(place, reference))
        await published(cluster, place, 1)
    await kubectl(cluster, "delete", "image", "hello", "-n", place)
    async with node(tmp_path, "n1", cluster.kubeconfig()) as revisions:
        await eventually(lambda: revisions.current(place, "hello") is None)


async def test_row_17_finalizer_of_somebody_does_not_keep_the_function(
    cluster: Cluster, place: str, registry: Registry, tmp_path: Path
) -> None:
    reference = registry.push(tiny_image({"app": b"one"}), place)
    patch = ("patch", "image", "hello", "-n", place, "--type=merge", "-p")
    async with node(tmp_path, "n1", cluster.kubeconfig()) as revisions:
        await kubectl(cluster, "apply", "-f", "-", given=manifest(place, reference))
        await published(cluster, place, 1)
        await kubectl(cluster, *patch, '{"metadata":{"finalizers":["some.body/else"]}}')
        await kubectl(cluster, "delete", "image", "hello", "-n", place, "--wait=false")
        await eventually(lambda: revisions.current(place, "hello") is None)
    await kubectl(cluster, *patch, '{"metadata":{"finalizers":null}}')  # the way out, with no downloader anywhere
    assert "hello" not in await kubectl(cluster, "get", "images", "-n", place)


async def test_row_18_spec_edited_during_a_pull(cluster: Cluster, place: str, registry: Registry, tmp_path: Path) -> None:
    big = tiny_image({"app": b"old", "bulk": bytes(range(256)) * 65536})
    small = tiny_image({"app": b"new"})
    references = [registry.push(made, place, tag) for made, tag in ((big, "v1"), (small, "v2"))]
    async with node(tmp_path, "n1", cluster.kubeconfig()) as revisions:
        await kubectl(cluster, "apply", "-f", "-", given=manifest(place, references[0]))
        await eventually(lambda: "nodes" in cluster.objects("get", "image", "hello", "-n", place).get("status", {}))
        await kubectl(cluster, "apply", "-f", "-", given=manifest(place, references[1]))
        image = await published(cluster, place, 2)
        bundle = revisions.current(place, "hello")
        assert bundle is not None
        assert (image.status.digest, bundle.spec.image) == (small.digest, small.digest)


async def test_rows_13_and_14_no_second_pull(cluster: Cluster, place: str, registry: Registry, tmp_path: Path) -> None:
    reference = registry.push(tiny_image({"app": b"one"}), place)
    async with proxied(cluster) as proxy, node(tmp_path, "n1", cluster.kubeconfig(server=proxy.url)) as revisions:

        def reports() -> int:
            return sum(request.method == "PATCH" and f"/{place}/images/hello/" in request.target for request in proxy.requests)

        await kubectl(cluster, "apply", "-f", "-", given=manifest(place, reference))
        await published(cluster, place, 1)
        stale = cluster.objects("get", "image", "hello", "-n", place)
        await kubectl(cluster, "apply", "-f", "-", given=manifest(place, reference, pool=1))
        await published(cluster, place, 2)
        bundle, said = revisions.current(place, "hello"), reports()
        fault = proxy.fault(lambda request: request.watch, first=event("MODIFIED", stale) * 2 + event("DELETED", stale))
        await proxy.end(lambda request: request.watch)  # a report that is broken off would be made again
        await eventually(lambda: fault.hit == 1)
        # What comes behind them on the same watch has been worked on, so they would have been.
        marker = manifest(place, reference).replace("name: hello", "name: marker")
        await kubectl(cluster, "apply", "-f", "-", given=marker)
        await eventually(lambda: revisions.current(place, "marker") is not None)
        assert (revisions.current(place, "hello"), reports()) == (bundle, said)


async def test_watch_that_expired_relists_and_goes_on(cluster: Cluster, place: str, registry: Registry, tmp_path: Path) -> None:
    reference = registry.push(tiny_image({"app": b"one"}), place)
    async with proxied(cluster) as proxy, node(tmp_path, "n1", cluster.kubeconfig(server=proxy.url)) as revisions:
        fault = proxy.fault(lambda request: request.watch, first=event("ERROR", status(410, "Expired")), times=2)
        await kubectl(cluster, "apply", "-f", "-", given=manifest(place, reference))
        await published(cluster, place, 1)
        assert fault.hit >= 1
        assert revisions.current(place, "hello") is not None


@asynccontextmanager
async def process(data: Path, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A downloader's process, until the block ends; it ends in order."""
    command = (sys.executable, "-m", "faas_downloader", "--data", str(data), *options)
    running = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL, cwd=ROOT)
    try:
        yield running
    finally:
        running.terminate()
        assert await asyncio.wait_for(running.wait(), 60) == 0


async def test_process_chooses_the_cluster_by_its_settings(cluster: Cluster, place: str, registry: Registry, tmp_path: Path) -> None:
    reference = registry.push(tiny_image({"app": b"one"}), place)
    options = ["--store", "kubernetes", "--kubeconfig", str(cluster.kubeconfig()), "--node", "n1"]
    async with process(tmp_path, *options):
        await kubectl(cluster, "apply", "-f", "-", given=manifest(place, reference))
        image = await published(cluster, place, 1)
        assert [entry.name for entry in image.status.nodes] == ["n1"]


@pytest.mark.timeout(300 + IMAGES)
async def test_many_images_after_a_cold_start(cluster: Cluster, registry: Registry, tmp_path: Path, figure: Figure) -> None:
    """Everything is in the layout already; what a node does then, it does once for each Image."""
    reference = registry.push(tiny_image({"app": b"many"}), "many")
    places = [await asyncio.to_thread(cluster.namespace) for _ in range(max(1, IMAGES // 40))]
    wanted = [(places[number % len(places)], f"n{number}") for number in range(IMAGES)]
    documents = "---\n".join(manifest(place, reference).replace("name: hello", f"name: {name}") for place, name in wanted)
    await asyncio.to_thread(lambda: cluster.kubectl("create", "-f", "-", given=documents, patience=IMAGES + 60))
    revisions = RevisionStore(tmp_path / "bundles")

    def all_there() -> bool:
        return {(bundle.spec.namespace, bundle.spec.name) for bundle in revisions.functions()} >= set(wanted)

    async with proxied(cluster) as proxy:
        options = ["--store", "kubernetes", "--kubeconfig", str(cluster.kubeconfig(server=proxy.url)), "--node", "n1"]
        async with process(tmp_path, *options):
            await eventually(all_there, 120 + IMAGES)
        shutil.rmtree(tmp_path / "bundles" / "revisions")
        proxy.requests.clear()
        began = time.monotonic()
        async with process(tmp_path, *options) as running:
            await eventually(all_there, 120 + IMAGES)
            seconds, asked = time.monotonic() - began, len(proxy.requests)
            memory = resident(running.pid)
    figure(f"{IMAGES} images in {len(places)} namespaces: {seconds:.1f} s, {asked} API requests, {memory >> 20} MiB")
    assert len(proxy.lists()) <= 2  # one a start, and never one for each Image
    assert len(proxy.watches()) <= 2
    for place in places:
        await kubectl(cluster, "delete", "images", "--all", "-n", place)
