"""The store: what is published is whole, what is current stays, what nobody needs goes."""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from bundles import (
    BlobMissing,
    Bundle,
    BundlesError,
    Collected,
    ConfigError,
    Deployment,
    Descriptor,
    Digest,
    LimitExceeded,
    Limits,
    RevisionError,
    RevisionGone,
    RevisionStore,
    StoreBusy,
    UnpackError,
    durable,
    read_image,
    revision_id,
)
from bundles.manifests import OCI_MANIFEST
from tests.bundles.images import Layer, build, file

NOTHING = Collected(0, 0, 0, 0)


def deployment(name: str = "hello", **fields: Any) -> Deployment:
    return Deployment(**{"namespace": "default", "name": name, "reference": "host.example/hello", **fields})


def make(store: RevisionStore, content: str = "one") -> Digest:
    return build(store.layout, [file("hello", content.encode(), mode=0o755)])


def current(store: RevisionStore, name: str = "hello") -> Bundle:
    bundle = store.current("default", name)
    assert bundle
    return bundle


def left(store: RevisionStore) -> list[str]:
    """All there is, down to revisions and images."""
    found = [
        path
        for pattern in ("revisions/*/*/*", "unpacked/*", "layout/blobs/sha256/*", "tmp/*", "layout/.tmp*")
        for path in store.root.glob(pattern)
    ]
    return sorted(path.name for path in found)


# Publishing


def test_a_published_function_is_a_bundle(store: RevisionStore) -> None:
    image, wanted = make(store), deployment(port=9000, contract="stdin", env={"A": "b"})
    bundle = store.publish(wanted, image)
    assert bundle == current(store)
    assert bundle.path == store.root / "revisions/default/hello" / revision_id(image, wanted)
    assert sorted(path.name for path in bundle.path.iterdir()) == ["config.json", "function.json"]
    assert bundle.rootfs == store.root / f"unpacked/sha256-{image.hex}/rootfs"
    assert (bundle.rootfs / "hello").read_bytes() == b"one"
    assert os.readlink(bundle.path.parent / "current") == bundle.spec.revision
    assert (bundle.spec.image, bundle.spec.port, bundle.spec.contract, bundle.spec.reference) == (
        image,
        9000,
        "stdin",
        "host.example/hello",
    )
    config = json.loads((bundle.path / "config.json").read_text())
    assert config["root"]["path"] == str(bundle.rootfs)
    assert config["process"]["args"] == ["/hello"]
    assert list(store.functions()) == [bundle]
    assert store.unpacked(image) == bundle.rootfs
    assert not any((store.root / "tmp").iterdir())


def test_nobody_else_on_the_machine_can_look_in(store: RevisionStore) -> None:
    store.publish(deployment(), make(store))
    for path in (store.root, *(path for path in store.root.rglob("*") if "rootfs" not in path.parts and not path.is_symlink())):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_the_same_again_changes_nothing(store: RevisionStore) -> None:
    image = make(store)
    first = store.publish(deployment(), image)
    before = [(str(path), path.lstat().st_ino, path.lstat().st_mtime_ns) for path in sorted(first.path.parent.rglob("*"))]
    assert store.publish(deployment(), image) == first
    assert [(str(path), path.lstat().st_ino, path.lstat().st_mtime_ns) for path in sorted(first.path.parent.rglob("*"))] == before


def test_an_unpacked_image_is_not_unpacked_again(store: RevisionStore) -> None:
    image = make(store)
    first = store.publish(deployment(), image)
    inode = first.rootfs.stat().st_ino
    layers = read_image(store.layout, image)[0].layers
    store.layout.remove(layers[0].digest)  # could not be unpacked now
    second = store.publish(deployment("other", pool=1), image)
    assert second.rootfs.stat().st_ino == inode


@pytest.mark.parametrize(
    "change",
    [
        {"pool": 1},
        {"env": {"A": "b"}},
        {"command": ["/x"]},
        {"args": ["x"]},
        {"port": 1},
        {"name": "other"},
        {"namespace": "other"},
        {"timeout_ms": 1},
    ],
)
def test_whatever_makes_another_bundle_makes_another_revision(change: dict[str, Any]) -> None:
    image = Digest.of(b"image")
    assert revision_id(image, deployment()) == revision_id(image, deployment())
    assert revision_id(image, deployment(**change)) != revision_id(image, deployment())
    assert revision_id(Digest.of(b"other"), deployment()) != revision_id(image, deployment())


