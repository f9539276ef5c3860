"""What is random in the clones of one snapshot: fresh by itself, fresh with the shims of runtimes/, or the same for the snapshot's life."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mayfly.image_building.interpreter import running
from tests.support.figures import Figure
from tests.support.once import made_once
from tests.support.roots import add_node, add_python, make_root
from tests.support.serving import PATIENCE, Serve, make_bundle

pytestmark = pytest.mark.system

PROGRAMS = Path(__file__).parent / "programs"
# How many clones; `make prove` asks 1,000.
CLONES = int(os.environ.get("MAYFLY_TEST_CLONES", "60"))

Values = dict[str, str]


@pytest.fixture(scope="module")
def python_root(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(directory: Path) -> None:
        made = make_root(directory / "root")
        add_python(made, "numpy")
        shutil.copy(PROGRAMS / "random_values.py", made)
        shutil.copy(root / "runtimes/python/mayfly_resume.py", made)

    return made_once(tmp_path_factory, "python-of-random-values", make) / "root"


@pytest.fixture(scope="module")
def node_root(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(directory: Path) -> None:
        made = make_root(directory / "root")
        add_node(made)
        shutil.copy(PROGRAMS / "random_values.cjs", made)
        shutil.copy(root / "runtimes/node/mayfly-resume.cjs", made)

    return made_once(tmp_path_factory, "node-of-random-values", make) / "root"


def drawn(bundle: Path, directory: Path, clones: int, *options: str) -> list[Values]:
    """What that many clones of one snapshot answer."""
    directory.mkdir(exist_ok=True)
    with Serve(bundle, directory, *options, pool=4, ready_ms=60_000) as serve:
        ready = serve.wait_for("ready")
        assert ready["snapshot"], ready["reason"]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda number: serve.call(f"c-{number}", milliseconds=60_000), range(clones)))
    assert {answer.status for answer in answers} == {200}
    return [json.loads(answer.body) for answer in answers]


def different(values: list[Values], kind: str) -> int:
    return len({value[kind] for value in values})


def python(root: Path, directory: Path, *env: str) -> Path:
    args = [running().packed_binary, "/random_values.py"]
    variables = ["PYTHONPATH=/packages", "PYTHONDONTWRITEBYTECODE=1", "OPENBLAS_NUM_THREADS=1", *env]
    return make_bundle(directory, root, args, env=variables, memory_bytes=1 << 30, timeout_ms=60_000)


def node(root: Path, directory: Path, options: Sequence[str] = ()) -> Path:
    return make_bundle(directory, root, ["/usr/bin/node", *options, "/random_values.cjs"], memory_bytes=2 << 30, timeout_ms=60_000)


FRESH = ("getrandom", "urandom", "uuid4", "openssl", "boot_id", "at_random")
SEEDED = ("random", "numpy", "generator")


def test_what_asks_the_kernel_or_openssl_is_fresh_in_every_clone_and_the_rest_is_with_the_shim(
    python_root: Path, tmp_path: Path, figure: Figure
) -> None:
    values = drawn(python(python_root, tmp_path / "bundle", "SHIM=1"), tmp_path, CLONES)
    assert {kind: different(values, kind) for kind in (*FRESH, *SEEDED)} == dict.fromkeys((*FRESH, *SEEDED), CLONES)
    figure(f"{CLONES} clones, all distinct: {', '.join((*FRESH, *SEEDED))}")
    assert different(values, "hash") == 1


def test_without_the_shim_seeded_generators_repeat(python_root: Path, tmp_path: Path) -> None:
    values = drawn(python(python_root, tmp_path / "bundle"), tmp_path, 8)
    assert {kind: different(values, kind) for kind in FRESH} == dict.fromkeys(FRESH, 8)
    assert {kind: different(values, kind) for kind in SEEDED} == dict.fromkeys(SEEDED, 1)


def test_the_hash_seed_is_of_the_snapshot_and_outlives_a_restart_but_not_a_boot(python_root: Path, tmp_path: Path) -> None:
    bundle = python(python_root, tmp_path / "bundle")
    kept = ("--snapshot", str(tmp_path / "snapshot"))
    with Serve(bundle, tmp_path, *kept, ready_ms=60_000) as serve:
        serve.wait_for("kept")
        first = [json.loads(serve.call(f"c-{number}").body)["hash"] for number in range(3)]
    again = drawn(bundle, tmp_path, 3, *kept)
    other = drawn(bundle, tmp_path, 3)
    assert len({*first, *(value["hash"] for value in again)}) == 1
    assert different(other, "hash") == 1
    assert other[0]["hash"] != first[0]
    # What the kernel gives is another in a clone of the file, too.
    assert different(again + other, "at_random") == 6


def test_node_is_fresh_in_every_clone_with_the_preload(node_root: Path, tmp_path: Path, figure: Figure) -> None:
    kinds = ("Math.random", "randomUUID", "webcrypto.randomUUID", "randomInt", "randomBytes", "boot_id")
    values = drawn(node(node_root, tmp_path / "bundle", ["--require", "/mayfly-resume.cjs"]), tmp_path, CLONES)
    assert {kind: different(values, kind) for kind in kinds} == dict.fromkeys(kinds, CLONES)
    figure(f"{CLONES} clones, all distinct: {', '.join(kinds)}")


def test_without_the_preload_node_repeats_what_it_keeps(node_root: Path, tmp_path: Path) -> None:
    values = drawn(node(node_root, tmp_path / "bundle"), tmp_path, 8)
    assert different(values, "Math.random") == different(values, "randomUUID") == different(values, "randomInt") == 1
    assert different(values, "randomBytes") == 8


def test_the_canary_is_of_the_snapshot_and_the_bytes_behind_it_are_the_clones(program: Callable[..., Path], tmp_path: Path) -> None:
    """The C library made its stack canary of the boot's bytes: that stays, or no function could return."""
    made = make_root(tmp_path / "root")
    shutil.copy(program("residue"), made / "residue")
    seen = []
    for generation in range(2):
        directory = tmp_path / str(generation)
        directory.mkdir()
        with Serve(make_bundle(directory / "bundle", made, ["/residue"]), directory) as serve:
            serve.wait_for("ready")
            seen.append([serve.call(f"c-{number}", path="/canary").body.decode().split() for number in range(4)])
    canaries = [{canary for canary, _ in answers} for answers in seen]
    assert [len(found) for found in canaries] == [1, 1]
    assert canaries[0] != canaries[1]
    assert len({bytes_ for answers in seen for _, bytes_ in answers}) == 8


