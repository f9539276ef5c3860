"""Time in a guest: told without leaving the machine, true, and never going back."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

# The guest asks by a system call when the line it reads from is a second old, or is just being drawn by a thread that lost its processor.
FEW = 10

NODE = "const s = require('http').createServer((q, r) => r.end('x')); s.listen(0, () => { console.log('listening'); process.exit(0); });"
PYTHON = "import asyncio, http.server, logging, random, time; [time.time() for _ in range(1000)]; print('listening')"
GO = """
package main

import (
    "fmt"
    "time"
)

func main() {
    for start := time.Now(); time.Since(start) < 20*time.Millisecond; {
    }
    fmt.Println("listening")
}
"""


def clock_calls(monitor: Path, command: Sequence[str | Path]) -> int:
    """How often a program asks the monitor for the time until it says that it listens."""
    words = [str(word) for word in (monitor, "run", "--trace", "--", *command)]
    finished = subprocess.run(words, capture_output=True, timeout=120, check=True)
    assert b"listening" in finished.stdout
    calls = finished.stderr.decode().splitlines()
    assert len(calls) > 50
    return sum(name in line for line in calls for name in (" clock_gettime(", " gettimeofday(", " time("))


@pytest.mark.parametrize("command", [["node", "-e", NODE], ["python3", "-c", PYTHON]], ids=["node", "python"])
def test_a_start_does_not_leave_the_machine_for_the_time(monitor: Path, command: Sequence[str]) -> None:
    assert clock_calls(monitor, command) <= FEW


def test_go_reads_the_time_in_the_vdso(monitor: Path, tmp_path: Path) -> None:
    source = tmp_path / "main.go"
    source.write_text(GO)
    subprocess.run(["go", "build", "-o", "main", str(source)], cwd=tmp_path, check=True, timeout=300)
    assert clock_calls(monitor, [tmp_path / "main"]) <= FEW