def test_a_changed_image_or_specification_becomes_current(store: RevisionStore) -> None:
    first = store.publish(deployment(), make(store, "one"))
    second = store.publish(deployment(), make(store, "two"))
    third = store.publish(deployment(pool=9), make(store, "two"))
    assert len({first.path, second.path, third.path}) == 3
    assert current(store) == third
    assert second.rootfs == third.rootfs
    assert first.path.is_dir()  # until it is collected
    assert store.publish(deployment(), make(store, "one")) == first
    assert current(store) == first


def test_a_failure_leaves_the_old_revision_current(store: RevisionStore) -> None:
    good = store.publish(deployment(), make(store))
    hostile = build(store.layout, [file("a"), file("a/b")])
    bomb = build(store.layout, [file("a", bytes(100_000))])
    missing = build(store.layout, Layer.of([file("gone")]))
    store.layout.remove(read_image(store.layout, missing)[0].layers[0].digest)
    with pytest.raises(UnpackError):
        store.publish(deployment(), hostile)
    with pytest.raises(LimitExceeded):
        store.publish(deployment(), bomb, limits=Limits(bytes=1000))
    with pytest.raises(BlobMissing):
        store.publish(deployment(), missing)
    with pytest.raises(BlobMissing):
        store.publish(deployment(), Digest.of(b"never pulled"))
    with pytest.raises(ConfigError):
        store.publish(deployment(env={"1": "x"}), make(store))
    assert current(store) == good
    assert not any((store.root / "tmp").iterdir())
    assert [path.name for path in (store.root / "unpacked").iterdir()] == [f"sha256-{good.spec.image.hex}"]


def test_a_blob_that_the_disk_altered_is_removed_so_that_it_is_fetched_again(store: RevisionStore) -> None:
    layer = Layer.of([file("a", b"one")], compress=False)
    image = build(store.layout, layer)
    for digest in (Digest.of(layer.blob), read_image(store.layout, image)[0].config.digest, image):
        path = store.layout.blob_path(digest)
        sound = path.read_bytes()
        path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
        with pytest.raises(BlobMissing, match=f"blob {digest} was altered on disk and has been removed; fetch it again"):
            store.publish(deployment(), image)
        assert not store.layout.has(digest)
        store.layout.put(sound)
    store.publish(deployment(), image)


# Reading


@pytest.mark.parametrize(
    ("namespace", "name"),
    [("default", "none"), ("..", "tmp"), ("default", ".."), ("default", "."), ("", ""), ("a/b", "c"), ("default", "a\0b")],
)
def test_a_name_of_no_function_is_none(store: RevisionStore, namespace: str, name: str) -> None:
    store.publish(deployment(), make(store))
    assert store.current(namespace, name) is None
    store.unpublish(namespace, name)


def test_an_unpublished_function_is_gone_at_once(store: RevisionStore) -> None:
    bundle = store.publish(deployment(), make(store))
    store.unpublish("default", "hello")
    store.unpublish("default", "hello")
    assert store.current("default", "hello") is None
    assert list(store.functions()) == []
    assert bundle.path.is_dir()


