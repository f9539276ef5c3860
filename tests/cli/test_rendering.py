"""What people see, and what it cannot do to their terminal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly import rendering
from mayfly.errors import MayflyError, NotFound

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@given(st.text())
def test_printable_text_has_no_control_characters(text: str) -> None:
    assert all(character.isprintable() or character in "\t\n" for character in rendering.printable(text))


@given(st.text(st.characters(categories=["L", "N", "P", "Zs"], exclude_characters="\u00a0\u1680\u202f\u205f\u3000")))
def test_plain_text_stays_as_it_is(text: str) -> None:
    if text.isprintable():
        assert rendering.printable(text) == text


def test_what_moves_the_cursor_or_the_reading_direction_is_spelt_out() -> None:
    assert rendering.printable("\x1b[2J\r\x9b\u202e") == r"\x1b[2J\x0d\x9b\u202e"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (119, "119s"), (120, "2m"), (200, "3m20s"), (3600, "60m"), (3 * 3600 + 60, "3h1m"), (9 * 3600, "9h"), (100 * 3600, "4d")],
)
def test_ages_read_as_kubectl_writes_them(seconds: int, text: str) -> None:
    assert rendering.age(NOW - timedelta(seconds=seconds), NOW) == text


def test_an_age_never_is_negative() -> None:
    assert rendering.age(NOW + timedelta(seconds=5), NOW) == "0s"
    assert rendering.age(None) == "<unknown>"


def test_a_table_in_a_pipe_is_never_folded(capsys: pytest.CaptureFixture[str]) -> None:
    rendering.print_table(("A", "MESSAGE"), [("x", "m" * 500), ("[bold]", "two\nlines\x1b")])
    header, first, second = capsys.readouterr().out.splitlines()
    assert header == "A        MESSAGE"
    assert first == "x        " + "m" * 500
    assert second == r"[bold]   two lines\x1b"


def test_an_error_has_its_hint(capsys: pytest.CaptureFixture[str]) -> None:
    rendering.print_error(NotFound("it [red]is\x1b gone", hint="make it"))
    assert capsys.readouterr().err == "error: it [red]is\\x1b gone\nhint:  make it\n"


def test_exit_statuses_are_distinct() -> None:
    codes = [kind.exit_code for kind in MayflyError.__subclasses__() if "exit_code" in vars(kind)]
    assert len(set(codes)) == len(codes)
    assert {1, 2}.isdisjoint(codes)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (26_214_400, "25.0 MiB"), (5 << 30, "5.0 GiB")]
)
def test_sizes_have_units(count: int, text: str) -> None:
    assert rendering.size(count) == text
