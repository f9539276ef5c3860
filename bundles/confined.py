"""A program of its own: puts limits on itself and becomes another program.

    python -I -S confined.py PARENT BYTES MEMORY DIRECTORY PROGRAM ARGUMENT…

The program dies with its parent, whose process id is PARENT; makes no file larger than BYTES; has at most MEMORY bytes of data; leaves
no core; gains no privileges; and, where the kernel has landlock with links between directories (Linux 5.19), creates, writes, links and
removes files below DIRECTORY only. Landlock does not govern modes, owners and times of files.

What has to happen between fork and exec happens here, in a fresh process with one thread, because code of a threaded parent that runs after
fork can deadlock. Nothing of this package is imported: the program runs without the package's path.
"""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38

_SYS_LANDLOCK_CREATE_RULESET = 444  # these numbers are the same on every architecture
_SYS_LANDLOCK_ADD_RULE = 445
_SYS_LANDLOCK_RESTRICT_SELF = 446
_RULE_PATH_BENEATH = 1
_CREATE_RULESET_VERSION = 1

_WRITE_FILE = 1 << 1
_REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))  # REMOVE_DIR … MAKE_SYM
_REFER = 1 << 13  # since version 2 of the interface
_TRUNCATE = 1 << 14  # since version 3

_libc = ctypes.CDLL(None, use_errno=True)


class _PathBeneath(ctypes.Structure):
    """struct landlock_path_beneath_attr."""

    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def main(arguments: list[str]) -> None:
    """Does not return."""
    parent, size, memory = (int(text) for text in arguments[:3])
    directory, program = arguments[3:5]
    _checked("prctl", _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    _checked("prctl", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if os.getppid() != parent:  # it died before prctl
        sys.exit("the parent is gone")
    for kind, limit in ((resource.RLIMIT_FSIZE, size), (resource.RLIMIT_DATA, memory), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(kind, (limit, limit))
    write_only_below(directory)
    os.execv(program, arguments[4:])


def write_only_below(directory: str) -> bool:
    """Takes away every other right to change what is in the file system; says whether the kernel could."""
    version = _libc.syscall(_SYS_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _CREATE_RULESET_VERSION)
    if version < 2:
        return False
    access = ctypes.c_uint64(_WRITE_FILE | _REMOVE_AND_MAKE | _REFER | (_TRUNCATE if version >= 3 else 0))
    ruleset = _checked("landlock", _libc.syscall(_SYS_LANDLOCK_CREATE_RULESET, ctypes.byref(access), ctypes.sizeof(access), 0))
    below = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    rule = _PathBeneath(access.value, below)
    _checked("landlock", _libc.syscall(_SYS_LANDLOCK_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), 0))
    _checked("landlock", _libc.syscall(_SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0))
    os.close(below)
    os.close(ruleset)
    return True


def _checked(what: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
