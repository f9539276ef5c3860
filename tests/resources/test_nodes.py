"""What nodes say of an Image, and what that comes to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import permutations

from faas_resources import ConditionReport, ImageStatus, StatusPatch, Truth
from faas_resources.nodes import lost, on_node, reported, without

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def ready(truth: Truth = Truth.TRUE, message: str = "serves", generation: int = 1, reason: str = "Any") -> StatusPatch:
    report = ConditionReport(type="Ready", status=truth, reason=reason, message=message, observed_generation=generation)
    return StatusPatch(observed_generation=generation, revision=f"{generation:016x}", message=message, conditions=(report,))


def truth_of(status: ImageStatus, type_: str = "Ready") -> Truth | None:
    found = status.condition(type_)
    return None if found is None else found.status


def test_one_node_is_as_if_it_were_alone() -> None:
    status = reported(ImageStatus(), "a", ready(), NOON)
    assert status.model_copy(update={"nodes": ()}) == on_node(status, "a")
    assert (truth_of(status), status.revision, status.message) == (Truth.TRUE, "0" * 15 + "1", "serves")


def test_a_node_sees_its_own_report_only() -> None:
    status = reported(reported(ImageStatus(), "a", ready(), NOON), "b", ready(Truth.FALSE, "broken"), NOON)
    assert truth_of(on_node(status, "a")) is Truth.TRUE
    assert truth_of(on_node(status, "b")) is Truth.FALSE
    assert on_node(status, "c") == ImageStatus()


def test_the_node_that_is_worst_off_decides() -> None:
    status = ImageStatus()
    for name, truth in (("a", Truth.TRUE), ("b", Truth.FALSE), ("c", Truth.UNKNOWN)):
        status = reported(status, name, ready(truth, f"of {name}"), NOON)
    found = status.condition("Ready")
    assert found is not None
    assert (found.status, found.message) == (Truth.FALSE, "of b (node b, as on 1 of 3 nodes)")
    assert truth_of(reported(status, "b", ready(), NOON)) is Truth.UNKNOWN


def test_a_node_that_has_not_said_it_yet_leaves_it_unknown() -> None:
    status = reported(ImageStatus(), "a", ready(), NOON)
    status = reported(status, "b", StatusPatch(message="pulling"), NOON)
    assert truth_of(status) is Truth.UNKNOWN
    assert truth_of(reported(status, "b", ready(), NOON)) is Truth.TRUE


def test_a_node_that_is_still_updating_is_heard() -> None:
    status = ImageStatus()
    for name, reason in (("a", "Serving"), ("b", "Updating"), ("c", "Serving")):
        status = reported(status, name, ready(reason=reason), NOON)
    found = status.condition("Ready")
    assert found is not None
    assert (found.status, found.reason) == (Truth.TRUE, "Updating")
    found = reported(status, "b", ready(reason="Serving"), NOON).condition("Ready")
    assert found is not None
    assert found.reason == "Serving"


def test_a_node_that_is_lost_is_shown_and_does_not_count() -> None:
    status = ImageStatus()
    for name in ("a", "b", "c"):
        status = reported(status, name, ready(), NOON)
    assert lost(status, "d") is None
    said = lost(status, "b")
    assert said is not None
    status = reported(status, "b", said, NOON)
    assert truth_of(status) is Truth.TRUE
    assert truth_of(on_node(status, "b")) is Truth.UNKNOWN
    assert status.message == "serves (not heard of: b)"
    assert reported(status, "b", said, NOON) == status
    back = reported(status, "b", ready(), NOON)
    assert (truth_of(on_node(back, "b")), back.message) == (Truth.TRUE, "serves")
    assert [entry.name for entry in without(status, "b", NOON).nodes] == ["a", "c"]
    assert without(reported(ImageStatus(), "b", ready(), NOON), "b", NOON) == ImageStatus()


def test_nodes_that_are_all_lost_say_what_they_said_last() -> None:
    status = reported(ImageStatus(), "a", ready(), NOON)
    said = lost(status, "a")
    assert said is not None
    assert truth_of(reported(status, "a", said, NOON)) is Truth.UNKNOWN


def test_what_is_summed_up_is_of_the_node_that_lags_behind() -> None:
    status = reported(ImageStatus(), "a", ready(generation=1), NOON)
    status = reported(status, "b", ready(generation=2), NOON)
    assert (status.observed_generation, status.revision) == (1, f"{1:016x}")
    status = reported(status, "a", ready(generation=2), NOON)
    assert (status.observed_generation, status.revision) == (2, f"{2:016x}")


def test_the_order_of_reports_does_not_matter() -> None:
    said = {"a": ready(), "b": ready(Truth.FALSE, "broken"), "c": StatusPatch(message="pulling")}
    sums = []
    for names in permutations(said):
        status = ImageStatus()
        for name in names:
            status = reported(status, name, said[name], NOON)
        sums.append(status)
    assert all(each == sums[0] for each in sums)


def test_a_report_that_says_nothing_new_changes_nothing() -> None:
    status = reported(reported(ImageStatus(), "a", ready(), NOON), "b", ready(), NOON)
    assert reported(status, "a", ready(), NOON + timedelta(hours=1)) == status


def test_transition_time_of_the_sum_moves_only_with_its_status() -> None:
    status = reported(reported(ImageStatus(), "a", ready(), NOON), "b", ready(), NOON)
    later = NOON + timedelta(hours=1)
    told = reported(status, "a", ready(message="serves still"), later).condition("Ready")
    assert told is not None
    assert told.last_transition_time == NOON
    broken = reported(status, "a", ready(Truth.FALSE), later).condition("Ready")
    assert broken is not None
    assert broken.last_transition_time == later


def test_a_message_is_cut_to_what_fits_a_thousand_times() -> None:
    status = reported(ImageStatus(), "a", ready(Truth.FALSE, "x" * 32768), NOON)
    assert len(status.message or "") == 4096
