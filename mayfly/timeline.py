"""Where a call's time went, as one picture: the receipt's moments as spans, one under the other on a common scale.

| Span | From, to |
|---|---|
| front | the request's head is read; a place and a connection to the instance's socket are there |
| wake | the request is written; the instance has taken the connection and runs |
| guest | the program's own instructions, in the virtual machine |
| exits | between them: system calls and faults that the monitor answers, and what they wait for |
| answer | the answer's first byte is sent to the client; its last |
| teardown | the answer is through; the instance's process is gone and the monitor has said so. No caller waits for it |

Guest and exits alternate many times in a call; they are drawn one after the other, each with its sum. With several threads the guest's sum
may exceed the time that has passed; then it is drawn up to it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_EIGHTHS = " ▏▎▍▌▋▊▉"
_FULL = "█"
WIDTH = 48


@dataclass(frozen=True)
class Span:
    """A part of a call, microseconds from the call's beginning."""

    name: str
    start: int
    end: int
    what: str = ""

    @property
    def length(self) -> int:
        return self.end - self.start


def spans(receipt: Mapping[str, Any]) -> list[Span]:
    """The parts of a call that the receipt tells of, in their order; none of a call that never reached an instance."""
    connected, greeted, first, total = (receipt.get(f"{name}_us") for name in ("connected", "greeted", "first_byte", "total"))
    monitor = receipt.get("monitor") or {}
    found: list[Span] = []
    if connected is None or total is None:
        return found
    waited = min(connected, receipt.get("waited_us") or 0)
    found.append(Span("front", 0, connected, f"of it {waited / 1000:.3f} ms until there was a place"))
    if greeted is None:
        return [*found, Span("wake", connected, total, "no instance took the call")]
    found.append(Span("wake", connected, greeted))
    ran = total if first is None else first
    inside = min(monitor.get("guest_us", 0), ran - greeted)
    if inside:
        exits = f"{monitor['exits']} exits, {monitor['syscalls']} of them system calls"
        found += [Span("guest", greeted, greeted + inside), Span("exits", greeted + inside, ran, exits)]
    else:  # a container, or a monitor that does not tell
        found.append(Span("program", greeted, ran))
    if first is not None:
        found.append(Span("answer", first, total, f"{receipt.get('response_bytes', 0)} bytes"))
    if (gone := receipt.get("gone_us")) is not None and gone > total:
        found.append(Span("teardown", total, gone, "no caller waits for it"))
    return found


def picture(parts: Sequence[Span], width: int = WIDTH) -> Iterator[str]:
    """The lines of the picture."""
    whole = max((part.end for part in parts), default=0)
    for part in parts:
        what = f"  {part.what}" if part.what else ""
        yield f"{part.name:<9}│{bar(part.start, part.end, whole, width)}│ {part.length / 1000:9.3f} ms{what}"


def bar(start: int, end: int, whole: int, width: int) -> str:
    """Where a span lies in the whole, in eighths of a character; a span that is not nothing is never invisible."""
    scale = width * 8 / max(1, whole)
    first, last = int(start * scale), max(int(start * scale) + 1, int(end * scale)) if end > start else int(start * scale)
    cells = []
    for cell in range(width):
        low, high = cell * 8, cell * 8 + 8
        filled = max(0, min(last, high) - max(first, low))
        if filled == 8:
            cells.append(_FULL)
        elif filled == 0:
            cells.append(" ")
        elif first > low:  # it begins inside: there are no blocks that are full on the right only
            cells.append("▐" if filled >= 4 else "▕")
        else:
            cells.append(_EIGHTHS[filled])
    return "".join(cells)
