"""What a snapshot carries of a program's descriptors, files and mappings: the same in a clone as natively, or refused with its reason."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.support.serving import Serve, make_bundle

pytestmark = pytest.mark.system

DATA = "0123456789abcdefghij"


@pytest.fixture(scope="module")
def root(program: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    shutil.copy(program("carried", "-static", "-O1"), root / "carried")
    (root / "data").write_text(DATA)
    for name in ("proc", "sys", "dev", "tmp"):
        (root / name).mkdir()
    return root


def natively(root: Path, private: Path) -> str:
    """The program's answer on this machine, in a root made for it: it needs to own /tmp and /dev/shm."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    setup = (
        f"mount --make-rprivate / && mount --rbind {root} {private} && mount -t tmpfs none {private}/tmp"
        f" && mount -t tmpfs none {private}/dev && mkdir -m 1777 {private}/dev/shm && mount -t proc none {private}/proc"
        f" && exec chroot {private} /carried"
    )
    command = ["unshare", "--mount", "sh", "-c", setup]
    with subprocess.Popen(command, env={**os.environ, "PORT": str(port)}, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            with urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
                return str(answer.read().decode())
        finally:
            process.kill()


def test_everything_that_can_be_carried_is_as_it_was(root: Path, tmp_path: Path) -> None:
    with Serve(make_bundle(tmp_path / "bundle", root, ["/carried"]), tmp_path) as serve:
        ready = serve.wait_for("ready")
        assert ready["snapshot"], ready["reason"]
        answers = [serve.call(f"c-{number}").body.decode() for number in range(3)]
    lines = dict(line.split(" ", 1) for line in answers[0].splitlines() if " " in line)
    assert lines["inside"] == "inside inside 100604 1 2"
    assert lines["modes"] == "40500 10622"
    assert "append 6 before\nafter\n" in answers[0]
    assert lines["nameless"] == "3 456 0 7"
    assert lines["memory"] == f"3 far {3 << 20} written"
    assert lines["sealed"] == "5 stone e 1 5"
    assert lines["anonymous"] == "anonymous"
    assert lines["named"] == "Segment Segment"
    assert lines["image"] == f"10 {DATA[3:13]}"
    assert lines["private"] == f"changed 0 {DATA[:10]}"
    assert lines["event"] == "8 5"
    assert lines["pipe"] == "7 waiting"
    assert lines["nested"] == "1 77 1"
    assert lines["lock"] == "11"
    assert lines["route"] == "16 40001234"
    assert lines["place"] == "/tmp/dir"
    assert lines["maps"] == "1 1"
    # Two clones see the same, and nothing of each other.
    assert answers[1] == answers[2] == answers[0]
    if os.geteuid() == 0:
        (tmp_path / "native").mkdir()
        assert natively(root, tmp_path / "native") == answers[0]


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("inotify", "inotify cannot be carried"),
        ("record-lock", "a lock on a part of a file (fcntl)"),
        ("pending", "waits to be delivered"),
        ("netlink", "a datagram socket with data in it"),
        ("pair", "a socket pair with data in it"),
        ("watched-gone", "an epoll set that watches what was descriptor"),
        ("large", "stored more than 32 MiB in private directories and memory files"),
        ("mapped", "a shared mapping of /memfd:closed (deleted), which is open nowhere"),
        ("half-read", "the list of /tmp/full is half read"),
    ],
)
def test_what_cannot_be_carried_refuses_with_its_reason_and_is_called_all_the_same(
    root: Path, tmp_path: Path, mode: str, told: str
) -> None:
    with Serve(make_bundle(tmp_path / "bundle", root, ["/carried", mode]), tmp_path) as serve:
        ready = serve.wait_for("ready")
        assert ready["snapshot"] is None
        assert told in ready["reason"]
        assert [serve.call(f"c-{number}").status for number in range(2)] == [200, 200]
