"""Images made to leave their root: each either unpacks inside it or is refused, and nothing outside changes.

Each attack has a number. Numbers 20 to 27, 29 and 30 concern bytes and JSON and are in
test_layout, test_manifests and test_references; 28 is in test_users; bombs (17 to 19) are in test_bombs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bundles import Layout, LimitExceeded, Limits, UnpackError, durable, unpack
from tests.bundles.images import Entry, Layer, build, directory, file, hardlink, symlink

Layers = Sequence[Sequence[Entry]]
UP = "../" * 30


def snapshot(path: Path) -> list[Any]:
    """All that an attack on the tree could change: names, kinds, modes, owners, links, times, attributes, contents."""
    found: list[Any] = []
    for each in sorted([path, *path.rglob("*")]):
        status = each.lstat()
        content = os.readlink(each) if each.is_symlink() else each.read_bytes() if each.is_file() else b""
        attributes = os.listxattr(each, follow_symlinks=False)
        times = (status.st_mtime_ns, status.st_ctime_ns)
        found.append((str(each), status.st_mode, status.st_uid, status.st_gid, status.st_nlink, times, attributes, content))
    return found


@pytest.fixture
def canary(place: Path) -> Path:
    """What the attacks below try to change."""
    path = place / "canary"
    path.mkdir()
    (path / "file").write_text("safe")
    (path / "file").chmod(0o640)
    (path / "link").symlink_to("file")
    return path


Attack = Callable[[str], Layers]
"""Makes the layers of an attack on the directory of that path."""

CONTAINED: dict[str, Attack] = {
    "1 parent directory": lambda c: [[file("../x"), file(UP + c[1:] + "/new"), file(UP + c[1:] + "/file", b"evil")]],
    "2 absolute": lambda c: [[file("/x"), file(c + "/file", b"evil"), directory(c, mode=0o777)]],
    "3 link, then write through it": lambda c: [[symlink("l", c), file("l/file", b"evil"), file("l/new")]],
    "3 link in one layer, write in the next": lambda c: [[symlink("l", c)], [file("l/file", b"evil"), file("l/new")]],
    "3 link upwards": lambda c: [[symlink("l", "/../.."), file("l" + c + "/file", b"evil")]],
    "3 relative link upwards": lambda c: [[symlink("l", UP + c[1:]), file("l/file", b"evil")]],
    "3 link to a link": lambda c: [[symlink("a", "b"), symlink("b", c), file("a/file", b"evil")]],
    "3 link to a file": lambda c: [[symlink("l", c + "/file"), file("l", b"evil", mode=0o777)]],
    "7 hard link to a link": lambda c: [[symlink("s", c + "/file"), hardlink("h", "s"), file("h", b"evil", mode=0o777)]],
    "8 directory replaced by a link": lambda c: [[directory("d"), file("d/a"), symlink("d", c), file("d/file", b"evil")]],
    "8 directory replaced in the next layer": lambda c: [
        [directory("d")],
        [symlink("d", c)],
        [file("d/file", b"evil"), directory("d", mode=0o777)],
    ],
    "8 link replaced by a directory": lambda c: [[symlink("d", c)], [directory("d", mode=0o777), file("d/file", b"evil")]],
    "9 chain of links": lambda c: [
        [directory("a" * 200)],
        [symlink(f"s{number}", ("a" * 200 + "/../") * 15 + (f"s{number + 1}" if number < 30 else c)) for number in range(31)],
        [file("s0/file", b"evil"), file("s30/file", b"evil")],
    ],
    "10 whiteout through a link": lambda c: [[symlink("l", c)], [file("l/.wh.file"), file("l/.wh.link")]],
    "10 whiteout through a link of the same layer": lambda c: [[symlink("l", c), file("l/.wh.file"), file("l/.wh..wh..opq")]],
    "10 opaque whiteout through a link": lambda c: [[symlink("l", c)], [file("l/.wh..wh..opq")]],
    "10 whiteout above": lambda c: [[file("a")], [file(UP + c[1:] + "/.wh.file"), file("../canary/.wh.file"), file("../.wh.canary")]],
    "16 mode, owner and time through a link": lambda c: [
        [symlink("l", c), directory("l", mode=0o777, uid=1000), directory("l/", mode=0o777)]
    ],
    "16 attributes through a link": lambda c: [[symlink("l", c + "/file"), directory("l/", pax={"SCHILY.xattr.user.x": "evil"})]],
    "16 link's own mode and owner": lambda c: [[Entry("l", b"2", link=c + "/file", mode=0o777, uid=1000)]],
}

REFUSED: dict[str, Attack] = {
    "1 parent directory itself": lambda c: [[symlink("..", c)]],
    "4 root replaced by a link /.": lambda c: [[symlink("/.", c)], [file("file", b"evil")]],
    "4 root replaced by a link .": lambda c: [[symlink(".", c)], [file("file", b"evil")]],
    "4 root replaced by a link ./": lambda c: [[symlink("./", c)], [file("file", b"evil")]],
    "4 root replaced by a link /": lambda c: [[symlink("/", c)], [file("file", b"evil")]],
    "4 root replaced by a file": lambda c: [[file("/")]],
    "4 root replaced by a nameless file": lambda c: [[file("")]],
    "5 hard link upwards": lambda c: [[hardlink("h", UP + c[1:] + "/file"), file("h", b"evil")]],
    "5 hard link to an absolute path": lambda c: [[hardlink("h", c + "/file"), file("h", b"evil", mode=0o777)]],
    "6 hard link from the working directory": lambda c: [[hardlink("h", "../../canary/file"), file("h", b"evil")]],
    "6 hard link to umoci's own view": lambda c: [[hardlink("h", "../work/view/index.json")]],
    "7 hard link through a link": lambda c: [[directory("d"), symlink("d/s", UP + c[1:]), hardlink("h", "d/s/file")]],
    "7 hard link to itself": lambda c: [[hardlink("h", "h")]],
    "9 loop of links": lambda c: [[symlink("s", "s"), file("s/x")]],
    "10 whiteout of the root": lambda c: [[file("a")], [file(".wh..")]],
    "10 whiteout of nothing": lambda c: [[file("a")], [file(".wh.")]],
    "10 whiteout of the parent": lambda c: [[file("a")], [file(".wh...")], [file("b")]],
    "10 whiteout of the parent from inside": lambda c: [[file("a")], [file("d/.wh...")]],
    "10 whiteout of the root, then a link in its place": lambda c: [[file(".wh.."), symlink(".", c)], [file("file", b"evil")]],
    "10 whiteout of the directory itself": lambda c: [[directory("d"), file("d/a")], [file("d/.wh..")]],
    "12 file as a parent": lambda c: [[file("a", b"x"), file("a/b", b"y")]],
    "12 file of one layer as a parent in the next": lambda c: [[file("a", b"x")], [file("a/b", b"y")]],
    "name too long": lambda c: [[file("x" * 300)]],
    "unknown kind of entry": lambda c: [[Entry("x", b"Z", data=b"?")]],
}


EITHER: dict[str, Attack] = {
    # an ordinary user's umoci passes over attributes that it may not set
    "16 link's own attributes": lambda c: [[Entry("l", b"2", link=c + "/file", mode=0o777, pax={"SCHILY.xattr.user.x": "evil"})]],
}


@pytest.mark.parametrize("attack", CONTAINED.values(), ids=CONTAINED.keys())
def test_contained(layout: Layout, place: Path, canary: Path, attack: Attack) -> None:
    image = build(layout, *attack(str(canary)))
    before = snapshot(canary), snapshot(layout.path), sorted(os.listdir(place))
    rootfs = unpack(layout, image, place / "target")
    assert rootfs.is_dir()
    assert not rootfs.is_symlink()
    durable.remove_tree(place / "target")
    assert (snapshot(canary), snapshot(layout.path), sorted(os.listdir(place))) == before


@pytest.mark.parametrize("attack", REFUSED.values(), ids=REFUSED.keys())
def test_refused(layout: Layout, place: Path, canary: Path, attack: Attack) -> None:
    image = build(layout, *attack(str(canary)))
    before = snapshot(canary), snapshot(layout.path), sorted(os.listdir(place))
    with pytest.raises(UnpackError) as caught:
        unpack(layout, image, place / "target")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2500
    assert (snapshot(canary), snapshot(layout.path), sorted(os.listdir(place))) == before


@pytest.mark.parametrize("attack", EITHER.values(), ids=EITHER.keys())
def test_contained_or_refused(layout: Layout, place: Path, canary: Path, attack: Attack) -> None:
    image = build(layout, *attack(str(canary)))
    before = snapshot(canary), snapshot(layout.path), sorted(os.listdir(place))
    with suppress(UnpackError):
        unpack(layout, image, place / "target")
        durable.remove_tree(place / "target")
    assert (snapshot(canary), snapshot(layout.path), sorted(os.listdir(place))) == before


def test_names_of_the_images_choosing_cannot_forge_a_message(layout: Layout, place: Path) -> None:
    image = build(layout, [file("a\n\x1b[31mevil\x1b[0m", b"x"), file("a\n\x1b[31mevil\x1b[0m/b")])
    with pytest.raises(UnpackError) as caught:
        unpack(layout, image, place / "target")
    assert str(caught.value).isprintable()


@pytest.mark.slow
def test_a_tree_deeper_than_a_path_can_be_removed(layout: Layout, place: Path) -> None:
    deep = "/".join(["d"] * 1900)
    rootfs = unpack(layout, build(layout, [file(deep + "/file")]), place / "target")
    moved = place / ("m" * 200)
    moved.mkdir()
    rootfs.parent.rename(moved / ("n" * 200))  # now no path reaches the file
    durable.remove_tree(moved)
    assert not moved.exists()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_11_opaque_whiteouts_without_end_are_bounded_by_time(layout: Layout, place: Path, canary: Path) -> None:
    """CVE-2026-95838: each opaque whiteout is a walk over what the lower layers left."""
    lower = [file(f"d/{number}") for number in range(2_000)]
    image = build(layout, lower, Layer.of([file("d/.wh..wh..opq") for _ in range(100_000)]))
    before = snapshot(canary)
    began = time.monotonic()
    with suppress(LimitExceeded):  # a faster umoci may end in time
        unpack(layout, image, place / "target", limits=Limits(seconds=2))
    assert time.monotonic() - began < 30
    assert snapshot(canary) == before
