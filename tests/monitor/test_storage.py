"""What one call may store ends at one limit, whatever way it is stored: ENOSPC, and the instance goes on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.serving import Serve, make_bundle

pytestmark = pytest.mark.system

# The least that a function may store.
LIMIT_MIB = 64

GROWING = (
    *("pwrite", "pwritev", "pwritev2", "append", "ftruncate", "truncate", "fallocate"),
    *("sendfile", "copy_file_range", "splice", "mmap"),
)


@pytest.fixture(scope="module")
def serve(program: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    directory = tmp_path_factory.mktemp("storage")
    root = directory / "root"
    for name in ("proc", "sys", "dev", "tmp", "var/tmp"):
        (root / name).mkdir(parents=True)
    (root / "storage").write_bytes(program("storage").read_bytes())
    (root / "storage").chmod(0o755)
    bundle = make_bundle(directory / "bundle", root, ["/storage"], contract="stdin", memory_bytes=64 << 20)
    with Serve(bundle, directory) as running:
        running.wait_for("parked")
        yield running


def outcome(serve: Serve, way: str) -> list[str]:
    """The lines that the program answers with; it has ended as it should."""
    call = re.sub("[^a-z0-9]", "-", way)
    answer = serve.call(call, way.encode(), milliseconds=25_000)
    assert answer.status == 200, serve.ended(call)
    return [line.strip() for line in answer.body.decode().splitlines()]


@pytest.mark.parametrize("way", ["files", "vectors"])
def test_many_files_come_to_one_limit(serve: Serve, way: str) -> None:
    assert outcome(serve, way) == ["write -1 ENOSPC", f"MiB {LIMIT_MIB - 1}"]


@pytest.mark.parametrize("way", GROWING)
def test_a_file_grows_to_the_limit_whatever_makes_it_grow(serve: Serve, way: str) -> None:
    # There is a second file of 1 MiB, and both have names.
    assert outcome(serve, way) == [f"{way} -1 ENOSPC", f"MiB {LIMIT_MIB - 2}", "over 0"]


@pytest.mark.parametrize("way", ["empty", "directories", "fifos", "symlinks", "links"])
def test_empty_names_come_to_the_limit_too(serve: Serve, way: str) -> None:
    assert outcome(serve, f"names {way}") == [f"{way} -1 ENOSPC", f"names {LIMIT_MIB * 256}"]


def test_files_in_memory_count(serve: Serve) -> None:
    assert outcome(serve, "memfd") == ["memfd -1 ENOSPC", f"MiB {LIMIT_MIB}"]


def test_what_is_removed_is_given_back_however_often(serve: Serve) -> None:
    assert outcome(serve, "again") == ["again"]


@pytest.mark.parametrize("way", ["mapped", "sent", "reference"])
def test_a_removed_file_that_something_keeps_still_counts(serve: Serve, way: str) -> None:
    assert outcome(serve, f"kept {way}") == [f"{way} -1 ENOSPC", f"MiB {LIMIT_MIB - 1}"]


def test_threads_that_exchange_descriptors_and_positions_gain_nothing(serve: Serve) -> None:
    assert outcome(serve, "race") == ["over 0", "grew 1"]


def test_file_systems_say_what_the_function_may_store(serve: Serve) -> None:
    pages, mebibyte, tmpfs = LIMIT_MIB * 256, 256, "1021994"
    lines = [line.split() for line in outcome(serve, "room")]
    before, after = lines[:5], lines[5:]
    # The image is full; what can be written to has one account.
    for path, kind, size, blocks, free, available in before:
        assert (size, free) == ("4096", available), path
        if path in ("/", "/storage"):
            assert (kind, int(blocks), free) == ("ef53", 1 << 18, "0")
        else:
            assert (kind, int(blocks), int(free)) == (tmpfs, pages, pages)
    for path, kind, _, blocks, free, _ in after:
        if kind == tmpfs:
            # And a page for the name.
            assert (int(blocks), int(free)) == (pages, pages - mebibyte - 1), path
