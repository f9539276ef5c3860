"""Durations and quantities mean what they mean to Kubernetes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faas_resources.quantities import DURATION_PATTERN, QUANTITY_PATTERN, milliseconds, number_of_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500ms", 500), ("30s", 30_000), ("2m", 120_000), ("1m30s", 90_000), ("1.5h", 5_400_000), ("1us", 1), ("1500µs", 2), ("0.1s", 100)],
)
def test_durations(text: str, expected: int) -> None:
    assert milliseconds(text) == expected


@pytest.mark.parametrize("text", ["", "5", "-5s", "5 s", "s", "1d", "1.s", "5s\n", "٣s", "1e3s", "9" * 70 + "s", "1h" * 40])
def test_text_that_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        milliseconds(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("128Mi", 128 << 20),
        ("1Gi", 1 << 30),
        ("1G", 10**9),
        ("1k", 1000),
        ("0.5Gi", 1 << 29),
        (".5Ki", 512),
        ("5.", 5),
        ("268435456", 1 << 28),
        ("1E", 10**18),
        ("1e3", 1000),
        ("1E3", 1000),
        ("15e-1", 2),
        ("1500m", 2),
    ],
)
def test_quantities(text: str, expected: int) -> None:
    assert number_of_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "5MB", "5mi", "Mi", "-1", "1 Gi", "1e999", "0x10", "1Gi\n", "٣", "."])
def test_text_that_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="must be a quantity"):
        number_of_bytes(text)


@given(st.from_regex(QUANTITY_PATTERN, fullmatch=True).filter(lambda text: len(text) <= 64))
def test_whatever_the_crd_accepts_is_a_number(text: str) -> None:
    assert number_of_bytes(text) >= 0


@given(st.from_regex(re.compile(DURATION_PATTERN, re.ASCII), fullmatch=True).filter(lambda text: len(text) <= 64))
def test_whatever_the_crd_accepts_is_a_duration(text: str) -> None:
    assert milliseconds(text) >= 0
