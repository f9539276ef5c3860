"""`python -m mayfly.child PARENT MODULE ARGS…`: runs a plane as a child that cannot outlive its supervisor.

The kernel kills this process when its parent ends, however that ends (PR_SET_PDEATHSIG). It is asked for here, after the exec, because
code between fork and exec is not safe in a process that may have threads; a parent that ended in between is noticed by its number.
SIGKILL, because a new supervisor may already want the address and the data directory, and every plane is built to survive it.
"""

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, module = int(sys.argv[1]), sys.argv[2]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"PR_SET_PDEATHSIG: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit(f"the supervisor, process {parent}, is gone")
    sys.argv = [module, *sys.argv[3:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
