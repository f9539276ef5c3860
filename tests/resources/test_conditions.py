"""Reports of several writers become one status."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from faas_resources import ConditionReport, ImageStatus, StatusPatch, Truth
from faas_resources.conditions import merged

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DIGEST = f"sha256:{'a' * 64}"


def pulled(status: Truth = Truth.TRUE, message: str = "") -> StatusPatch:
    return StatusPatch(conditions=(ConditionReport(type="Pulled", status=status, reason="Any", message=message),))


def test_writers_do_not_overwrite_each_other() -> None:
    status = merged(ImageStatus(), StatusPatch(digest=DIGEST, message="pulled"), NOON)
    status = merged(status, pulled(), NOON)
    status = merged(status, StatusPatch(conditions=(ConditionReport(type="Ready", status=Truth.TRUE, reason="Any"),)), NOON)
    assert (status.digest, status.message) == (DIGEST, "pulled")
    assert [condition.type for condition in status.conditions] == ["Pulled", "Ready"]


def test_transition_time_moves_only_with_the_status() -> None:
    status = merged(ImageStatus(), pulled(), NOON)
    later = NOON + timedelta(hours=1)
    status = merged(status, pulled(message="again"), later)
    assert status.conditions[0].last_transition_time == NOON
    assert status.conditions[0].message == "again"
    status = merged(status, pulled(Truth.FALSE), later)
    assert status.conditions[0].last_transition_time == later


def test_none_clears_and_absence_keeps() -> None:
    status = merged(ImageStatus(), StatusPatch(digest=DIGEST, message="text"), NOON)
    assert merged(status, StatusPatch(message=None), NOON) == ImageStatus(digest=DIGEST)


def test_report_that_says_nothing_new_gives_an_equal_status() -> None:
    status = merged(ImageStatus(), pulled(message="same"), NOON)
    assert merged(status, pulled(message="same"), NOON + timedelta(hours=1)) == status
