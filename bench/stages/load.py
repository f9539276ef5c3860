"""Open-loop load: rates from little to saturation, each contender at shares of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from bench.arrivals import offer, saturate
from bench.contenders import Standing
from bench.quantiles import sustained
from bench.results import Contender
from bench.stages.plan import Plan

P99_BOUND_MS = 50.0
_CLIENTS = 32  # that keep a contender busy
_SETTLE_S = 0.3


def measure(contenders: Sequence[Standing], results: Sequence[Contender], plan: Plan) -> None:
    """Adds load to the results of those that meet it; the rates are interleaved, so that all contenders have their share of each minute."""
    loaded = [(contender, result) for contender, result in zip(contenders, results, strict=True) if contender.kind.loaded]
    for contender, result in loaded:
        time.sleep(_SETTLE_S)
        outcomes = saturate(contender.target, _CLIENTS, plan.saturation_s)
        result.saturation = len(outcomes.answered) / max(outcomes.last, plan.saturation_s)
    for number, share in enumerate(plan.loads):
        for contender, result in loaded:
            if result.saturation:
                time.sleep(_SETTLE_S)
                point, _ = offer(contender.target, share * result.saturation, plan.load_s, seed=number)
                result.load.append(point)
    for _, result in loaded:
        rate = sustained(result.load, P99_BOUND_MS)
        result.per_core = None if rate is None else rate / (os.cpu_count() or 1)
