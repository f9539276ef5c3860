"""A receipt's moments as a picture: spans follow each other, and what the receipt does not tell is not drawn."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly import timeline
from mayfly.timeline import Span, bar, picture, spans

RECEIPT: dict[str, Any] = {
    "waited_us": 100,
    "connected_us": 200,
    "taken_us": 300,
    "written_us": 900,
    "guest_us": 150,
    "first_byte_us": 1000,
    "total_us": 1100,
    "gone_us": 1600,
    "response_bytes": 16,
    "monitor": {"exits": 7, "syscalls": 6},
}


def test_the_parts_follow_each_other_from_the_head_to_the_instances_end() -> None:
    found = spans(RECEIPT)
    assert [(span.name, span.start, span.end) for span in found] == [
        ("front", 0, 200),
        ("wake", 200, 300),
        ("guest", 300, 450),
        ("exits", 450, 900),
        ("socket", 900, 1000),
        ("answer", 1000, 1100),
        ("teardown", 1100, 1600),
    ]
    assert "7 exits in the whole call, 6 of them system calls" in found[3].what


@pytest.mark.parametrize(
    ("missing", "names"),
    [
        ({"connected_us": None}, []),
        ({"taken_us": None, "written_us": None, "first_byte_us": None, "monitor": None, "gone_us": None}, ["front", "program"]),
        ({"taken_us": None, "written_us": None}, ["front", "program", "answer", "teardown"]),
        ({"written_us": None, "gone_us": None}, ["front", "program", "answer"]),
        ({"first_byte_us": None}, ["front", "wake", "guest", "exits", "socket", "teardown"]),
    ],
)
def test_what_the_receipt_does_not_tell_is_not_drawn(missing: dict[str, Any], names: list[str]) -> None:
    assert [span.name for span in spans({**RECEIPT, **missing})] == names


@given(st.fixed_dictionaries({name: st.integers(0, 5000) for name in RECEIPT if name.endswith("_us")}))
def test_no_span_begins_before_the_one_above_it_has_ended(moments: dict[str, int]) -> None:
    connected, first, total = sorted(moments[f"{name}_us"] for name in ("connected", "first_byte", "total"))
    found = spans({**RECEIPT, **moments, "connected_us": connected, "first_byte_us": first, "total_us": total})
    assert all(span.length >= 0 for span in found)
    assert all(earlier.end == later.start for earlier, later in itertools.pairwise(found))


def test_threads_that_ran_longer_than_the_time_are_drawn_up_to_it() -> None:
    found = {span.name: span for span in spans({**RECEIPT, "guest_us": 5000})}
    assert (found["guest"].length, found["exits"].length) == (600, 0)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 8, "████████"),
        (0, 4, "████    "),
        (4, 8, "    ████"),
        (2, 3, "  █     "),
        (0, 0, "        "),
        (1000, 1001, "        "),
    ],
)
def test_a_bar_lies_where_its_span_does(start: int, end: int, expected: str) -> None:
    assert bar(start, end, 8, 8) == expected


def test_a_span_that_is_not_nothing_is_seen() -> None:
    assert bar(0, 1, 1_000_000, 40).strip() != ""
    assert bar(999_999, 1_000_000, 1_000_000, 40).strip() != ""
    assert all(len(bar(start, start + 1, 977, 40)) == 40 for start in range(977))


def test_the_picture_has_a_line_for_each_part_and_its_time() -> None:
    lines = list(picture([Span("front", 0, 500, "why"), Span("guest", 500, 2000)], width=8))
    assert lines == ["front    │██      │     0.500 ms  why", "guest    │  ██████│     1.500 ms"]
    assert list(picture([])) == []


def test_no_call_has_no_picture() -> None:
    assert timeline.spans({"total_us": 5}) == []
