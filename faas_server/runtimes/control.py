"""The control stream as this side writes it: JSON lines on stdout (docs/protocol.md, section 3). One lock, so that lines stay whole."""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

LINE_BYTES = 16 << 10  # of a program's line that are kept
TAIL_BYTES = 4 << 10  # of stderr, for the receipt
TEXT_BYTES = 4 << 10  # of any other text in an event

_speaking = threading.Lock()


def say(event: str, **fields: Any) -> None:
    """Writes one event."""
    line = json.dumps({"event": event, "time": time.time(), **fields}).encode() + b"\n"
    with _speaking:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()


class Log:
    """What one container writes: cut into lines, bounded altogether, the end of stderr kept for the receipt."""

    def __init__(self, instance: str, call: str | None, limit: int) -> None:
        """`limit`: bytes of lines that are passed on; the rest is dropped, which one last line says."""
        self.tail = b""
        self._instance, self._call = instance, call
        self._left = limit
        self._rest = {"stdout": b"", "stderr": b""}

    def feed(self, stream: str, data: bytes) -> None:
        """Takes what was read from a stream."""
        if stream == "stderr":
            self.tail = (self.tail + data)[-TAIL_BYTES:]
        *lines, rest = (self._rest[stream] + data).split(b"\n")
        for line in lines:
            self._line(stream, line)
        if len(rest) > LINE_BYTES:
            self._line(stream, rest)
            rest = b""
        self._rest[stream] = rest

    def finish(self) -> None:
        """Says what has no newline."""
        for stream, rest in self._rest.items():
            if rest:
                self._line(stream, rest)
        self._rest = dict.fromkeys(self._rest, b"")

    def _line(self, stream: str, line: bytes) -> None:
        if self._left <= 0:
            return
        self._left -= len(line) + 1
        if self._left <= 0:
            stream, line = "monitor", b"further lines of this call are dropped: over the limit"
        text = line[:LINE_BYTES].decode("utf-8", "replace")
        say(
            "log",
            instance=self._instance,
            call=self._call,
            stream=stream,
            line=text,
            truncated=len(line) > LINE_BYTES,
        )
