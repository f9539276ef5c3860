"""The snapshot on disk: what begins from it, and what is found to be wrong with it (docs/snapshot.md)."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import random
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.figures import Figure
from tests.support.serving import PATIENCE, Event, Serve, make_bundle

pytestmark = pytest.mark.system

HEADER = 256  # bytes
KILLS = int(os.environ.get("MAYFLY_TEST_SNAPSHOT_KILLS", "6"))
STATE_LENGTH, IMAGE_LENGTH, CREATED = 16, 40, 48  # offsets in it


@pytest.fixture(scope="module")
def bundle(server_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "bundle", server_root, ["/server"])


@pytest.fixture(scope="module")
def kept(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot that nobody changes."""
    directory = tmp_path_factory.mktemp("kept")
    with Serve(bundle, directory, "--snapshot", str(directory / "snapshot")) as serve:
        serve.wait_for("kept")
    return directory / "snapshot"


def begin(bundle: Path, directory: Path, content: bytes, *options: str) -> tuple[Event, list[str]]:
    """Starts from a file with this content; the event `ready` and the warnings before it. One call is answered."""
    directory.mkdir(exist_ok=True)
    path = directory / "snapshot"
    path.write_bytes(content)
    path.chmod(0o600)
    with Serve(bundle, directory, "--snapshot", str(path), *options) as serve:
        ready = serve.wait_for("ready")
        assert serve.call().body == b"1"
        return ready, [event["message"] for event in serve.events if event["event"] == "warning"]


def test_a_restart_begins_from_the_file_without_a_boot(bundle: Path, kept: Path, tmp_path: Path) -> None:
    assert kept.stat().st_mode & 0o7777 == 0o600
    with Serve(bundle, tmp_path, "--snapshot", str(kept)) as serve:
        ready = serve.wait_for("ready")
        assert ready["snapshot"]["source"] == "file"
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda number: serve.call(f"c-{number}", path="/random"), range(20)))
        assert len({answer.body for answer in answers}) == 20
        assert not [event for event in serve.events if event["event"] in {"booting", "warning", "kept"}]


def test_the_digest_names_the_same_snapshot_before_and_after(bundle: Path, tmp_path: Path) -> None:
    digests = []
    for number in range(2):
        with Serve(bundle, tmp_path, "--snapshot", str(tmp_path / "snapshot")) as serve:
            ready = serve.wait_for("ready")
            digests.append(ready["snapshot"]["digest"])
            if number == 0:
                assert ready["snapshot"]["source"] == "boot"
                kept = serve.wait_for("kept")
                assert kept["bytes"] == (tmp_path / "snapshot").stat().st_size > ready["snapshot"]["bytes"] > 0
    assert digests[0] == digests[1]


def test_flipped_bits_in_every_region_are_found_and_the_program_is_booted(bundle: Path, kept: Path, tmp_path: Path) -> None:
    whole = kept.read_bytes()
    (image_length,) = struct.unpack_from("<Q", whole, IMAGE_LENGTH)
    (state_length,) = struct.unpack_from("<Q", whole, STATE_LENGTH)
    image = len(whole) - image_length
    places = {
        0: "it is no snapshot",
        8: "version 10",
        20: "its header is damaged",
        64: "its header is damaged",
        200: "its header is damaged",
        HEADER: "its state is damaged",
        HEADER + state_length // 2: "its state is damaged",
        HEADER + state_length + 3: "its state is damaged",
        image - 1: "its state is damaged",
        image: "chunk 0 of its memory image is damaged",
        image + image_length // 2: "of its memory image is damaged",
        len(whole) - 1: "of its memory image is damaged",
    }
    for number, (place, told) in enumerate(places.items()):
        content = bytearray(whole)
        content[place] ^= 8
        ready, warnings = begin(bundle, tmp_path / str(number), bytes(content))
        assert ready["snapshot"]["source"] == "boot", place
        assert len(warnings) == 1, warnings
        assert told.replace("its state is", "its table of contents or its state is") in warnings[0], (place, warnings)
        assert "booted instead" in warnings[0]


@pytest.mark.parametrize("length", [0, 1, HEADER - 1, HEADER, 5000, -4096, -1])
def test_a_file_cut_short_is_found(bundle: Path, kept: Path, tmp_path: Path, length: int) -> None:
    ready, warnings = begin(bundle, tmp_path, kept.read_bytes()[:length])
    assert ready["snapshot"]["source"] == "boot"
    assert "bytes long and should be" in warnings[0]


def test_what_does_not_belong_to_it_is_named(bundle: Path, kept: Path, server_root: Path, tmp_path: Path) -> None:
    whole = kept.read_bytes()
    _, longer = begin(bundle, tmp_path / "longer", whole + b"x")
    assert "longer than it was written" in longer[0]
    _, other = begin(make_bundle(tmp_path / "other-bundle", server_root, ["/server", "poll"]), tmp_path / "other", whole)
    assert "another function or revision" in other[0]
    created = struct.pack("<Q", struct.unpack_from("<Q", whole, CREATED)[0] - 1000)
    _, old = begin(bundle, tmp_path / "old", sealed(whole, CREATED, created), "--snapshot-age", "900")
    assert "s old, and may be 900 s at most" in old[0]
    ready, young = begin(bundle, tmp_path / "young", sealed(whole, CREATED, created), "--snapshot-age", "100000")
    assert (ready["snapshot"]["source"], young) == ("file", [])


