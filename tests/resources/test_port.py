"""The store port: what the planes rely on is so in each store, a directory or a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from faas_resources import ConditionReport, Conflict, Image, InvalidResource, NotFound, StatusPatch, Truth
from faas_resources.store import Event, EventType, Store
from tests.resources.conftest import Watcher

Make = Callable[..., Image]
Watch = Callable[[], Watcher]
DIGEST = f"sha256:{'a' * 64}"


def condition(type_: str = "Ready", truth: Truth = Truth.TRUE, message: str = "") -> ConditionReport:
    return ConditionReport(type=type_, status=truth, reason="Any", message=message)


def ready(truth: Truth = Truth.TRUE, message: str = "") -> StatusPatch:
    return StatusPatch(conditions=(condition(truth=truth, message=message),))


async def test_apply_says_what_it_did(port: Store, image: Make, namespace: str) -> None:
    created, did = await port.apply(image(namespace=namespace))
    assert (did, created.generation) == ("created", 1)
    again, did = await port.apply(image(namespace=namespace))
    assert did == "unchanged"
    assert again == created
    changed, did = await port.apply(image(namespace=namespace, memory="1Gi"))
    assert (did, changed.generation, changed.metadata.uid) == ("configured", 2, created.metadata.uid)
    assert await port.get(Image, namespace, "hello") == changed


async def test_generation_counts_changes_of_the_spec_only(port: Store, image: Make, namespace: str) -> None:
    first, _ = await port.apply(image(namespace=namespace))
    labelled, did = await port.apply(first.with_metadata(labels={"a": "b"}, resource_version=None))
    assert (did, labelled.generation) == ("configured", 1)
    reported = await port.patch_status(Image, namespace, "hello", ready())
    assert reported.generation == 1
    changed, did = await port.apply(image(namespace=namespace, timeout="61s").with_metadata(labels={"a": "b"}))
    assert (did, changed.generation) == ("configured", 2)
    assert changed.status == reported.status
    versions = [each.metadata.resource_version for each in (first, labelled, reported, changed)]
    assert len(set(versions)) == 4


async def test_default_that_is_written_out_is_no_new_generation(port: Store, image: Make, namespace: str) -> None:
    await port.apply(image(namespace=namespace))
    spelled_out, _ = await port.apply(image(namespace=namespace, timeout="60s", env=[]))
    assert spelled_out.generation == 1


async def test_apply_with_an_old_resource_version_changes_nothing(port: Store, image: Make, namespace: str) -> None:
    first, _ = await port.apply(image(namespace=namespace))
    second, _ = await port.apply(image(namespace=namespace, pool=1))
    with pytest.raises(Conflict, match="it changed since resourceVersion"):
        await port.apply(first.with_metadata(labels={"a": "b"}))
    assert await port.get(Image, namespace, "hello") == second
    with pytest.raises(Conflict):
        await port.apply(image("other", namespace).with_metadata(resource_version="1"))


async def test_what_is_taken_out_of_a_manifest_is_gone(port: Store, image: Make, namespace: str) -> None:
    full = image(namespace=namespace, args=["a"], env=[{"name": "A", "value": "1"}, {"name": "B"}], pool=1)
    await port.apply(full.with_metadata(labels={"a": "b"}, annotations={"c": "d"}))
    bare, did = await port.apply(image(namespace=namespace, env=[{"name": "B"}]))
    assert did == "configured"
    assert (bare.metadata.labels, bare.metadata.annotations) == ({}, {})
    assert (bare.spec.args, bare.spec.pool, [variable.name for variable in bare.spec.env]) == ((), 4, ["B"])


async def test_list_is_by_namespace_and_name(port: Store, image: Make, namespace: str, other_namespace: str) -> None:
    for place, name in [(other_namespace, "y"), (other_namespace, "x"), (namespace, "z")]:
        await port.apply(image(name, place))
    everything = [(each.namespace, each.name) for each in await port.list(Image)]
    mine = [found for found in everything if found[0] in {namespace, other_namespace}]
    assert mine == sorted([(namespace, "z"), (other_namespace, "x"), (other_namespace, "y")])
    assert [each.name for each in await port.list(Image, other_namespace)] == ["x", "y"]
    assert await port.list(Image, "nobody-lives-here") == []


async def test_delete_ends_a_life(port: Store, image: Make, namespace: str) -> None:
    first, _ = await port.apply(image(namespace=namespace))
    await port.delete(Image, namespace, "hello")
    with pytest.raises(NotFound):
        await port.get(Image, namespace, "hello")
    with pytest.raises(NotFound):
        await port.delete(Image, namespace, "hello")
    again, did = await port.apply(image(namespace=namespace))
    assert did == "created"
    assert again.metadata.uid != first.metadata.uid
    assert again.generation == 1


async def test_report_for_a_former_life_is_refused(port: Store, image: Make, namespace: str) -> None:
    first, _ = await port.apply(image(namespace=namespace))
    await port.delete(Image, namespace, "hello")
    with pytest.raises(NotFound):
        await port.patch_status(Image, namespace, "hello", ready())
    await port.apply(image(namespace=namespace))
    with pytest.raises(NotFound):
        await port.patch_status(Image, namespace, "hello", ready(), uid=first.metadata.uid)


async def test_reports_merge(port: Store, image: Make, namespace: str) -> None:
    await port.apply(image(namespace=namespace))
    said = StatusPatch(observed_generation=1, digest=DIGEST, revision="0" * 16, message="text", conditions=(condition("Pulled"),))
    await port.patch_status(Image, namespace, "hello", said)
    await port.patch_status(Image, namespace, "hello", ready(Truth.FALSE, "why"))
    cleared = await port.patch_status(Image, namespace, "hello", StatusPatch(message=None))
    assert (cleared.status.digest, cleared.status.revision, cleared.status.message) == (DIGEST, "0" * 16, None)
    assert {each.type: (each.status, each.message) for each in cleared.status.conditions} == {
        "Pulled": (Truth.TRUE, ""),
        "Ready": (Truth.FALSE, "why"),
    }
    assert await port.get(Image, namespace, "hello") == cleared


async def test_report_that_says_nothing_new_writes_nothing(port: Store, image: Make, namespace: str) -> None:
    await port.apply(image(namespace=namespace))
    first = await port.patch_status(Image, namespace, "hello", ready())
    again = await port.patch_status(Image, namespace, "hello", ready())
    assert again.metadata.resource_version == first.metadata.resource_version


async def test_writers_that_report_at_once_lose_nothing(port: Store, image: Make, namespace: str) -> None:
    await port.apply(image(namespace=namespace))

    async def report(type_: str) -> None:
        for number in range(5):
            patch = StatusPatch(conditions=(condition(type_, message=str(number)),))
            await port.patch_status(Image, namespace, "hello", patch)

    await asyncio.gather(*(report(type_) for type_ in ("Pulled", "Published", "Ready")))
    found = await port.get(Image, namespace, "hello")
    assert {each.type: each.message for each in found.status.conditions} == dict.fromkeys(("Pulled", "Published", "Ready"), "4")


@pytest.mark.parametrize(("place", "name"), [("..", "x"), ("a", "../x"), ("a", ""), ("function", "x")])
async def test_names_are_checked_before_anything_is_asked(port: Store, place: str, name: str) -> None:
    with pytest.raises(InvalidResource):
        await port.get(Image, place, name)
    with pytest.raises(InvalidResource):
        await port.delete(Image, place, name)


async def test_watch_begins_with_what_is_there(port: Store, image: Make, namespace: str, port_watcher: Watch) -> None:
    await port.apply(image("a", namespace))
    await port.apply(image("b", namespace))
    assert [each.name for each in await port_watcher().synced()] == ["a", "b"]


async def test_changes_of_spec_and_status_are_told(port: Store, image: Make, namespace: str, port_watcher: Watch) -> None:
    watch = port_watcher()
    assert await watch.synced() == []
    applied, _ = await port.apply(image(namespace=namespace))
    assert await watch.next() == Event(EventType.ADDED, applied)
    applied, _ = await port.apply(image(namespace=namespace, pool=1))
    assert await watch.next() == Event(EventType.MODIFIED, applied)
    reported = await port.patch_status(Image, namespace, "hello", ready())
    assert await watch.next() == Event(EventType.MODIFIED, reported)
    await port.delete(Image, namespace, "hello")
    assert await watch.next() == Event(EventType.DELETED, reported)
    assert await watch.silent(0.5)


async def test_looking_is_no_change(port: Store, image: Make, namespace: str, port_watcher: Watch) -> None:
    await port.apply(image(namespace=namespace))
    watch = port_watcher()
    await watch.synced()
    await port.list(Image)
    await port.apply(image(namespace=namespace))
    assert await watch.silent(0.5)


async def test_deleted_and_created_again_is_another_life(port: Store, image: Make, namespace: str, port_watcher: Watch) -> None:
    first, _ = await port.apply(image(namespace=namespace))
    watch = port_watcher()
    await watch.synced()
    await port.delete(Image, namespace, "hello")
    second, _ = await port.apply(image(namespace=namespace))
    assert await watch.next() == Event(EventType.DELETED, first)
    assert await watch.next() == Event(EventType.ADDED, second)


async def test_several_watchers_see_the_same(port: Store, image: Make, namespace: str, port_watcher: Watch) -> None:
    first, second = port_watcher(), port_watcher()
    await first.synced()
    await second.synced()
    await port.apply(image(namespace=namespace))
    assert (await first.next()) == (await second.next())
    await port.delete(Image, namespace, "hello")
    assert (await first.next()).type is (await second.next()).type is EventType.DELETED
