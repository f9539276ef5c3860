"""Durations and quantities, written as Kubernetes writes them.

A duration is a Go duration (`500ms`, `1m30s`, `1.5h`), a quantity a Kubernetes resource quantity (`128Mi`, `1Gi`, `5e8`, or a plain number
of bytes). Both are kept as written, so that a manifest is read back as its author wrote it; numbers are exact (no floating point) and round
up. The patterns are those of the CRD, so a server that only knows the CRD refuses the same text.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

DURATION_PATTERN = r"^([0-9]{1,12}(\.[0-9]{1,9})?(ns|us|µs|ms|s|m|h))+$"
DURATION_MIN = "1ms"
DURATION_MAX = "24h"
QUANTITY_PATTERN = r"^([0-9]{1,18}(\.[0-9]{0,18})?|\.[0-9]{1,18})(Ki|Mi|Gi|Ti|Pi|Ei|m|k|M|G|T|P|E|[eE][+-]?[0-9]{1,2})?$"
MEMORY_MIN = "1Mi"
MEMORY_MAX = "1Ti"
_TEXT_MAX = 64

_DURATION = re.compile(DURATION_PATTERN)
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h)")
_SECONDS = {
    "ns": Fraction(1, 10**9),
    "us": Fraction(1, 10**6),
    "µs": Fraction(1, 10**6),
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
}
_QUANTITY = re.compile(QUANTITY_PATTERN)
_SUFFIXES = {
    "": Fraction(1),
    "m": Fraction(1, 1000),
    **{letter: Fraction(1000**power) for power, letter in enumerate("kMGTPE", start=1)},
    **{f"{letter}i": Fraction(1024**power) for power, letter in enumerate("KMGTPE", start=1)},
}


def _seconds(text: str) -> Fraction:
    if len(text) > _TEXT_MAX or not _DURATION.fullmatch(text):
        hint = f"; write {text}s for seconds" if re.fullmatch(r"[0-9]{1,9}", text) else ""
        raise ValueError(f"must be a duration such as 500ms, 30s or 2m{hint}")
    return sum((Fraction(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text)), start=Fraction(0))


def milliseconds(text: str) -> int:
    """The duration in whole milliseconds, rounded up; raises ValueError with the rule."""
    return math.ceil(_seconds(text) * 1000)


def number_of_bytes(text: str) -> int:
    """The quantity as a whole number, rounded up; raises ValueError with the rule."""
    matched = _QUANTITY.fullmatch(text) if len(text) <= _TEXT_MAX else None
    if matched is None:
        hint = f"; write {text[:-1]}i" if re.fullmatch(r"[0-9]{1,18}[KMGT]B", text) else ""
        raise ValueError(f"must be a quantity such as 128Mi, 1Gi or a number of bytes{hint}")
    number, suffix = matched.group(1), matched.group(3) or ""
    scale = _SUFFIXES[suffix] if suffix in _SUFFIXES else Fraction(10) ** int(suffix[1:])
    return math.ceil(Fraction(number) * scale)


def _check_timeout(text: str) -> str:
    if not _seconds(DURATION_MIN) <= _seconds(text) <= _seconds(DURATION_MAX):
        raise ValueError(f"must be between {DURATION_MIN} and {DURATION_MAX}")
    return text


def _written(value: object) -> object:
    """A plain number as its digits: as a quantity that is right, as a duration the error says what is missing. A bool is no number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _check_memory(text: str) -> str:
    found = number_of_bytes(text)
    if not number_of_bytes(MEMORY_MIN) <= found <= number_of_bytes(MEMORY_MAX):
        raise ValueError(f"must be between {MEMORY_MIN} and {MEMORY_MAX}")
    return text


Timeout = Annotated[
    str,
    BeforeValidator(_written),
    AfterValidator(_check_timeout),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": DURATION_PATTERN,
            "maxLength": _TEXT_MAX,
            "x-kubernetes-validations": [
                {
                    "rule": f"duration(self) >= duration('{DURATION_MIN}') && duration(self) <= duration('{DURATION_MAX}')",
                    "message": f"must be between {DURATION_MIN} and {DURATION_MAX}",
                }
            ],
        }
    ),
]
Memory = Annotated[
    str,
    BeforeValidator(_written),
    AfterValidator(_check_memory),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": QUANTITY_PATTERN,
            "maxLength": _TEXT_MAX,
            "x-kubernetes-int-or-string": True,
            "x-kubernetes-validations": [
                {
                    "rule": f"quantity(string(self)).compareTo(quantity('{MEMORY_MIN}')) >= 0"
                    f" && quantity(string(self)).compareTo(quantity('{MEMORY_MAX}')) <= 0",
                    "message": f"must be between {MEMORY_MIN} and {MEMORY_MAX}",
                }
            ],
        }
    ),
]
