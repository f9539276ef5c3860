"""Namespaces for one thread: what the container of its call is started in.

unshare(2) takes a *thread* out of its process's namespaces, and its children begin where it is. So a thread that serves one call and
ends with it can make a container's network namespace, start the runtime inside, and connect to the program over that namespace's
loopback, while the rest of the process stays where it was. Python has no unshare before 3.12, hence ctypes.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from pathlib import Path

_CLONE_FS = 0x00000200  # a mount namespace is only for a thread that shares its root and directory with no other
_CLONE_NEWNS = 0x00020000
_CLONE_NEWNET = 0x40000000
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18
_MNT_DETACH = 2
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def own_network() -> None:
    """Moves the calling thread into a network namespace of its own, with nothing but a loopback that is up. Raises OSError."""
    _checked(_libc.unshare(_CLONE_NEWNET), "a network namespace cannot be made")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def own_mounts() -> None:
    """Moves the calling thread into a mount namespace of its own, from which nothing spreads. Raises OSError."""
    _checked(_libc.unshare(_CLONE_FS | _CLONE_NEWNS), "a mount namespace cannot be made")
    _checked(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "mounts cannot be made private")


def hide(path: Path) -> None:
    """Takes a mount away from the calling thread's own mount namespace. Raises OSError."""
    _checked(_libc.umount2(os.fsencode(path), _MNT_DETACH), f"{path} cannot be unmounted")


def overlay(lower: Path, upper: Path, work: Path, target: Path) -> None:
    """Mounts `lower`, unchanged, under what is written to `upper`, in the calling thread's own mount namespace. Raises OSError."""
    # A colon separates lower directories, a comma options.
    for part in (lower, upper, work):
        if any(character in str(part) for character in ":,\\"):
            raise OSError(f"{part}: a path with a colon, a comma or a backslash cannot be an overlay's")
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    _checked(_libc.mount(b"overlay", os.fsencode(target), b"overlay", 0, options.encode()), f"{target}: overlay")
