"""A disk without space or inodes: nothing is published by halves, the old revision stays, and room is enough to go on.

Each test has a small tmpfs of its own, mounted in a mount namespace that a forked child makes for itself; nobody else sees it.
"""

from __future__ import annotations

import ctypes
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import Bundle, Deployment, Digest, RevisionStore, StorageFull
from tests.bundles.conftest import ROOT, eventually
from tests.bundles.images import build, directory, file

pytestmark = [ROOT]

PAGE = 4096
NEW_MOUNT_NAMESPACE = 0x00020000
PRIVATE_EVERYWHERE = (1 << 18) | (1 << 14)


def on_small_disk(place: Path, options: str, work: Callable[[Path], None]) -> None:
    """Runs `work` in a forked child with a tmpfs of these options at the path that it is given."""
    disk = place / "disk"
    disk.mkdir()
    child = os.fork()
    if child == 0:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            for result in (
                libc.unshare(NEW_MOUNT_NAMESPACE),
                libc.mount(b"none", b"/", None, ctypes.c_ulong(PRIVATE_EVERYWHERE), None),
                libc.mount(b"none", os.fsencode(disk), b"tmpfs", ctypes.c_ulong(0), options.encode()),
            ):
                if result != 0:
                    raise OSError(
                        ctypes.get_errno(), "cannot mount a tmpfs in a mount namespace; the tests of full disks need CAP_SYS_ADMIN"
                    )
            work(disk)
            os._exit(0)
        except BaseException:  # noqa: BLE001 - whatever it is, it is shown here and fails the parent
            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "see the traceback of the child above"


def deployment(**fields: Any) -> Deployment:
    return Deployment(**{"namespace": "default", "name": "hello", "reference": "host.example/hello", **fields})


def small(store: RevisionStore, content: str) -> Digest:
    return build(store.layout, [directory("d"), *(file(f"d/{number}", content.encode()) for number in range(10))])


def check(store: RevisionStore, allowed: dict[str, Digest]) -> Bundle:
    """Something is current, it is whole, and nothing is left of what failed."""
    bundle = store.current("default", "hello")
    assert bundle
    contents = {path.read_text() for path in (bundle.rootfs / "d").iterdir()}
    assert len(list((bundle.rootfs / "d").iterdir())) == 10
    assert contents == {next(content for content, image in allowed.items() if image == bundle.spec.image)}
    assert list((store.root / "tmp").iterdir()) == []
    assert list(store.layout.path.glob(".tmp*")) == []
    return bundle


def refused(work: Callable[[], object]) -> bool:
    message = ""
    try:
        work()
    except StorageFull as error:
        message = str(error)
    assert not message or "make room" in message
    return bool(message)


def room(disk: Path) -> tuple[int, int]:
    """Free pages and inodes."""
    status = os.statvfs(disk)
    return status.f_bfree, status.f_ffree


def test_a_blob_larger_than_the_disk(place: Path) -> None:
    def work(disk: Path) -> None:
        store = RevisionStore(disk / "bundles")
        old = small(store, "old")
        store.publish(deployment(), old)
        before = room(disk)
        zeros = bytes(20 << 20)
        assert refused(lambda: store.layout.put(zeros))
        assert room(disk) == before
        check(store, {"old": old})

    on_small_disk(place, "size=8m", work)


def test_an_image_that_unpacks_to_more_than_the_disk(place: Path) -> None:
    def work(disk: Path) -> None:
        store = RevisionStore(disk / "bundles")
        old = small(store, "old")
        store.publish(deployment(), old)
        large = build(store.layout, [file("zeros", bytes(20 << 20))])
        many = build(store.layout, [file(str(number)) for number in range(1000)])
        before = room(disk)
        for image in (large, many):
            assert refused(lambda image=image: store.publish(deployment(), image))  # type: ignore[misc]
            check(store, {"old": old})
            eventually(lambda: room(disk) == before)  # the kernel lets go of umoci's landlock rules a little later
        store.collect()
        store.publish(deployment(), small(store, "new"))

    on_small_disk(place, "size=8m,nr_inodes=500", work)


def sweep(fill: Callable[[Path, int], None]) -> Callable[[Path], None]:
    """An update with room for nothing, for a little, for a little more…, until it succeeds: it fails at every place where it can."""

    def work(disk: Path) -> None:
        store = RevisionStore(disk / "bundles")
        images = {"old": small(store, "old"), "new": small(store, "new")}
        manifests = {digest: store.layout.read(digest, 1 << 20) for digest in store.layout.blobs()}

        def update() -> None:
            with store.working():
                for data in manifests.values():
                    store.layout.put(data)
                store.publish(deployment(env={"LONG": "x" * 100_000}), images["new"])

        succeeded = failed = 0
        for space in range(200):
            store.publish(deployment(), images["old"])
            store.collect(keep=[images["old"]])
            fill(disk, space)
            if refused(update):
                failed += 1
                assert check(store, images).spec.image == images["old"]
            else:
                succeeded += 1
                assert check(store, images).spec.image == images["new"]
            store.collect()  # works without room
            check(store, images)
            for path in (disk / "filler").iterdir():
                path.unlink()
            update()
            assert check(store, images).spec.image == images["new"]
            if succeeded > 2:
                break
        assert failed > 15
        assert succeeded > 0

    return work


def fill_space(disk: Path, space: int) -> None:
    """Leaves `space` pages."""
    (disk / "filler").mkdir(exist_ok=True)
    with open(disk / "filler/pages", "wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, max(room(disk)[0] - space, 1) * PAGE)


def fill_inodes(disk: Path, space: int) -> None:
    """Leaves `space` inodes."""
    (disk / "filler").mkdir(exist_ok=True)
    for number in range(room(disk)[1] - space):
        (disk / f"filler/{number}").touch()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_space_that_ends_at_any_place(place: Path) -> None:
    on_small_disk(place, "size=2m", sweep(fill_space))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_inodes_that_end_at_any_place(place: Path) -> None:
    on_small_disk(place, "size=8m,nr_inodes=150", sweep(fill_inodes))
