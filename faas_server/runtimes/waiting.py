"""Waiting for one descriptor, with a limit."""

from __future__ import annotations

import select
from typing import Protocol


class HasDescriptor(Protocol):
    """A socket, a file."""

    def fileno(self) -> int: ...


def readable(descriptor: int | HasDescriptor, seconds: float) -> bool:
    """Whether there is something to read, or an end, within `seconds`; a time that is over is no wait."""
    watched = select.poll()
    watched.register(descriptor, select.POLLIN)
    return bool(watched.poll(max(0.0, seconds) * 1000))
