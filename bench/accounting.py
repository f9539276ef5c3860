"""What processes cost: processor time and memory of a process with all that it started, read from /proc.

Processor time of a process that has ended is in its parent's account once it was waited for; so a tree's time has all of it, if it is
read when nothing is ending.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> Iterator[int]:
    """A process and all that came from it and still runs."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:
            continue
        for child in children:
            yield from tree(int(child))


def command(pid: int) -> bytes:
    """Its command line, words separated by NUL; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on; None if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None


def cpu_ms(pid: int) -> float:
    """Processor milliseconds of one process, with those of its children that have ended."""
    fields = stat(pid)
    return 0.0 if fields is None else sum(int(value) for value in fields[11:15]) * 1000 / TICKS


def tree_cpu_ms(pid: int) -> float:
    """Of a process and all that came from it."""
    return sum(cpu_ms(member) for member in tree(pid))


def private_mib(pid: int) -> float:
    """Memory that is this process's alone; 0 if it is gone."""
    return sum(_rollup(pid, name) for name in ("Private_Clean", "Private_Dirty")) / 1024


def resident_mib(pid: int) -> float:
    """Memory that this process has in use, shared or not; 0 if it is gone."""
    return _rollup(pid, "Rss") / 1024


def available_mib() -> float:
    """Memory that the machine could still give."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) / 1024


def _rollup(pid: int, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
