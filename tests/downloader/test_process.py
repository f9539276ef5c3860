"""The downloader as a process: alone on its directory, killed at any moment, stopped, short of disk, told wrong."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bundles.revisions import RevisionStore
from faas_resources.store.directory import DirectoryStore
from tests.downloader.conftest import Node
from tests.downloader.hostile import hostile_registry, raw
from tests.support.figures import Figure
from tests.support.images import TinyImage, tiny_image, write_layout
from tests.support.registry import Registry

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("MAYFLY_TEST_KILLS", "6"))  # 200 for the full proof
QUICK = ("--poll-interval=0.2", "--retry-first=0.05", "--retry-steady=0.3", "--collect-interval=0.3", "--owner-timeout=3")

Process = asyncio.subprocess.Process


@asynccontextmanager
async def process(data: Path, *options: str, within: tuple[str, ...] = ()) -> AsyncIterator[Process]:
    """A downloader process that is gone when the block ends."""
    command = [*within, sys.executable, "-m", "faas_downloader", "--data", str(data), *QUICK, *options]
    running = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=asyncio.subprocess.PIPE)
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


async def logged(running: Process, event: str) -> dict[str, object]:
    """Waits for an event in the log."""
    assert running.stderr is not None
    async with asyncio.timeout(20):
        while line := await running.stderr.readline():
            found: dict[str, object] = json.loads(line)
            if found["event"] == event:
                return found
    raise AssertionError(f"the process ended without {event!r}")


def distinct_image(number: int) -> TinyImage:
    """An image of some hundred files whose content tells its number."""
    files = {f"data/{index}": hashlib.sha256(f"{number} {index}".encode()).digest() * 50 for index in range(200)}
    return tiny_image({"app": str(number).encode()}, files)


def check_whole(data: Path, images: dict[str, int]) -> None:
    """Everything that has its final name is complete: blobs, unpacked images, bundles, and what `current` leads to."""
    bundles = data / "bundles"
    for blob in (bundles / "layout/blobs/sha256").glob("*"):
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    for unpacked in (bundles / "unpacked").glob("*"):
        number = images[unpacked.name.replace("-", ":")]
        assert (unpacked / "rootfs/app").read_bytes() == str(number).encode()
        for index in range(200):
            content = hashlib.sha256(f"{number} {index}".encode()).digest() * 50
            assert (unpacked / f"rootfs/data/{index}").read_bytes() == content
    for bundle in (bundles / "revisions").glob("*/*/*"):
        if bundle.name != "current":
            assert json.loads((bundle / "function.json").read_text())["revision"] == bundle.name
            assert json.loads((bundle / "config.json").read_text())["process"]["args"] == ["/app"]
    for link in (bundles / "revisions").glob("*/*/current"):
        found = RevisionStore(bundles).current(link.parent.parent.name, link.parent.name)
        assert found is not None
        assert found.rootfs.is_dir()


@pytest.mark.timeout(120 + 5 * KILLS)
async def test_kill_at_any_moment_leaves_the_store_whole(node: Node, registry: Registry, figure: Figure) -> None:
    numbers = random.Random(os.environ.get("MAYFLY_TEST_SEED", str(time.time_ns())))
    made = [distinct_image(number) for number in range(4)]
    images = {image.digest: number for number, image in enumerate(made)}
    started = time.monotonic()
    async with process(node.data):
        first = await node.published(await node.apply(registry.push(made[0], "killed")))
    took = time.monotonic() - started  # to start, pull and publish
    assert first.spec.image == made[0].digest
    moves = 0
    for turn in range(1, KILLS + 1):
        registry.push(made[turn % 4], "killed")
        await node.apply(f"docker://{registry.address}/killed:latest", env=[{"name": "TURN", "value": str(turn)}])
        before = node.current()
        async with process(node.data) as running:
            await asyncio.sleep(numbers.uniform(0, 1.2) * took)
            running.send_signal(signal.SIGKILL)
            await running.wait()
        check_whole(node.data, images)
        after = node.current()
        assert after is not None
        moves += after != before
    image = await node.apply(f"docker://{registry.address}/killed:latest", pool=1)
    async with process(node.data):
        bundle = await node.published(image)
        assert bundle.spec.image == made[KILLS % 4].digest
        bundles = node.data / "bundles"
        await node.eventually(lambda: not list((bundles / "tmp").iterdir()))
        await node.eventually(lambda: [path.name for path in (bundles / "unpacked").iterdir()] == [f"sha256-{bundle.spec.image.hex}"])
        await node.eventually(lambda: len(list(node.revisions.layout.blobs())) == 4)
    check_whole(node.data, images)
    figure(f"{KILLS} kills, {moves} of them after the revision had moved")


async def test_second_downloader_on_a_directory_does_not_start(node: Node) -> None:
    async with process(node.data) as first:
        await logged(first, "watching")
        async with process(node.data, "--owner-timeout=0.2") as second:
            assert second.stderr is not None
            said = (await second.stderr.read()).decode()
            assert await second.wait() == 1
    assert f"another process owns the bundle store {node.data}/bundles; stop it" in said
    async with process(node.data) as third:
        await logged(third, "watching")


async def test_downloader_that_is_just_going_is_waited_for(node: Node) -> None:
    async with process(node.data) as first:
        await logged(first, "watching")
        async with process(node.data, "--owner-timeout=20") as second:
            await logged(second, "waiting for another process to let go of the bundle store")
            first.terminate()
            await logged(second, "watching")


async def test_sigterm_ends_it_even_in_a_pull_that_hangs(node: Node) -> None:
    made = tiny_image({"app": b"x"})
    async with hostile_registry(made) as bad, process(node.data, "--stall-timeout=1000", "--stop-timeout=3") as running:
        bad.answers["/v2/bad/blobs/"] = raw(then="hang")
        await node.apply(bad.reference)
        await node.eventually(lambda: any("/blobs/" in asked.path for asked in bad.asked))
        running.terminate()
        assert await asyncio.wait_for(running.wait(), 10) == 0


async def test_sigterm_ends_it_even_in_work_that_nothing_can_end(node: Node, tmp_path: Path) -> None:
    """Unpacking is not told of a cancellation: its thread is left behind, and nobody waits for what would follow on it."""
    (tools := tmp_path / "tools").mkdir()
    hanging = '#!/bin/sh\n[ "$1" = --version ] && echo umoci version 0.4.7 && exit\nwhile :; do sleep 1; done\n'
    (tools / "umoci").write_text(hanging)
    (tools / "umoci").chmod(0o755)
    write_layout(tiny_image({"app": b"x"}), tmp_path / "layout")
    path = f"PATH={tools}:{os.environ['PATH']}"
    async with process(node.data, "--stop-timeout=0.5", within=("env", path)) as running:
        await node.apply(f"oci:{tmp_path / 'layout'}")
        await node.eventually(lambda: any((node.data / "bundles" / "tmp").iterdir()))
        running.terminate()
        await logged(running, "stopped in the middle of work, which begins again at the next start")
        assert await asyncio.wait_for(running.wait(), 30) == 0


async def test_log_is_json_on_stderr(node: Node, tmp_path: Path) -> None:
    write_layout(tiny_image({"app": b"x"}), tmp_path / "layout")
    async with process(node.data) as running:
        await node.apply(f"oci:{tmp_path / 'layout'}")
        found = await logged(running, "published")
    assert (found["namespace"], found["name"], found["level"]) == ("default", "hello", "info")
    assert {"revision", "image", "seconds", "timestamp"} <= found.keys()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--parallel=0"], "--parallel (MAYFLY_PARALLEL): Input should be greater than or equal to 1"),
        (["--stall-timeout=soon"], "--stall-timeout (MAYFLY_STALL_TIMEOUT): Input should be a valid number"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
async def test_wrong_usage_is_named(tmp_path: Path, options: list[str], said: str) -> None:
    async with process(tmp_path, *options) as running:
        assert running.stderr is not None
        assert said in (await running.stderr.read()).decode()
        assert await running.wait() == 2


async def test_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    async with process(tmp_path / "file") as running:
        assert running.stderr is not None
        said = (await running.stderr.read()).decode()
        assert await running.wait() == 1
    assert said.startswith(f"faas_downloader: making the bundle store {tmp_path / 'file'}")


@asynccontextmanager
async def small_disk(data: Path, options: str) -> AsyncIterator[Node]:
    """A downloader whose data directory is a file system of its own, in a mount namespace of its own."""
    mount = f'mount -t tmpfs -o {options} tmpfs "$0" && exec "$@"'
    async with process(data, within=("unshare", "-rm", "sh", "-c", mount, str(data))) as running:
        await logged(running, "watching")
        inside = Path(f"/proc/{running.pid}/root{data}")
        yield Node(inside, DirectoryStore(inside), RevisionStore(inside / "bundles"))


def incompressible(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize(
    ("options", "files"),
    [
        pytest.param("size=8m", {"blob": incompressible(9 << 20)}, id="no room to pull"),
        pytest.param("size=8m", {"zeros": bytes(12 << 20)}, id="no room to unpack"),
        pytest.param("size=8m,nr_inodes=300", {f"many/{index}": b"" for index in range(1000)}, id="no inodes to unpack"),
    ],
)
async def test_full_disk_is_named_and_recovered_from(tmp_path: Path, registry: Registry, options: str, files: dict[str, bytes]) -> None:
    small = registry.push(tiny_image({"app": incompressible(1 << 20)}), "small-disk", "small")
    large = registry.push(tiny_image({"app": b"x", **files}), "small-disk", str(abs(hash(options + str(len(files))))))
    (tmp_path / "data").mkdir()
    async with small_disk(tmp_path / "data", options) as node:
        before = await node.published(await node.apply(small))
        await node.apply(large)
        found = await node.failed("DiskFull")
        assert "make room" in (found.status.message or "")
        assert f"revision {before.spec.revision}" in (found.status.message or "")
        assert node.current() == before
        assert (before.rootfs / "app").read_bytes() == incompressible(1 << 20)
        bundles = node.data / "bundles"
        await node.eventually(lambda: not list((bundles / "tmp").iterdir()))
        after = await node.published(await node.apply(small, pool=1))
        assert after.spec.image == before.spec.image
