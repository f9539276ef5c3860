"""A program of its own: puts limits on itself and becomes another program.

    python -I -S confined.py PARENT BYTES PROGRAM ARGUMENT…

It dies with its parent, whose process id is PARENT, can make no file larger than BYTES, and leaves no core. What has to happen between
fork and exec happens here, in a fresh single-threaded process, because code of a threaded parent that runs after fork can deadlock.

It imports nothing of this package: it runs without the package's path.
"""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


def main(arguments: list[str]) -> None:
    """Does not return."""
    parent, size, program = int(arguments[0]), int(arguments[1]), arguments[2]
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_PDEATHSIG, signal.SIGKILL), (_PR_SET_NO_NEW_PRIVS, 1)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), f"prctl {option}")
    if os.getppid() != parent:
        sys.exit("the parent is gone")
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.execv(program, arguments[2:])


if __name__ == "__main__":
    main(sys.argv[1:])
