"""One `mayfly up` for a data directory, and how the other commands find it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mayfly.errors import AlreadyRunning, MayflyError, NoServer
from mayfly.locating import Up, UpLock, data_directory, running_up, server_url
from mayfly.upping import free_port, parse_listen

UP = Up(os.getpid(), "http://127.0.0.1:1", "1")


def test_the_server_is_found_while_it_is_announced(tmp_path: Path) -> None:
    lock = UpLock(tmp_path)
    assert running_up(tmp_path) is None
    lock.announce(UP)
    assert running_up(tmp_path) == UP
    assert server_url(None, tmp_path) == UP.url
    lock.release()
    with pytest.raises(NoServer, match="no `mayfly up` serves"):
        server_url(None, tmp_path)


def test_a_second_supervisor_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    lock = UpLock(tmp_path)
    with pytest.raises(AlreadyRunning, match="another `mayfly up` serves"):
        UpLock(tmp_path)
    lock.release()
    UpLock(tmp_path).release()


def test_what_a_killed_supervisor_left_does_not_count(tmp_path: Path, root: Path) -> None:
    program = (
        "import os, pathlib, signal, sys; from mayfly.locating import *; lock = UpLock(pathlib.Path(sys.argv[1])); "
        "lock.announce(Up(os.getpid(), 'http://127.0.0.1:1', '1')); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], env={**os.environ, "PYTHONPATH": str(root)}, check=False)
    assert (tmp_path / "run" / "up.json").exists()
    assert running_up(tmp_path) is None
    UpLock(tmp_path).release()
    assert not (tmp_path / "run" / "up.json").exists()


def test_a_damaged_file_is_named_with_a_way_out(tmp_path: Path) -> None:
    lock = UpLock(tmp_path)
    (tmp_path / "run" / "up.json").write_text("{")
    with pytest.raises(MayflyError, match=r"up\.json: damaged"):
        running_up(tmp_path)
    lock.release()


def test_an_address_that_is_given_is_taken(tmp_path: Path) -> None:
    assert server_url("http://example.test:1/", tmp_path) == "http://example.test:1"
    with pytest.raises(MayflyError, match="not the address of a server"):
        server_url("example.test", tmp_path)


def test_the_data_directory_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert data_directory(Path("x")) == tmp_path / "x"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert data_directory(None) == tmp_path / ".local" / "share" / "mayfly"
    assert data_directory(Path("~/y")) == tmp_path / "y"


@pytest.mark.parametrize(
    ("text", "parsed"), [("127.0.0.1:8080", ("127.0.0.1", 8080)), ("[::1]:0", ("::1", 0)), ("node.example:65535", ("node.example", 65535))]
)
def test_addresses_are_read(text: str, parsed: tuple[str, int]) -> None:
    assert parse_listen(text) == parsed


@pytest.mark.parametrize("text", ["", "8080", ":8080", "host:", "host:http", "host:65536", "host:-1"])
def test_other_texts_are_no_addresses(text: str) -> None:
    with pytest.raises(MayflyError, match="not an address to listen at"):
        parse_listen(text)


def test_a_taken_address_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(AlreadyRunning, match=f"127.0.0.1:{port}: Address already in use"):
            free_port("127.0.0.1", port)
    assert free_port("127.0.0.1", port) == port
    assert free_port("127.0.0.1", 0) > 0
