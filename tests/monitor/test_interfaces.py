"""What programs find when they ask for the interfaces of their machine: `lo`, however they ask."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

pytestmark = pytest.mark.system


def shown(monitor: Path, command: Sequence[str]) -> str:
    """What a program shows in `mayfly-monitor run`."""
    finished = subprocess.run([monitor, "run", "--", *command], capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_node_finds_the_loopback_interface_alone(monitor: Path) -> None:
    found = json.loads(shown(monitor, ["node", "-p", "JSON.stringify(os.networkInterfaces())"]))
    assert list(found) == ["lo"]
    assert [(each["cidr"], each["internal"]) for each in found["lo"]] == [("127.0.0.1/8", True), ("::1/128", True)]


def test_python_names_the_loopback_interface_alone(monitor: Path) -> None:
    code = "import socket; print(socket.if_nameindex(), socket.if_nametoindex('lo'), socket.if_indextoname(1))"
    assert shown(monitor, ["python3", "-c", code]) == "[(1, 'lo')] 1 lo\n"


def test_busybox_shows_the_loopback_interface_alone(monitor: Path) -> None:
    lines = shown(monitor, ["busybox", "ip", "-o", "addr"]).splitlines()
    assert [line.split()[:4] for line in lines if "inet" in line] == [
        ["1:", "lo", "inet", "127.0.0.1/8"],
        ["1:", "lo", "inet6", "::1/128"],
    ]
    assert {line.split()[1].rstrip(":") for line in lines} == {"lo"}
    assert shown(monitor, ["busybox", "ip", "route"]) == ""
    table = shown(monitor, ["busybox", "ifconfig", "-a"])
    assert [line.split()[0] for line in table.splitlines() if line[:1].strip()] == ["lo"]
    assert "inet addr:127.0.0.1  Mask:255.0.0.0" in table
