"""Advisory locks between the processes and threads that share a store.

flock(2): the kernel releases a lock when its last descriptor is closed, so that a killed process never leaves one behind, and a child
that inherits the descriptor keeps it. Locks of one process on one file are independent of each other, so they work between threads as
well.
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
    """Holds a lock on the file `path`, created where missing; gives its descriptor.

    Raises Locked when `wait` is false and the lock is not to be had.

    A lock file may be unlinked by whoever has it exclusively. A lock on a file that lost its name protects nothing, so it is taken again on
    the file that has the name now.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise Locked(str(path)) from error
            if _has_name(descriptor, path):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _has_name(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False
