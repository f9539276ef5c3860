"""Where a call's time went, as one picture: the receipt's moments as spans, one under the other on a common scale.

| Span | From, to |
|---|---|
| front | the request's head is read; there is a place, and a connection to the function's socket |
| wake | the request is written; the instance, which slept, has the connection |
| guest | the program's own instructions, in the virtual machine, until its answer's first byte |
| exits | between them: system calls and faults that the monitor answers, and what they wait for |
| socket | the answer's first byte is written in the instance; the server has it, and passes it on |
| answer | the rest of the answer |
| teardown | the answer is through; the instance is gone and the monitor has said so. No caller waits for it |

Guest and exits alternate many times in a call; they are drawn one after the other, each with its sum. With several threads the guest's sum
may exceed the time that has passed; then it is drawn up to it. Of an instance that does not tell when it had the call and when it answered
(a container, the contracts `stdin` and `kontain`), the time between request and answer is one span, `program`.
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
    connected, first, total, gone = (receipt.get(f"{name}_us") for name in ("connected", "first_byte", "total", "gone"))
    if connected is None or total is None:
        return []
    waited = min(connected, receipt.get("waited_us") or 0)
    found = [Span("front", 0, connected, f"of it {waited / 1000:.3f} ms until there was a place")]
    # Clocks are read before and after what they time: a moment is never drawn before the one that it follows.
    end = total if first is None else first
    taken = _within(receipt.get("taken_us"), connected, end)
    written = _within(receipt.get("written_us"), taken, end) if taken is not None else None
    if taken is None or written is None:
        found.append(Span("program", connected, end))
    else:
        inside = min(receipt.get("guest_us") or 0, written - taken)
        monitor = receipt.get("monitor") or {}
        exits = f"{monitor.get('exits', 0)} exits in the whole call, {monitor.get('syscalls', 0)} of them system calls"
        found += [Span("wake", connected, taken), Span("guest", taken, taken + inside), Span("exits", taken + inside, written, exits)]
        found.append(Span("socket", written, end))
    if first is not None:
        found.append(Span("answer", first, total, f"{receipt.get('response_bytes', 0)} bytes"))
    if gone is not None and gone > total:
        found.append(Span("teardown", total, gone, "no caller waits for it"))
    return found


def _within(moment: int | None, low: int, high: int) -> int | None:
    return None if moment is None else max(low, min(moment, high))


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
