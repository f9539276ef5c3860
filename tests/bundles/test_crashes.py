"""kill -9 at every step and at any moment: afterwards the old revision is current or the new one, whole, and the rest is cleaned up.

The work of a downloader (pull, publish, collect) runs in a forked child that is killed; the parent looks at what is left.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import Collected, Deployment, Digest, RevisionStore, StoreBusy, durable, read_image
from tests.bundles.conftest import eventually
from tests.bundles.images import Layer, build, directory, file

FILES = 20
STEPS = ("fsync", "rename", "unlink", "rmdir", "mkdir", "symlink", "write")
"""What the store does to a disk; `sync_filesystem` is the other one."""


@pytest.fixture
def place(place_in_memory: Path) -> Path:
    """A killed process leaves the same in memory as on a disk; what a power cut leaves is for the last test."""
    return place_in_memory


def deployment(content: str) -> Deployment:
    return Deployment(namespace="default", name="hello", reference="host.example/hello", env={"CONTENT": content})


def pull(store: RevisionStore, content: str) -> Digest:
    """Puts an image into the store whose every file says `content`."""
    shared = Layer.of([directory("shared"), file("shared/file", b"shared")])
    return build(store.layout, shared, [directory("d"), *(file(f"d/{number}", content.encode()) for number in range(FILES))])


def update(store: RevisionStore, content: str) -> None:
    """One round of a downloader."""
    with store.working():
        store.publish(deployment(content), pull(store, content))
    store.collect()


def collect(store: RevisionStore) -> Collected:
    """Collects as soon as a killed child's umoci is gone, which the store's lock tells."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return store.collect()
        except StoreBusy:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def check(root: Path, allowed: set[str]) -> None:
    """Opens the store as a restarted process does, and looks at everything that has its final name."""
    store = RevisionStore(root)
    bundle = store.current("default", "hello")
    assert bundle
    config = json.loads((bundle.path / "config.json").read_text())
    (content,) = (item.removeprefix("CONTENT=") for item in config["process"]["env"] if item.startswith("CONTENT="))
    assert content in allowed
    assert {path.read_text() for path in (bundle.rootfs / "d").iterdir()} == {content}
    for tree in (root / "unpacked").iterdir():
        assert len(list((tree / "rootfs/d").iterdir())) == FILES
        assert len({path.read_text() for path in (tree / "rootfs/d").iterdir()}) == 1
        assert (tree / "rootfs/shared/file").read_text() == "shared"
    for revision in (root / "revisions/default/hello").iterdir():
        assert {path.name for path in revision.iterdir()} == {"config.json", "function.json"}
        assert all(json.loads(path.read_text()) for path in revision.iterdir())
    for digest in store.layout.blobs():
        assert Digest.of(store.layout.blob_path(digest).read_bytes()) == digest
    store.layout.refs()


def check_clean(root: Path, content: str) -> None:
    """The store holds exactly one function, with nothing left over."""
    store = RevisionStore(root)
    collect(store)
    check(root, {content})
    image = pull(store, content)
    assert [path.name for path in (root / "unpacked").iterdir()] == [f"sha256-{image.hex}"]
    assert len(list((root / "revisions/default/hello").iterdir())) == 2
    assert set(store.layout.blobs()) == {image, *(blob.digest for blob in read_image(store.layout, image)[0].blobs)}
    assert not list((root / "tmp").iterdir())
    assert not list((root / "layout").glob(".tmp*"))


