"""Where the time of one call goes, from the client's first byte to the last: the product's own receipt, the median over many calls."""

from __future__ import annotations

import statistics
import time

from bench.arrivals import Target
from bench.contenders import Kind, Standing, request, says_hello
from bench.node import Node
from bench.results import Part
from mayfly import timeline

_PAUSE_S = 0.015


def measure(node: Node, function: str, calls: int) -> list[Part]:
    """Of a function that is deployed."""
    spans: dict[str, list[float]] = {}
    for number in range(calls):
        call = f"profile-{number}"
        target = Target(node.host, node.port, request(f"/default/{function}", call=call), says_hello)
        standing = Standing(Kind(function, "", "", "monitor"), target, lambda: 0.0, lambda: None)
        standing.call()  # connects
        standing.call()
        standing.close()
        time.sleep(_PAUSE_S)
        receipt = node.receipt(call)
        if receipt is None:
            raise SystemExit(f"{call}: no receipt")
        for span in timeline.spans(receipt):
            spans.setdefault(span.name, []).append(span.length)
    return [Part(name=name, value=statistics.median(values), unit="µs") for name, values in spans.items()]
