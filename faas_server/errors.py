"""Everything that can go wrong in the server.

    ServerError
    ├── SettingsError        what the operator asked for cannot work: the server does not start
    ├── Refusal              the server answers a call itself, with this status and message
    ├── InstanceError        an instance did not keep to docs/protocol.md, section 5
    │   ├── NotTaken         no instance had the call: it may go to another
    │   └── BrokenPromise    an instance had it and gave no sound answer: 502
    └── MonitorFailed        a monitor process could not be started

A subclass exists only where a caller acts on it. Texts of `Refusal` and `InstanceError` reach the client: they name no path and no address
of this machine, and nothing that a guest wrote.
"""

from __future__ import annotations

from collections.abc import Mapping


class ServerError(Exception):
    """Root of every error of this package."""


class SettingsError(ServerError):
    """What the operator asked for cannot work."""


class Refusal(ServerError):
    """The server answers a call itself.

    `headers` go into the answer. `close` ends the client's connection after it: after a framing error nobody knows where the next request
    begins.
    """

    def __init__(self, status: int, message: str, *, headers: Mapping[str, str] | None = None, close: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})
        self.close = close


def busy(status: int, message: str, retry_after: int = 1) -> Refusal:
    """A refusal after which trying again may help, in so many seconds."""
    return Refusal(status, message, headers={"Retry-After": str(retry_after)})


class InstanceError(ServerError):
    """An instance did not keep to the protocol."""


class NotTaken(InstanceError):
    """The connection ended before an instance greeted: no byte of the request reached a program."""


class BrokenPromise(InstanceError):
    """An instance had the call and gave no sound answer."""


class MonitorFailed(ServerError):
    """A monitor process could not be started."""
