"""The page of rows as markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tests.languages.measuring import Row

HEAD = (
    "| Program | Version | Launched from | Threads | Boot, ms | Calls | Wrong | Call, ms | Exits a call | Private memory, MiB |",
    "|---|---|---|---|---|---|---|---|---|---|",
)


def saved_rows(directory: Path, names: Sequence[str]) -> list[Row]:
    """The rows that were saved, in the order of `names`."""
    files = [directory / f"{name}.json" for name in names]
    return [Row(**json.loads(file.read_text())) for file in files if file.exists()]


ABOUT = """\
# Programs that run unchanged

Made by `make languages` (`tests/languages`): each program comes from the packages of its registry, is started by `mayfly-monitor serve`
as its image would be, and answers calls, each in a virtual machine of its own. An answer is right if it repeats the call's text, computes
what the call asks, counts one call since the start, holds a random value that no other call had, and shows what the row is about (a
recovered panic, a caught NullPointerException, two worker threads that agree, …).

*Boot* is from the first instruction to readiness; *call* the median from the call's arrival to its end, in the instance; *exits* the
median of exits from the virtual machine; *private memory* that of a parked instance, which nobody shares. Times are of the machine that
made the page.

"""


def page(rows: Sequence[Row]) -> str:
    lines = [*HEAD]
    for row in rows:
        launch = row.launch if row.reason is None else f"{row.launch}: {row.reason}"
        cells = (
            row.title,
            row.version,
            launch,
            "–" if row.threads is None else str(row.threads),
            f"{row.boot_ms:.0f}",
            str(row.calls),
            str(len(row.wrong)),
            f"{row.call_ms:.1f}",
            f"{row.exits:.0f}",
            "–" if row.private_mib is None else f"{row.private_mib:.1f}",
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return ABOUT + "\n".join(lines) + "\n"
