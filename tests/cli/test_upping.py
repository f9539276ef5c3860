"""What `mayfly up` makes of the planes' lines."""

from __future__ import annotations

import json

import pytest

from mayfly.upping import readable


@pytest.mark.parametrize(
    ("line", "text", "style"),
    [
        ("Traceback (most recent call last):", "Traceback (most recent call last):", ""),
        ("[1, 2]", "[1, 2]", ""),
        ('{"no": "event"}', '{"no": "event"}', ""),
        (
            json.dumps({"event": "listening", "level": "info", "timestamp": "2026-01-01T10:20:30.5Z", "logger": "x", "port": 1}),
            "10:20:30 listening port=1",
            "",
        ),
        (json.dumps({"event": "a b", "level": "warning", "why": "two words"}), 'warning a b why="two words"', "yellow"),
        (json.dumps({"event": "x", "level": "error", "of": {"a": None}}), 'error x of="{\\"a\\": null}"', "red"),
        (json.dumps({"event": "x", "line": "\x1b[2J"}), 'x line="\\u001b[2J"', ""),
        (json.dumps({"event": "x", "line": ""}), 'x line=""', ""),
    ],
)
def test_a_line_of_a_plane_is_made_readable(line: str, text: str, style: str) -> None:
    assert readable(line) == (text, style)
