"""The snapshots of revisions on disk, which let a restart begin without a boot: who has which file, and which may go.

A monitor writes and reads its revision's file alone (docs/snapshot.md); this module decides where, and removes what belongs to no revision
of this server any more. A file that is missing costs a boot and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import structlog

from bundles.durable import remove_tree
from faas_server.settings import Settings

_DAY_S = 86_400
_ASLEEP = "asleep"

_log = structlog.get_logger(__name__)


def place(settings: Settings, revision: str) -> tuple[Path, int] | None:
    """The file of a revision and the seconds for which it is good; None where none is kept, or none can be."""
    if not settings.snapshot_days:
        return None
    directory = settings.snapshots / revision  # its own, so that no monitor reaches another's
    try:
        settings.snapshots.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        _log.warning("snapshots are not kept", directory=str(directory), error=str(error))
        return None
    return directory / "snapshot", int(settings.snapshot_days * _DAY_S)


def is_kept(settings: Settings, revision: str) -> bool:
    """Whether there is a file to begin from; only the monitor can tell whether it is good."""
    return bool(settings.snapshot_days) and (settings.snapshots / revision / "snapshot").exists()


def mark_asleep(settings: Settings, revision: str, asleep: bool) -> None:
    """Notes beside the file whether its revision sleeps, so that the next server does not wake it for nothing."""
    note = settings.snapshots / revision / _ASLEEP
    try:
        note.touch() if asleep else note.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("whether a revision sleeps is not kept", path=str(note), error=str(error))


def was_asleep(settings: Settings, revision: str) -> bool:
    """Whether a revision slept when the server before this one ended, and can be woken."""
    return is_kept(settings, revision) and (settings.snapshots / revision / _ASLEEP).exists()


def retain(settings: Settings, revisions: Iterable[str]) -> None:
    """Removes the files of all other revisions."""
    kept = set(revisions)
    try:
        found = list(settings.snapshots.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        _log.warning("snapshots are not collected", directory=str(settings.snapshots), error=str(error))
        return
    for path in found:
        if path.name not in kept:
            try:
                remove_tree(path)
            except OSError as error:  # tried again at the next change
                _log.warning("a snapshot stays for now", path=str(path), error=str(error))
