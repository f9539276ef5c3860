"""Changes on disk that are whole or absent after kill -9 and after a power cut.

The one rule: content is on the disk before the name that leads to it, and the name before anything that relies on it. Every operation of
the store that must survive goes through this module, and every error of the file system leaves it as one of ours.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bundles.errors import StorageError, StorageFull

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Turns an OSError inside the block into StorageError, or StorageFull where room would help."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull(
                f"{doing}: {error.strerror}; make room (space, inodes or quota) on the volume of {error.filename or 'the data directory'}"
            ) from error
        raise StorageError(f"{doing}: {error}") from error


def unique(directory: Path, purpose: str) -> Path:
    """A name in `directory` that nobody has."""
    return directory / f"{purpose}-{os.urandom(8).hex()}"


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_filesystem(path: Path) -> None:
    """Makes everything written so far on the file system of `path` durable.

    One call for a tree of thousands of files, where an fsync of each would cost more than writing them.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


def write_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Creates a file with durable content. Its name becomes durable with the directory."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """write(2) until everything is written."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def make_directory(path: Path, mode: int = 0o700) -> None:
    """Creates a directory and its missing parents, each durable before the next."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        with suppress(FileExistsError):  # another process of this store was faster
            directory.mkdir(mode)
        sync_directory(directory.parent)


def move(source: Path, target: Path) -> None:
    """Renames, replacing a file or link that is there, and makes the new name durable."""
    os.rename(source, target)
    sync_directory(target.parent)


def remove_tree(path: Path) -> None:
    """Removes a file, a link or a whole tree that may be hostile.

    The tree may be nested deeper than a path can name or a recursion can go, and may have directories that their owner cannot enter. So no
    path is followed below `path`, nothing recurses, and the number of open descriptors is constant: directories found inside are moved up
    into `path` itself and emptied there.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(path)
        return
    os.chmod(path, 0o700)
    top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        queue = _empty(top, top, path.name)
        while queue:
            name = queue.pop()
            os.chmod(name, 0o700, dir_fd=top)
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
            try:
                queue += _empty(inner, top, name)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(path)


def _empty(directory: int, top: int, label: str) -> list[str]:
    """Removes all but directories from `directory`; moves these into `top` and returns their names there."""
    moved = []
    with os.scandir(directory) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if not is_directory:
            os.unlink(name, dir_fd=directory)
            continue
        aside = f".removing-{os.urandom(8).hex()}"
        os.chmod(name, 0o700, dir_fd=directory)
        os.rename(name, aside, src_dir_fd=directory, dst_dir_fd=top)
        moved.append(aside)
    return moved
