"""Percentiles are times that were measured, and a load counts as sustained only if it was answered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.quantiles import percentile, ratio, spread, sustained
from bench.results import LoadPoint, Spread

TIMES = st.lists(st.floats(0, 1e6), min_size=1, max_size=50)


@pytest.mark.parametrize(("share", "expected"), [(0, 1), (0.01, 1), (0.5, 50), (0.95, 95), (0.99, 99), (0.995, 100), (1, 100)])
def test_a_percentile_is_the_nearest_rank(share: float, expected: float) -> None:
    assert percentile([float(number) for number in range(100, 0, -1)], share) == expected


@given(TIMES, st.floats(0, 1))
def test_a_percentile_is_a_sample_that_this_share_does_not_exceed(samples: list[float], share: float) -> None:
    found = percentile(samples, share)
    assert found in samples
    assert sum(sample <= found for sample in samples) >= share * len(samples) - 1e-6
    assert sum(sample < found for sample in samples) <= share * len(samples) + 1e-6


@pytest.mark.parametrize(("samples", "share"), [([], 0.5), ([1.0], 1.1), ([1.0], -0.1)])
def test_what_has_no_percentile_is_refused(samples: list[float], share: float) -> None:
    with pytest.raises(ValueError, match=r"of no samples|is not between"):
        percentile(samples, share)


def test_a_spread_is_in_milliseconds() -> None:
    assert spread([0.001, 0.003, 0.002]) == Spread(calls=3, p50_ms=2.0, p95_ms=3.0, p99_ms=3.0, max_ms=3.0)


def test_a_ratio_to_nothing_is_none() -> None:
    ours, reuse = spread([0.004]), spread([0.002])
    assert ratio(ours, 3.0, reuse, 1.5).model_dump() == {"p50": 2.0, "p99": 2.0, "cpu": 2.0}
    assert ratio(ours, 3.0, reuse, None).cpu is None
    assert ratio(ours, None, reuse, 1.5).cpu is None


def point(rate: float, *, p99_ms: float, answered: int = 100) -> LoadPoint:
    took = Spread(calls=answered, p50_ms=1, p95_ms=2, p99_ms=p99_ms, max_ms=p99_ms)
    return LoadPoint(offered=rate, achieved=rate, calls=100, answered=answered, refused=100 - answered, failed=0, spread=took)


def test_a_load_that_was_refused_or_late_is_not_sustained() -> None:
    points = [point(10, p99_ms=5), point(20, p99_ms=49), point(30, p99_ms=51), point(40, p99_ms=5, answered=94)]
    assert sustained(points, 50) == 20
    assert sustained(points, 1) is None
    assert sustained([], 50) is None
