"""Why an image did not become a revision, as far as this package finds it out. (`bundles` has its own errors; `reporting` knows both.)

    DownloadError
    ├── Unavailable          no connection, a server error, an answer cut short: the same request may work in a moment
    │   └── TooSlow          the registry sends, but slower than the settings allow
    ├── Denied               no login, or not one that the registry takes
    ├── Missing              the registry has no such image
    ├── Refused              the registry sends us where we do not go (an internal address, plain HTTP, a login for another host)
    ├── BadAnswer            the registry breaks the protocol
    ├── BadConfig            the docker config file cannot be used
    └── Interrupted          somebody ended this: the resource changed, or the downloader stops

The text is for the person who deployed the function: what was asked for, what went wrong, what to do. What a registry said is quoted with
`repr`.
"""

from __future__ import annotations

from typing import ClassVar


class DownloadError(Exception):
    """Root of this package's errors."""

    reason: ClassVar[str] = "Failed"  # of the condition in the status
    transient: ClassVar[bool] = False  # worth trying again soon


class Unavailable(DownloadError):
    """The same request may work in a moment."""

    reason = "RegistryUnavailable"
    transient = True

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds, when the registry said


class TooSlow(Unavailable):
    """The registry sends, but slower than allowed."""

    reason = "RegistryTooSlow"


class Denied(DownloadError):
    """No login, or not one that the registry takes."""

    reason = "Unauthorized"


class Missing(DownloadError):
    """The registry has no such image."""

    reason = "ImageNotFound"


class Refused(DownloadError):
    """The registry sends us where we do not go."""

    reason = "DestinationRefused"


class BadAnswer(DownloadError):
    """The registry breaks the protocol."""

    reason = "BadAnswer"


class BadConfig(DownloadError):
    """The docker config file cannot be used."""

    reason = "BadRegistryConfig"


class Interrupted(DownloadError):
    """Somebody ended this."""

    reason = "Interrupted"