@pytest.mark.parametrize("damage", ["truncated", "missing", "no image", "dangling", "elsewhere", "directory"])
def test_a_damaged_bundle_is_named_and_takes_no_other_along(store: RevisionStore, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    image = make(store)
    good, bad = store.publish(deployment("good"), make(store, "good")), store.publish(deployment("bad"), image)
    link = bad.path.parent / "current"
    if damage == "truncated":
        (bad.path / "function.json").write_text('{"version":1')
    elif damage == "missing":
        (bad.path / "function.json").unlink()
    elif damage == "no image":
        bad.rootfs.rename(bad.rootfs.parent / "aside")
    else:
        link.unlink()
        if damage == "directory":
            link.mkdir()
        else:
            link.symlink_to("0" * 16 if damage == "dangling" else "../good")
    with pytest.raises(RevisionError, match="bad"):
        store.current("default", "bad")
    with caplog.at_level(logging.ERROR):
        assert list(store.functions()) == [good]
    assert "bad" in caplog.text
    if damage == "directory":
        link.rmdir()
    if damage == "no image":
        (bad.rootfs.parent / "aside").rename(bad.rootfs)
    assert store.publish(deployment("bad"), image) == bad
    assert current(store, "bad") == bad


# Collecting


def test_what_is_current_stays_with_all_it_needs(store: RevisionStore) -> None:
    bundle = store.publish(deployment(), make(store))
    assert store.collect() == NOTHING
    assert current(store) == bundle
    assert bundle.rootfs.is_dir()
    assert len(left(store)) == 2 + 1 + 3
    store.publish(deployment("other"), bundle.spec.image)
    assert store.collect() == NOTHING


def test_what_was_replaced_goes_with_all_that_only_it_needs(store: RevisionStore) -> None:
    shared = [file("shared")]
    old = build(store.layout, shared, [file("old")])
    new = build(store.layout, shared, [file("new")])
    store.publish(deployment(), old)
    bundle = store.publish(deployment(), new)
    assert store.collect() == Collected(revisions=1, images=1, blobs=3, leftovers=0)  # manifest, configuration, one layer
    assert current(store) == bundle
    needed = [new, *(blob.digest for blob in read_image(store.layout, new)[0].blobs)]
    assert sorted(store.layout.blobs()) == sorted(needed)
    assert store.collect() == NOTHING


def test_an_unpublished_function_leaves_nothing(store: RevisionStore) -> None:
    store.publish(deployment(), make(store))
    store.publish(deployment(), make(store, "two"))
    store.unpublish("default", "hello")
    assert store.collect() == Collected(revisions=2, images=2, blobs=6, leftovers=0)
    assert left(store) == []
    assert list(store.revisions.iterdir()) == []


def test_what_is_to_be_kept_stays(store: RevisionStore) -> None:
    image = make(store)
    store.publish(deployment(), image)
    store.unpublish("default", "hello")
    assert store.collect(keep=[image]) == Collected(revisions=1, images=0, blobs=0, leftovers=0)
    assert store.unpacked(image)
    assert store.collect() == Collected(revisions=0, images=1, blobs=3, leftovers=0)


def test_a_held_revision_stays_until_the_last_holder_lets_go(store: RevisionStore) -> None:
    old = store.publish(deployment(), make(store, "old"))
    with old.hold():
        with old.hold():
            store.publish(deployment(), make(store, "new"))
            assert store.collect() == NOTHING
        assert store.collect() == NOTHING
        assert (old.rootfs / "hello").read_bytes() == b"old"
        store.unpublish("default", "hello")
        assert store.collect().revisions == 1  # the new one
        assert (old.rootfs / "hello").read_bytes() == b"old"
    assert store.collect() == Collected(revisions=1, images=1, blobs=3, leftovers=0)
    with pytest.raises(RevisionGone, match="look up the current one again"), old.hold():
        pass
    assert store.collect() == NOTHING


def test_the_current_revision_can_be_held_and_published_again(store: RevisionStore) -> None:
    image = make(store)
    with store.publish(deployment(), image).hold():
        assert store.publish(deployment(), image) == current(store)


def test_nothing_is_collected_while_somebody_works(store: RevisionStore) -> None:
    store.layout.put(b"being pulled")
    with store.working():
        with store.working(), pytest.raises(StoreBusy, match="collect later"):
            store.collect()
        with pytest.raises(StoreBusy):
            store.collect()
    assert store.collect().blobs == 1


def test_others_work_while_rubbish_is_removed_but_do_not_collect(store: RevisionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = make(store, "old"), make(store, "new")
    store.publish(deployment(), old)
    store.publish(deployment(), new)
    remove_tree, worked = durable.remove_tree, []

    def removing(path: Path) -> None:
        if "discarded" in path.name:
            with pytest.raises(StoreBusy):
                store.collect()
            worked.append(store.publish(deployment("meanwhile"), make(store, "meanwhile")))
        remove_tree(path)

    monkeypatch.setattr(durable, "remove_tree", removing)
    store.collect()
    monkeypatch.undo()
    assert len(worked) == 2  # a revision and an image were thrown away
    assert store.collect() == NOTHING
    assert {bundle.spec.image for bundle in store.functions()} == {new, worked[0].spec.image}


def test_leftovers_of_every_kind_are_collected(store: RevisionStore) -> None:
    bundle = store.publish(deployment(), make(store))
    (store.root / "tmp/image-1").mkdir()
    (store.root / "tmp/image-1/rootfs").mkdir(mode=0o000)
    (store.root / "tmp/current-1").symlink_to("x")
    (store.layout.path / ".tmp-1").write_text("half a blob")
    (store.root / f"unpacked/sha256-{'0' * 64}").mkdir()
    (bundle.path.parent / "notes.txt").write_text("who knows")
    (bundle.path.parent / ("0" * 16)).mkdir()
    (bundle.path.parent / ("1" * 16)).symlink_to("/etc")
    (store.revisions / "default/empty").mkdir()
    store.layout.link("gone", Descriptor(media_type=OCI_MANIFEST, digest=Digest.of(b"gone"), size=4))
    store.layout.link("here", Descriptor(media_type=OCI_MANIFEST, digest=bundle.spec.image, size=4))
    assert store.collect() == Collected(revisions=3, images=1, blobs=0, leftovers=3)
    assert store.collect() == NOTHING
    assert current(store) == bundle
    assert list(store.layout.refs()) == ["here"]
    assert not (store.revisions / "default/empty").exists()


def test_a_damaged_revision_does_not_stop_collecting(store: RevisionStore, caplog: pytest.LogCaptureFixture) -> None:
    bad = store.publish(deployment("bad"), make(store, "bad"))
    (bad.path / "function.json").write_text("")
    odd = store.publish(deployment("odd"), make(store, "odd"))
    (odd.path.parent / "current").unlink()
    (odd.path.parent / "current").symlink_to("/etc")
    store.publish(deployment(), make(store, "one"))
    good = store.publish(deployment(), make(store, "two"))
    with caplog.at_level(logging.ERROR):
        assert store.collect().revisions == 2
    assert "damaged" in caplog.text
    assert "nothing of default/odd is current" in caplog.text
    assert current(store) == good


def test_a_store_without_the_manifest_of_an_image_still_collects(store: RevisionStore) -> None:
    bundle = store.publish(deployment(), make(store))
    store.layout.remove(bundle.spec.image)
    assert store.collect().blobs == 2  # cannot be of use without the manifest
    assert current(store) == bundle


# Owners, threads


def test_a_store_has_one_owner(store: RevisionStore) -> None:
    with store.owned():
        with pytest.raises(StoreBusy, match="another process owns the bundle store"), RevisionStore(store.root).owned():
            pass
        store.publish(deployment(), make(store))
    with store.owned():
        pass


def test_an_error_of_the_caller_is_the_callers(store: RevisionStore) -> None:
    for block in (store.working(), store.owned(), store.publish(deployment(), make(store)).hold()):
        with pytest.raises(ConnectionResetError), block:
            raise ConnectionResetError


@pytest.mark.timeout(100)
def test_publishers_users_and_collectors_do_not_disturb_each_other(store: RevisionStore) -> None:
    """Each user must find what it holds, whatever the others do."""
    images = [make(store, str(number)) for number in range(3)]
    manifests = [
        (store.layout.read(image, 1 << 20), *(store.layout.read(b.digest, 1 << 20) for b in read_image(store.layout, image)[0].blobs))
        for image in images
    ]
    store.publish(deployment(), images[0])
    errors: list[Exception] = []
    done = threading.Event()
    counts = {"published": 0, "held": 0, "collected": 0}

    def attempt(work: Any) -> None:
        try:
            while not done.is_set():
                work()
        except (AssertionError, BundlesError, OSError) as error:
            errors.append(error)
            done.set()

    def publish() -> None:
        number = counts["published"] % 3
        with store.working():  # as the downloader does: what is pulled here stays until it is published
            for blob in manifests[number]:
                store.layout.put(blob)
            store.publish(deployment(), images[number])
        counts["published"] += 1
        if counts["published"] >= 30 and counts["collected"] >= 10:
            done.set()

    def use() -> None:
        bundle = current(store)
        try:
            with bundle.hold():
                content = (bundle.rootfs / "hello").read_text()
                assert images[int(content)] == bundle.spec.image
                assert json.loads((bundle.path / "config.json").read_text())["root"]["path"] == str(bundle.rootfs)
                counts["held"] += 1
        except RevisionGone:
            pass

    def collect() -> None:
        try:
            store.collect()
            counts["collected"] += 1
        except StoreBusy:
            done.wait(0.001)

    threads = [threading.Thread(target=attempt, args=(work,)) for work in (publish, use, use, collect)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert errors == []
    assert counts["held"] > 0
    store.collect()
    assert len(left(store)) == 2 + 1 + 3


def test_one_image_wanted_by_many_is_unpacked_once(store: RevisionStore) -> None:
    image = make(store)
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda name: found.append(store.publish(deployment(name), image).rootfs), args=(f"f{number}",))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert len(list(store.functions())) == 8
    assert not any((store.root / "tmp").iterdir())