def test_no_call_finds_what_another_has_left(program: Callable[..., Path], tmp_path: Path, figure: Figure) -> None:
    """Each call scans its memory and its vector registers for the mark of the calls before, and leaves it everywhere."""
    calls = int(os.environ.get("MAYFLY_TEST_RESIDUE_CALLS", "60"))
    made = make_root(tmp_path / "root")
    shutil.copy(program("residue"), made / "residue")
    with Serve(make_bundle(tmp_path / "bundle", made, ["/residue"]), tmp_path, pool=4) as serve:
        serve.wait_for("ready")
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda number: serve.call(f"c-{number}", path="/look/5eedfa11"), range(calls)))
    found = {tuple(int(word) for word in answer.body.split()[:3]) for answer in answers}
    assert found == {(0, 0, 0)}
    figure(f"{calls} calls, none found the mark of another")
    assert min(int(answer.body.split()[3]) for answer in answers) > 1 << 20


def test_the_scan_finds_what_is_there(program: Callable[..., Path], tmp_path: Path) -> None:
    """Natively a second call to the same process finds the mark of the first: the test above can fail."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen([program("residue")], env={"PORT": str(port)}) as process:
        try:
            bodies: list[list[int]] = []
            deadline = time.monotonic() + PATIENCE
            while len(bodies) < 2:
                assert process.poll() is None
                assert time.monotonic() < deadline
                with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)) as connection:
                    connection.sendall(b"GET /look/5eedfa11 HTTP/1.1\r\n\r\n")
                    received = b"".join(iter(lambda: connection.recv(4096), b""))
                    bodies.append([int(word) for word in received.rpartition(b"\r\n")[2].split()])
        finally:
            process.kill()
            Path("/tmp/mayfly-residue").unlink(missing_ok=True)
    assert bodies[0][:2] == [0, 0]
    registers, memory, file, _ = bodies[1]
    assert registers > 0
    assert memory > 1 << 17
    assert file == 1
