"""The errors that a command ends with, and the exit status of each.

    MayflyError            1   the input was refused, or the work failed
    ├── MachineError       3   this machine cannot run functions
    ├── NotFound           4   no such resource, function, call or file
    ├── NoServer           5   nothing answers at the server's address
    ├── NotReady           6   it did not get ready in the time allowed
    ├── CallFailed         7   the function's answer is a status of 400 or more
    └── AlreadyRunning     8   another `mayfly up` serves this data directory, or the address is taken

Status 0 is success, 2 is wrong usage (as the command line parser reports it), 130 an interrupt. The numbers are part of the interface:
`mayfly --help` and README.md list them. A message names the input and the rule that it breaks, `hint` the way out.
"""

from typing import ClassVar


class MayflyError(Exception):
    """What a command could not do, for the person who asked."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class MachineError(MayflyError):
    exit_code = 3


class NotFound(MayflyError):
    exit_code = 4


class NoServer(MayflyError):
    exit_code = 5


class NotReady(MayflyError):
    exit_code = 6


class CallFailed(MayflyError):
    exit_code = 7


class AlreadyRunning(MayflyError):
    exit_code = 8
