"""Advisory locks between the processes and threads that share a store.

flock(2): the kernel releases a lock when its last descriptor is closed, so that a killed process never leaves one behind, and a child that
inherits the descriptor keeps it. Locks of one process on one file are independent of each other, so they work between threads as well.

What is locked is the thing itself, a directory or a file that is there anyway: no lock files to make, which would fail on a full disk, and
none to remove. The file system must be a local one.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Locked(Exception):
    """Somebody else has the lock. Does not leave this package."""


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[int]:
    """Holds a lock on the directory or file that `path` names; gives its descriptor.

    Raises Locked when `wait` is false and the lock is not to be had, and FileNotFoundError when there is nothing of that name, or no longer
    when the lock is had.
    """
    while True:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise Locked(str(path)) from error
            # A lock on what was moved away meanwhile protects nothing: take the one on what has the name now.
            if os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False)):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def share(descriptor: int) -> None:
    """Turns a lock that is held alone into a shared one. Somebody else may have had it alone in between."""
    fcntl.flock(descriptor, fcntl.LOCK_SH)
