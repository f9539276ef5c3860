"""The arithmetic of results: percentiles, spreads, ratios, and what a load sustained.

A percentile is the smallest sample that at least this share of all samples do not exceed (nearest rank): always a time that was measured,
never one between two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from bench.results import LoadPoint, Ratio, Spread

GOODPUT = 0.95  # of the offered calls that must be answered for a load to count as sustained


def percentile(samples: Sequence[float], share: float) -> float:
    """`share` from 0 to 1. Raises ValueError where there is nothing to take it of."""
    if not samples:
        raise ValueError("a percentile of no samples")
    if not 0 <= share <= 1:
        raise ValueError(f"share {share:g} is not between 0 and 1")
    return sorted(samples)[max(0, math.ceil(share * len(samples)) - 1)]


def spread(seconds: Sequence[float]) -> Spread:
    """What calls took, in milliseconds."""
    at = {share: 1000 * percentile(seconds, share) for share in (0.5, 0.95, 0.99, 1.0)}
    return Spread(calls=len(seconds), p50_ms=at[0.5], p95_ms=at[0.95], p99_ms=at[0.99], max_ms=at[1.0])


def ratio(of: Spread, of_cpu_ms: float | None, to: Spread, to_cpu_ms: float | None) -> Ratio:
    """How many times as much; None where one side was not measured, or was nothing."""
    return Ratio(p50=_over(of.p50_ms, to.p50_ms), p99=_over(of.p99_ms, to.p99_ms), cpu=_over(of_cpu_ms, to_cpu_ms))


def sustained(points: Iterable[LoadPoint], bound_ms: float) -> float | None:
    """The highest rate that was answered with a p99 within the bound; None if no rate was."""
    good = [point.achieved for point in points if is_sustained(point, bound_ms)]
    return max(good, default=None)


def is_sustained(point: LoadPoint, bound_ms: float) -> bool:
    """Whether so many of the calls were answered that the latency tells of all, and it is within the bound."""
    return point.spread is not None and point.answered >= GOODPUT * point.calls and point.spread.p99_ms <= bound_ms


def _over(value: float | None, base: float | None) -> float | None:
    return None if value is None or not base else value / base
