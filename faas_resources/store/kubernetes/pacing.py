"""How long the store of a cluster waits for what, and for how long it stays away after a failure."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """Times in seconds."""

    connect: float = 5.0
    request: float = 20.0  # one request and its answer
    patience: float = 15.0  # one operation with all its tries; the API server is back within that, or the caller hears of it
    stall: float = 120.0  # of silence on a watch; the API server sends a bookmark about once a minute
    watch: float = 300.0  # after which a watch is begun anew, so that nodes spread over the API servers there are
    first: float = 0.25  # the first pause after a failure; each next one is twice as long
    longest: float = 3.0  # 100 nodes that all try again ask 90 times a second, and all are back 3 s after the API server is
    renew: float = 15.0  # between two looks at which nodes are there: four renewals and four lists a minute
    lost: float = 60.0  # of silence after which a node counts as lost; three renewals may fail
    forget: float = 3600.0  # of silence after which a node is taken out of the statuses
    retry_after_max: float = 60.0  # that an API server may ask us to stay away


class Backoff:
    """Pauses that double up to a bound, each a little shorter by chance, so that what failed together does not come back together."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._failures = 0

    def next(self, retry_after: float | None = None) -> float:
        """Seconds to stay away after one more failure, and no less than the API server asked for."""
        pause = min(self._pace.first * 2.0 ** min(self._failures, 32), self._pace.longest) * random.uniform(0.5, 1.0)
        self._failures += 1
        asked = min(retry_after or 0.0, self._pace.retry_after_max)
        return max(pause, asked * random.uniform(1.0, 1.2))

    def reset(self) -> None:
        """After a success."""
        self._failures = 0
