"""What people see: tables as kubectl prints them, progress, errors; and what scripts read: JSON and YAML.

Results go to stdout, everything else (progress, hints, errors) to stderr. Whatever came from a function, an image or a registry may hold
escape sequences, so every such text goes through `printable` on its way to a terminal. Nothing here reads or decides anything.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mayfly.errors import MayflyError

# A table that no terminal shows is read by another program: it is not folded to any width.
_UNLIMITED = 100_000
_STYLES = {"True": "green", "False": "red", "Unknown": "yellow", "ok": "green", "missing": "red", "advice": "yellow"}


class Format(StrEnum):
    """The values of `--output`."""

    TABLE = "table"
    WIDE = "wide"
    NAME = "name"
    JSON = "json"
    YAML = "yaml"


def console(*, stderr: bool = False) -> Console:
    """A console for the stream as it is now: tests and pipes replace it."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _UNLIMITED
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False, soft_wrap=not stream.isatty())


def printable(text: str) -> str:
    """The text with every control character but tab and line feed spelt out, so that it cannot drive a terminal or forge a line."""
    return "".join(character if character.isprintable() or character in "\t\n" else _spelt(character) for character in text)


def _spelt(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def print_line(text: str = "") -> None:
    sys.stdout.write(printable(text) + "\n")


def print_note(text: str) -> None:
    """For the person at the terminal, beside the result."""
    console(stderr=True).print(Text(printable(text)))


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_yaml(value: Any) -> None:
    sys.stdout.write(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns set apart by three spaces, no lines, one row a line where nobody folds it."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    output = console()
    if output.is_terminal:
        output.print(table)
    else:
        with output.capture() as capture:
            output.print(table)
        sys.stdout.writelines(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def _cell(value: str) -> Text:
    return Text(printable(value).replace("\n", " "), style=_STYLES.get(value, ""))


def print_fields(fields: Iterable[tuple[str, str]], indent: int = 0) -> None:
    """`Name:  value` lines, aligned, as `kubectl describe` writes them."""
    pairs = list(fields)
    width = max((len(name) for name, _ in pairs), default=0) + 2
    margin = " " * indent
    for name, value in pairs:
        lines = printable(value).splitlines() or [""]
        print_line(f"{margin}{name + ':':<{width}} {lines[0]}".rstrip())
        for line in lines[1:]:
            print_line(f"{margin}{'':<{width}} {line}".rstrip())


def print_error(error: MayflyError) -> None:
    output = console(stderr=True)
    output.print(Text.assemble(("error: ", "bold red"), printable(error.message)))
    if error.hint:
        output.print(Text.assemble(("hint:  ", "bold"), printable(error.hint)))


def age(since: datetime | None, now: datetime | None = None) -> str:
    """How long ago, in kubectl's two-unit form: 5s, 3m20s, 2h5m, 3d."""
    if since is None:
        return "<unknown>"
    seconds = max(0, int(((now or datetime.now(UTC)) - since).total_seconds()))
    if seconds < 120:
        return f"{seconds}s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    return f"{hours}h" if hours < 48 else f"{days}d"


def size(count: int) -> str:
    """A number of bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
