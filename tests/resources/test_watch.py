"""Watching the directory store: every change is told once, and only changes are."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from faas_resources import ConditionReport, Image, StatusPatch, Truth, dump_manifests
from faas_resources.store import Event, EventType, directory
from faas_resources.store.directory import VANISHED, DirectoryStore
from faas_resources.store.port import Key
from faas_resources.store.tree import SETTLE
from tests.resources.conftest import Watcher

Make = Callable[..., Image]
Watch = Callable[[], Watcher]


def file_of(root: Path, name: str = "hello", namespace: str = "default") -> Path:
    return root / "resources" / namespace / "images" / f"{name}.yaml"


def ready() -> StatusPatch:
    return StatusPatch(conditions=(ConditionReport(type="Ready", status=Truth.TRUE, reason="Any"),))


async def test_file_that_a_person_removes_is_a_deletion(store: DirectoryStore, image: Make, watcher: Watch, tmp_path: Path) -> None:
    applied, _ = await store.apply(image())
    watch = watcher()
    await watch.synced()
    file_of(tmp_path).unlink()
    assert await watch.next() == Event(EventType.DELETED, applied)
    again, _ = await store.apply(image())
    assert again.metadata.uid != applied.metadata.uid


async def test_deletion_while_nobody_watched_is_no_longer_there(store: DirectoryStore, image: Make, watcher: Watch, tmp_path: Path) -> None:
    first, _ = await store.apply(image())
    file_of(tmp_path).unlink()
    watch = watcher()
    assert await watch.synced() == []
    assert await watch.silent(VANISHED * 2)
    file_of(tmp_path).write_text(dump_manifests([image().manifest()]))
    assert (await store.get(Image, "default", "hello")).metadata.uid != first.metadata.uid


async def test_renamed_file_is_a_deletion_and_an_addition(store: DirectoryStore, image: Make, watcher: Watch, tmp_path: Path) -> None:
    await store.apply(image("old"))
    watch = watcher()
    await watch.synced()
    path = file_of(tmp_path, "old")
    path.write_text(path.read_text().replace("name: old", "name: new"))
    path.rename(file_of(tmp_path, "new"))
    told = {(event.type, event.resource.name) for event in (await watch.next(), await watch.next()) if event.resource is not None}
    assert told == {(EventType.DELETED, "old"), (EventType.ADDED, "new")}


async def test_editor_that_takes_the_file_away_first_deletes_nothing(
    store: DirectoryStore, image: Make, watcher: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "VANISHED", 60.0)  # the editor is quicker, however busy the machine is
    looks: list[set[Key]] = []
    keys = store._tree.keys

    def seen(kind: type[Image]) -> set[Key]:
        looks.append(keys(kind))
        return looks[-1]

    await store.apply(image())
    watch = watcher()
    await watch.synced()
    path = file_of(tmp_path)
    monkeypatch.setattr(store._tree, "keys", seen)
    path.rename(path.with_name("hello.yaml~"))
    waiting = asyncio.create_task(watch.next())
    async with asyncio.timeout(5):
        while sum(("default", "hello") not in look for look in looks) < 2:  # noqa: ASYNC110 — a look that tells nothing tells nobody
            await asyncio.sleep(0.002)
    path.write_text(dump_manifests([image(pool=1).manifest()]))
    event = await waiting
    assert event.type is EventType.MODIFIED
    assert event.resource is not None
    assert (event.resource.spec.pool, event.resource.generation) == (1, 2)


async def test_file_written_slowly_in_place_is_taken_when_it_is_quiet(
    store: DirectoryStore, image: Make, watcher: Watch, tmp_path: Path
) -> None:
    await store.apply(image())
    watch = watcher()
    await watch.synced()
    text = dump_manifests([image(args=["one", "two"], pool=1).manifest()])
    with file_of(tmp_path).open("w") as file:
        for line in text.splitlines(keepends=True):  # some of these beginnings are good manifests of something else
            file.write(line)
            file.flush()
            await asyncio.sleep(SETTLE / 10)
    event = await watch.next()
    assert event.type is EventType.MODIFIED
    assert event.resource is not None
    assert (event.resource.spec.args, event.resource.spec.pool, event.resource.generation) == (("one", "two"), 1, 2)
    assert await watch.silent(SETTLE * 3)


async def test_broken_file_is_told_with_its_message_and_mended_again(
    store: DirectoryStore, image: Make, watcher: Watch, tmp_path: Path
) -> None:
    good, _ = await store.apply(image())
    watch = watcher()
    await watch.synced()
    file_of(tmp_path).write_text("kind: [")
    event = await watch.next()
    assert event.type is EventType.MODIFIED
    assert event.resource is not None
    assert event.resource.spec == good.spec
    assert "is not YAML" in (event.resource.status.message or "")
    file_of(tmp_path).write_text(dump_manifests([good.manifest()]))
    event = await watch.next()
    assert event.resource is not None
    assert (event.resource.status.message, event.resource.generation) == (None, 1)


async def test_namespaces_that_appear_and_go_are_followed(store: DirectoryStore, image: Make, watcher: Watch, tmp_path: Path) -> None:
    watch = watcher()
    await watch.synced()
    for number in range(5):
        await store.apply(image(namespace=f"n{number}"))
    added = [await watch.next() for _ in range(5)]
    assert sorted(event.resource.namespace for event in added if event.resource) == [f"n{number}" for number in range(5)]
    shutil.rmtree(tmp_path / "resources" / "n0")
    event = await watch.next()
    assert event.resource is not None
    assert (event.type, event.resource.namespace) == (EventType.DELETED, "n0")


async def test_several_watchers_see_the_same(store: DirectoryStore, image: Make, watcher: Watch, tmp_path: Path) -> None:
    first, second = watcher(), watcher()
    await first.synced()
    await second.synced()
    await store.apply(image())
    file = file_of(tmp_path)
    assert (await first.next()) == (await second.next())
    os.unlink(file)
    assert (await first.next()).type is (await second.next()).type is EventType.DELETED
