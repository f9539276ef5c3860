"""Small images that unpack to more than a disk holds: stopped while they unpack, near the limit, with nothing left."""

from __future__ import annotations

import gzip
import os
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bundles import Digest, Layout, LimitExceeded, Limits, unpack
from bundles.manifests import OCI_LAYER
from tests.bundles.images import Entry, Layer, build, directory, file

MB = 1_000_000
END = gzip.compress(bytes(1024))
ANY = Digest.of(b"")  # nobody gets as far as comparing


def bomb(parts: Iterator[bytes]) -> Layer:
    """A layer of gzip members, which readers take for one stream."""
    return Layer(b"".join(parts) + END, ANY, OCI_LAYER + "+gzip")


def header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)


def used(path: Path) -> int:
    """Bytes of disk below `path`, whatever is removed meanwhile."""
    total = 0
    for parent, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


@contextmanager
def peak(path: Path) -> Iterator[list[int]]:
    """Watches how much disk the block takes."""
    found, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            found[0] = max(found[0], used(path))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def test_17_a_file_without_end(layout: Layout, place: Path) -> None:
    zeros = gzip.compress(bytes(20 * MB), 1)
    image = build(layout, bomb(part for part in [gzip.compress(header("zeros", 8_000 * MB)), *[zeros] * 400]))
    with peak(place / "target") as most, pytest.raises(LimitExceeded, match="more than 50000000 bytes"):
        unpack(layout, image, place / "target", limits=Limits(bytes=50 * MB))
    assert most[0] < 60 * MB  # the kernel refuses the byte after the limit
    assert not (place / "target").exists()


def test_17_files_without_end(layout: Layout, place: Path) -> None:
    zeros = gzip.compress(bytes(10 * MB // 512 * 512), 1)
    size = 10 * MB // 512 * 512
    image = build(layout, bomb(part for number in range(800) for part in (gzip.compress(header(f"{number}", size)), zeros)))
    with peak(place / "target") as most, pytest.raises(LimitExceeded, match="more than 50000000 bytes"):
        unpack(layout, image, place / "target", limits=Limits(bytes=50 * MB))
    assert most[0] < 2_000 * MB  # 50 ms of writing beyond the limit, on whatever this disk is, and not the 8 GB
    assert not (place / "target").exists()


def test_17_the_same_file_over_and_over(layout: Layout, place: Path) -> None:
    """Takes no more disk with each round, but writes without end."""
    zeros = gzip.compress(bytes(10 * MB // 512 * 512), 1)
    one = gzip.compress(header("same", 10 * MB // 512 * 512)) + zeros
    image = build(layout, bomb(iter([one] * 800)))
    began = time.monotonic()
    with pytest.raises(LimitExceeded, match="more than 50000000 bytes"):
        unpack(layout, image, place / "target", limits=Limits(bytes=50 * MB))
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("real", [10**12, 100 * MB])
def test_18_a_sparse_file(layout: Layout, place: Path, real: int) -> None:
    """The PAX form of GNU's sparse files: a map with one hole and no data."""
    holes = f"1\n{real}\n0\n".encode().ljust(512, b"\0")
    pax = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "sparse", "GNU.sparse.realsize": str(real)}
    image = build(layout, Layer.of([Entry("GNUSparseFile.0/sparse", data=holes, pax=pax)]))
    with peak(place / "target") as most, pytest.raises(LimitExceeded, match="more than 50000000 bytes"):
        unpack(layout, image, place / "target", limits=Limits(bytes=50 * MB))
    assert most[0] < 60 * MB
    assert not (place / "target").exists()


@pytest.mark.slow
def test_19_files_without_number(layout: Layout, place: Path) -> None:
    image = build(
        layout, bomb(gzip.compress(b"".join(header(f"{block}/{number}", 0) for number in range(10_000)), 1) for block in range(30))
    )
    began = time.monotonic()
    with pytest.raises(LimitExceeded, match="more than 5000 files"):
        unpack(layout, image, place / "target", limits=Limits(files=5_000))
    assert time.monotonic() - began < 60
    assert not (place / "target").exists()


def test_19_directories_and_links_count_as_files(layout: Layout, place: Path) -> None:
    image = build(layout, [directory("d"), file("a"), Entry("h", b"1", link="a"), Entry("s", b"2", link="a")])
    with pytest.raises(LimitExceeded, match="more than 3 files"):
        unpack(layout, image, place / "target", limits=Limits(files=3))
    unpack(layout, image, place / "target", limits=Limits(files=4))
