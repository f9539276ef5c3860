"""Reading a file inside an unpacked image, as the image's own processes would find it.

Links in the image are resolved inside the image by the kernel (openat2 with RESOLVE_IN_ROOT), so that `/etc/passwd -> /../../etc/shadow`
names a file of the image or none. A file is opened only after it is known to be a regular one: opening a pipe waits, and opening a device
acts.
"""

from __future__ import annotations

import ctypes
import os
import stat
from pathlib import Path

_SYS_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_IN_ROOT = 0x10

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    """struct open_how of openat2(2)."""

    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def read_text(root: Path, path: str, limit: int) -> str | None:
    """The text of a regular file in `root`, None where there is none.

    Raises ValueError when it has more than `limit` bytes, and OSError when it cannot be read.
    """
    try:
        found = _locate(root, path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            return None
        with open(f"/proc/self/fd/{found}", "rb") as file:
            data = file.read(limit + 1)
    finally:
        os.close(found)
    if len(data) > limit:
        raise ValueError(f"{path} has more than {limit} bytes")
    return data.decode("utf-8", "replace")


def _locate(root: Path, path: str) -> int:
    """A descriptor that names the file without having opened it."""
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        how = _OpenHow(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
        found = int(_libc.syscall(_SYS_OPENAT2, directory, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how)))
        if found < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
        return found
    finally:
        os.close(directory)