def dies_at(step: int, work: Callable[[], None]) -> bool:
    """Does `work` in a forked child that kills itself just before the change of the disk with this number. False: there are fewer."""
    child = os.fork()
    if child == 0:
        seen = 0

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(*arguments: Any, **options: Any) -> Any:
                nonlocal seen
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1
                return function(*arguments, **options)

            return wrapper

        try:
            for name in STEPS:
                setattr(os, name, counted(getattr(os, name)))
            durable.sync_filesystem = counted(durable.sync_filesystem)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_at_every_step_of_an_update(store: RevisionStore, place: Path) -> None:
    update(store, "old")
    shutil.copytree(store.root, place / "before", symlinks=True)

    def work() -> None:
        update(RevisionStore(store.root), "new")

    for step in range(1000):
        if not dies_at(step, work):
            break
        check(store.root, {"old", "new"})
        work()  # what the restarted downloader does
        check_clean(store.root, "new")
        durable.remove_tree(store.root)
        shutil.copytree(place / "before", store.root, symlinks=True)
    assert step > 50
    check_clean(store.root, "new")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_at_every_step_of_the_first_publishing_and_of_a_removal(place: Path) -> None:
    root = place / "bundles"

    def work() -> None:
        store = RevisionStore(root)
        update(store, "first")
        store.unpublish("default", "hello")
        store.collect()

    for step in range(1000):
        if not dies_at(step, work):
            break
        store = RevisionStore(root)
        if store.current("default", "hello"):
            check(root, {"first"})
        collect(store)
        update(store, "second")
        check_clean(root, "second")
        durable.remove_tree(root)
    assert step > 80
    store = RevisionStore(root)
    assert list(store.functions()) == []
    assert list(store.layout.blobs()) == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_at_any_moment(store: RevisionStore) -> None:
    """200 kills at random moments of updates, umoci at work included."""
    generator = random.Random(20240229)
    update(store, "0")

    def work(number: int) -> None:
        fresh = RevisionStore(store.root)
        for turn in range(100):
            update(fresh, str((number + turn) % 3))

    for number in range(200):
        child = os.fork()
        if child == 0:
            try:
                work(number)
            finally:
                os._exit(1)
        time.sleep(generator.uniform(0, 0.12))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        check(store.root, {"0", "1", "2"})
        if number % 20 == 0:
            collect(RevisionStore(store.root))
            update(RevisionStore(store.root), "0")
            check_clean(store.root, "0")


def children(parent: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def gone(process: int) -> bool:
    try:
        return "(zombie)" in Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_umoci_dies_with_the_process_that_started_it(store: RevisionStore) -> None:
    update(store, "old")
    image = build(store.layout, [file("zeros", bytes(200_000_000))])
    child = os.fork()
    if child == 0:
        try:
            store.publish(deployment("new"), image)
        finally:
            os._exit(1)
    eventually(lambda: list((store.root / "tmp").glob("*/rootfs/zeros")))
    (umoci,) = children(child)
    os.kill(umoci, signal.SIGSTOP)  # so that it cannot come to its end by itself
    try:
        descriptors = [os.readlink(path) for path in Path(f"/proc/{umoci}/fd").iterdir()]
        assert str(store.root / "tmp") in descriptors  # nobody collects under it, however long it takes to die
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        eventually(lambda: gone(umoci))
    finally:
        if not gone(umoci):
            os.kill(umoci, signal.SIGKILL)
    check(store.root, {"old"})
    assert collect(store).leftovers == 1
    check_clean(store.root, "old")


def test_everything_is_durable_before_its_name_leads_to_it(store: RevisionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut needs: at each rename all that is renamed was synced, and the directory of the new name is synced next."""
    update(store, "old")
    synced: set[str] = set()
    pending: list[str] = []
    renames = 0
    fsync, rename, sync_filesystem = os.fsync, os.rename, durable.sync_filesystem

    def path_of(descriptor: int) -> str:
        return os.readlink(f"/proc/self/fd/{descriptor}")

    def watched_fsync(descriptor: int) -> None:
        fsync(descriptor)
        synced.add(path_of(descriptor))
        pending[:] = [path for path in pending if path != path_of(descriptor)]

    def watched_sync_filesystem(path: Path) -> None:
        sync_filesystem(path)
        synced.update(str(each) for each in (path, *path.rglob("*")))

    def watched_rename(source: Any, target: Any, **directories: int) -> None:
        nonlocal renames
        if not directories and "discarded" not in str(target):  # what is thrown away need not be kept
            assert not pending, f"{pending} was not synced before {target}"
            for each in (Path(source), *Path(source).rglob("*")):
                assert each.is_symlink() or str(each) in synced, f"{each} was not synced before it became {target}"
            pending.append(str(Path(target).parent))
            renames += 1
        rename(source, target, **directories)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "rename", watched_rename)
    monkeypatch.setattr(durable, "sync_filesystem", watched_sync_filesystem)
    update(store, "new")
    assert renames == 3 + 1 + 1 + 1  # manifest, configuration and one new layer; the image; the bundle; `current`
    assert not pending


def test_names_that_were_there_already_are_durable_before_something_relies_on_them(
    store: RevisionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be from a process that was killed between making and syncing them."""
    image = pull(store, "old")
    store.publish(deployment("old"), image)
    synced: list[Path] = []
    sync_directory = durable.sync_directory

    def watched(path: Path) -> None:
        sync_directory(path)
        synced.append(path)

    monkeypatch.setattr(durable, "sync_directory", watched)
    store.publish(deployment("new"), image)
    current = store.revisions / "default/hello"
    assert synced[-1] == current
    assert {store.root / "unpacked", store.revisions, current.parent} <= set(synced[:-1])
    synced.clear()
    store.publish(deployment("new"), image)
    assert synced == []
