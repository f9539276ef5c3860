"""What to tell a watcher who knows one state of the store and is shown another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from faas_resources.metadata import Resource
from faas_resources.store.port import Event, EventType, Key

R = TypeVar("R", bound=Resource)


def differences(told: Mapping[Key, R], now: Mapping[Key, R]) -> Iterator[Event[R]]:
    """What to tell somebody who knows `told`: another life of a name is a deletion and an addition."""
    for key in sorted(told.keys() | now.keys()):
        before, after = told.get(key), now.get(key)
        if before is not None and (after is None or after.metadata.uid != before.metadata.uid):
            yield Event(EventType.DELETED, before)
            before = None
        if after is not None and before is None:
            yield Event(EventType.ADDED, after)
        elif after is not None and before is not None and after.metadata.resource_version != before.metadata.resource_version:
            yield Event(EventType.MODIFIED, after)