def test_another_cpu_makes_another_snapshot(bundle: Path, kept: Path, tmp_path: Path) -> None:
    ready, warnings = begin(bundle, tmp_path, sealed(kept.read_bytes(), 128 + 6 * 4))
    assert ready["snapshot"]["source"] == "boot"
    assert "another kind of CPU: leaf 7 ebx is" in warnings[0]


def test_another_build_of_the_monitor_makes_another_snapshot(bundle: Path, kept: Path, tmp_path: Path) -> None:
    _, warnings = begin(bundle, tmp_path, sealed(kept.read_bytes(), 64))
    assert "another build of the monitor made it" in warnings[0]


def sealed(content: bytes, place: int, other: bytes = b"") -> bytes:
    """A file with other bytes in its header, whose digest is right for them."""
    other = other or bytes([content[place] ^ 1])
    changed = bytearray(content)
    changed[place : place + len(other)] = other
    changed[224:HEADER] = hashlib.sha256(changed[:224]).digest()
    return bytes(changed)


def test_a_file_that_others_may_read_or_that_is_no_file_is_not_used(bundle: Path, kept: Path, tmp_path: Path) -> None:
    path = tmp_path / "snapshot"

    def readable() -> None:
        path.write_bytes(kept.read_bytes())
        path.chmod(0o644)

    def link() -> None:
        path.symlink_to(kept)

    def fifo() -> None:
        os.mkfifo(path)

    for make in (readable, link, fifo):
        path.unlink(missing_ok=True)
        make()
        with Serve(bundle, tmp_path, "--snapshot", str(path)) as serve:
            assert serve.wait_for("ready")["snapshot"]["source"] == "boot"
            assert serve.wait_for("warning")["message"].startswith(f"the snapshot {path} is not used")
            serve.wait_for("kept")
        assert path.is_file()
        assert not path.is_symlink()
        assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.timeout(120 + 10 * KILLS)
def test_a_kill_at_any_moment_leaves_no_file_or_a_whole_one(bundle: Path, tmp_path: Path, figure: Figure) -> None:
    path = tmp_path / "snapshot"
    kept = ("--snapshot", str(path))
    with Serve(bundle, tmp_path, *kept, pool=0) as serve:
        serve.wait_for("ready")
        began = time.monotonic()
        serve.wait_for("kept")
        took = time.monotonic() - began
    path.unlink()
    whole = 0
    for _ in range(KILLS):
        with Serve(bundle, tmp_path, *kept, pool=0) as serve:
            serve.wait_for("ready")
            time.sleep(random.uniform(0, 1.2 * took))  # the moment is what is tried out here
            os.kill(serve.process.pid, signal.SIGKILL)
            serve.process.wait(PATIENCE)
        if path.exists():
            whole += 1
            with Serve(bundle, tmp_path, *kept, pool=1) as serve:
                assert serve.wait_for("ready")["snapshot"]["source"] != "boot"
                assert serve.call().body == b"1"
                assert not [event for event in serve.events if event["event"] == "warning"]
            path.unlink()
    with Serve(bundle, tmp_path, *kept) as serve:
        serve.wait_for("kept")
        assert not [event for event in serve.events if event["event"] == "warning"]
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.name.startswith("snapshot")) == ["snapshot"]
    figure(f"{KILLS} kills, {whole} of them left a whole file, the others none")


def test_a_place_that_cannot_be_written_is_told_and_calls_are_taken(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "kept" / "snapshot.new").mkdir(parents=True)
    with Serve(bundle, tmp_path, "--snapshot", str(tmp_path / "kept" / "snapshot")) as serve:
        assert "could not be written" in serve.wait_for("warning")["message"]
        assert serve.call().body == b"1"


def test_a_snapshot_from_which_no_instance_can_be_made_goes(program: Callable[..., Path], tmp_path: Path) -> None:
    """A file of the image that the program had open is gone: the successor boots, and says what is wrong itself."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "server").write_bytes(program("server").read_bytes())
    (root / "server").chmod(0o755)
    (root / "data").write_text("content")
    bundle = make_bundle(tmp_path / "bundle", root, ["/server", "open"])
    path = tmp_path / "snapshot"
    with Serve(bundle, tmp_path, "--snapshot", str(path)) as serve:
        serve.wait_for("kept")
    (root / "data").unlink()
    with Serve(bundle, tmp_path, "--snapshot", str(path)) as serve:
        failed = serve.wait_for("failed")
        assert "which is removed" in failed["message"]
        assert serve.process.wait(PATIENCE) == 1
    assert not path.exists()
