"""The layout keeps verified blobs only, whole or not at all, and names for images."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path

import pytest

from bundles import BlobMissing, Descriptor, Digest, Layout, LayoutError, StorageError, VerificationError
from bundles.manifests import MAX_ENTRIES, OCI_MANIFEST
from tests.bundles.conftest import ROOT
from tests.bundles.images import build, file

DATA = b"hello" * 1000
D = Digest.of(DATA)


def files(layout: Layout) -> set[str]:
    return {str(path.relative_to(layout.path)) for path in layout.path.rglob("*") if path.is_file()}


def descriptor(layout: Layout, digest: Digest) -> Descriptor:
    return Descriptor(media_type=OCI_MANIFEST, digest=digest, size=layout.blob_path(digest).stat().st_size)


# Blobs


def test_a_blob_is_there_when_its_writer_has_ended(layout: Layout) -> None:
    assert not layout.has(D)
    with layout.writer(D, len(DATA)) as writer:
        for start in range(0, len(DATA), 999):
            writer.write(DATA[start : start + 999])
        assert writer.written == len(DATA)
        assert not layout.has(D)
    assert layout.has(D)
    assert layout.read(D, 1 << 20) == DATA
    assert b"".join(layout.chunks(D)) == DATA
    assert list(layout.blobs()) == [D]


@pytest.mark.parametrize(
    ("sent", "size"),
    [
        (DATA[:-1], len(DATA)),
        (DATA + b"x", len(DATA)),
        (DATA, len(DATA) - 1),
        (DATA, len(DATA) + 1),
        (DATA, -1),
        (DATA, 0),
        (b"jello" + DATA[5:], len(DATA)),
        (b"", len(DATA)),
    ],
)
def test_other_bytes_leave_nothing(layout: Layout, sent: bytes, size: int) -> None:
    before = files(layout)
    with pytest.raises(VerificationError), layout.writer(D, size) as writer:
        writer.write(sent)
    assert files(layout) == before


def test_an_interrupted_writer_leaves_nothing_and_its_reason_is_the_callers(layout: Layout) -> None:
    before = files(layout)

    def pull() -> None:
        with layout.writer(D, len(DATA)) as writer:
            writer.write(DATA[:10])
            raise ConnectionResetError  # an OSError, but not of this disk

    with pytest.raises(ConnectionResetError):
        pull()
    assert files(layout) == before


def test_two_writers_of_one_blob_agree(layout: Layout) -> None:
    with layout.writer(D, len(DATA)) as first, layout.writer(D, len(DATA)) as second:
        first.write(DATA)
        second.write(DATA)
    assert layout.read(D, 1 << 20) == DATA
    assert len(files(layout)) == 3


def test_an_altered_blob_is_noticed_and_discarded(layout: Layout) -> None:
    layout.put(DATA)
    other = layout.put(b"other")
    layout.blob_path(D).write_bytes(b"jello" + DATA[5:])
    with pytest.raises(VerificationError, match="altered on disk"):
        layout.read(D, 1 << 20)
    assert layout.discard_damaged([D, other, Digest.of(b"absent")]) == [D]
    assert list(layout.blobs()) == [other]


def test_a_missing_blob_is_named(layout: Layout) -> None:
    for read in (lambda: layout.read(D, 10), lambda: list(layout.chunks(D))):
        with pytest.raises(BlobMissing, match=str(D)):
            read()
    layout.remove(D)


def test_a_blob_larger_than_asked_for_is_not_read(layout: Layout) -> None:
    layout.put(DATA)
    with pytest.raises(LayoutError, match="more than 10 bytes"):
        layout.read(D, 10)


def test_links_and_pipes_in_the_place_of_a_blob_are_not_followed(layout: Layout, place: Path) -> None:
    (place / "secret").write_bytes(DATA)
    layout.blob_path(D).symlink_to(place / "secret")
    pipe = Digest.of(b"pipe")
    os.mkfifo(layout.blob_path(pipe))
    for digest in (D, pipe):
        assert not layout.has(digest)
        with pytest.raises(LayoutError, match="cannot be read"):
            layout.read(digest, 1 << 20)


def test_a_blob_is_copied_from_another_layout_and_verified(layout: Layout, place: Path) -> None:
    source = Layout.create(place / "source")
    source.put(DATA)
    layout.copy(source, D, len(DATA))
    assert layout.has(D)
    wrong = source.put(b"wrong")
    source.blob_path(wrong).write_bytes(b"WRONG")
    with pytest.raises(VerificationError):
        layout.copy(source, wrong, 5)
    assert not layout.has(wrong)


def test_leftovers_are_removed_and_foreign_files_passed_over(layout: Layout) -> None:
    layout.put(DATA)
    (layout.path / ".tmp--0123").write_bytes(b"half")
    (layout.blob_path(D).parent / "README").write_text("not a blob")
    assert layout.remove_leftovers() == 1
    assert layout.remove_leftovers() == 0
    assert list(layout.blobs()) == [D]


def test_a_disk_that_refuses_is_named(place: Path) -> None:
    (place / "file").write_text("")
    with pytest.raises(StorageError, match="making the image layout"):
        Layout.create(place / "file" / "layout")


# Names


def test_an_image_has_the_name_that_was_linked_last(layout: Layout) -> None:
    first, second = build(layout, [file("a")]), build(layout, [file("b")])
    layout.link("default/hello", descriptor(layout, first))
    layout.link("other", descriptor(layout, first))
    layout.link("default/hello", descriptor(layout, second))
    assert {name: found.digest for name, found in layout.refs().items()} == {"default/hello": second, "other": first}
    assert layout.resolve("default/hello").digest == second
    layout.unlink("default/hello")
    layout.unlink("never")
    assert layout.resolve().digest == first
    layout.retain_names({second})
    assert layout.refs() == {}


def test_a_name_that_is_not_there_or_not_the_only_one_is_explained(layout: Layout) -> None:
    with pytest.raises(LayoutError, match="no images; name one by its tag; its tags: none"):
        layout.resolve()
    image = build(layout, [file("a")])
    layout.link("v1", descriptor(layout, image))
    layout.link("v2", descriptor(layout, image))
    with pytest.raises(LayoutError, match=r"no images with tag 'v3'; its tags: v1, v2"):
        layout.resolve("v3")
    with pytest.raises(LayoutError, match=r"2 images; name one by its tag; its tags: v1, v2"):
        layout.resolve()


def test_a_name_given_twice_is_nobodys(layout: Layout) -> None:
    image = build(layout, [file("a")])
    layout.link("v1", descriptor(layout, image))
    document = json.loads((layout.path / "index.json").read_text())
    document["manifests"] *= 2
    (layout.path / "index.json").write_text(json.dumps(document))
    assert layout.refs() == {}
    with pytest.raises(LayoutError, match="2 images with tag 'v1'"):
        layout.resolve("v1")


@pytest.mark.parametrize("name", ["", "-x", "a b", "a\n", "x" * 256, "ä"])
def test_names_that_other_tools_cannot_use_are_refused(layout: Layout, name: str) -> None:
    with pytest.raises(LayoutError, match="cannot name an image"):
        layout.link(name, Descriptor(media_type=OCI_MANIFEST, digest=D, size=1))


def test_names_linked_at_the_same_time_are_all_there(layout: Layout) -> None:
    found = Descriptor(media_type=OCI_MANIFEST, digest=D, size=1)
    threads = [threading.Thread(target=layout.link, args=(f"name-{number}", found)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(layout.refs()) == 20


def test_an_index_never_grows_beyond_what_is_read_again(layout: Layout) -> None:
    items = [{"mediaType": OCI_MANIFEST, "digest": D, "size": 1} for _ in range(MAX_ENTRIES)]
    (layout.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": items}))
    with pytest.raises(LayoutError, match="unlink some"):
        layout.link("one-more", Descriptor(media_type=OCI_MANIFEST, digest=D, size=1))


def test_other_tools_read_the_layout(layout: Layout) -> None:
    """The directory is the OCI's, not ours: umoci lists what we link."""
    layout.link("v1", descriptor(layout, build(layout, [file("a")])))
    result = subprocess.run(["umoci", "ls", "--layout", layout.path], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.split() == ["v1"]


# Opening


@pytest.mark.parametrize(
    "marker",
    [
        None,
        b"",
        b"{}",
        b"[]",
        b'{"imageLayoutVersion":"2.0.0"}',
        b'{"imageLayoutVersion":"1.0.0","imageLayoutVersion":"1.0.0"}',
        b" " * 5000,
    ],
)
def test_a_directory_that_is_no_layout_is_refused(place: Path, marker: bytes | None) -> None:
    if marker is not None:
        (place / "oci-layout").write_bytes(marker)
    with pytest.raises(LayoutError, match=str(place)):
        Layout(place)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"schemaVersion":2,"layers":[]}', b'{"schemaVersion":2,"manifests":[{"digest":"sha256:../x"}]}']
)
def test_a_broken_index_is_named(layout: Layout, content: bytes) -> None:
    (layout.path / "index.json").write_bytes(content)
    with pytest.raises(LayoutError, match="the index of"):
        layout.refs()


def test_making_a_layout_again_changes_nothing(layout: Layout) -> None:
    layout.link("v1", descriptor(layout, build(layout, [file("a")])))
    before = files(layout)
    assert Layout.create(layout.path).resolve("v1").digest == layout.resolve("v1").digest
    assert files(layout) == before


@ROOT
def test_an_index_that_is_a_device_is_not_read(layout: Layout) -> None:
    (layout.path / "index.json").unlink()
    os.mknod(layout.path / "index.json", 0o020666, os.makedev(1, 5))  # /dev/zero
    with pytest.raises(LayoutError, match="not a regular file"):
        layout.refs()
