"""What a run saves can be read again, is held to its bounds, and becomes a page with its plots."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from bench import plots, report
from bench.claims import claims
from bench.results import Contender, Curve, LoadPoint, Machine, Monitor, Part, Results, Series, Spread


def took(p50: float, p99: float) -> Spread:
    return Spread(calls=100, p50_ms=p50, p95_ms=p99, p99_ms=p99, max_ms=p99)


def contender(name: str, p50: float, p99: float) -> Contender:
    load = [LoadPoint(offered=70, achieved=70, calls=70, answered=70, refused=0, failed=0, spread=took(2, 8))]
    return Contender(
        name=name, what="…", language="CPython", front=True, latency=took(p50, p99), cpu_ms=2.0, instance_mib=1.0, saturation=100, load=load
    )


@pytest.fixture
def results() -> Results:
    machine = Machine(processor="a processor", cores=2, memory_mib=1024, system="Linux 6", virtualized=None, settings={}, versions={})
    monitor = Monitor(language="CPython", critical=took(0.3, 0.5), run=took(1, 2), cpu_ms=1.9, exits=6, pages=500, per_core=250)
    return Results(
        mode="full",
        commit="0123456789ab",
        changed=False,
        began="2026-01-01T00:00:00+00:00",
        seconds=60,
        p99_bound_ms=50,
        machine=machine,
        contenders=[contender("parked", 1.5, 3.0), contender("reuse", 1.2, 1.4)],
        monitor=[monitor],
        curves=[Curve(name="bodies", title="Bodies", x="KiB", y="ms", log_x=True, series=[Series(name="parked", points=[(1, 1), (2, 2)])])],
        profile=[Part(name="front", value=200, unit="µs"), Part(name="guest", value=300, unit="µs")],
        missing={"runsc": "not installed"},
    )


def test_results_are_read_as_they_were_saved(results: Results, tmp_path: Path) -> None:
    results.save(tmp_path / "r" / "latest.json")
    assert Results.load(tmp_path / "r" / "latest.json") == results
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["latest.json"]


def test_results_of_another_schema_are_refused(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "latest.json"
    path.write_text(results.model_dump_json().replace('"schema_version":1', '"schema_version":2'))
    with pytest.raises(ValidationError, match="schema_version"):
        Results.load(path)


def test_each_bound_is_met_or_short_by_its_figure(results: Results) -> None:
    found = {claim.what: claim.met for claim in claims(results)}
    assert found["CPython hello, p50 beside the warm process"] is True  # 1.5 ≤ 1.2 + 0.4
    assert found["CPython hello, p99 beside the warm process"] is False  # 3.0 > 1.4 + 1.5
    assert found["the VM's part of a CPython call, p50"] is True
    assert found["fresh-VM CPython calls/s/core, the VM's work alone"] is False
    assert found["open loop at 70 % of saturation, p99 over p50"] is False  # 4 × > 3 ×


def test_what_is_short_stands_first_and_nothing_is_left_out(results: Results) -> None:
    results.claims = claims(results)
    text = report.tables(results)
    short = text.index("What is not as good as it should be")
    assert short < text.index("CPython hello, p99 beside the warm process") < text.index("## What holds")
    assert "not installed" in text
    assert "| idle " in text[text.index("## Not measured") :], "a part without figures and without a reason is told, too"


def test_plots_are_drawn_of_what_there_is(results: Results, tmp_path: Path) -> None:
    names = plots.draw(results, tmp_path)
    assert names == ["latency-over-load", "cpu-per-call", "bodies", "profile"]
    for name in names:
        assert (tmp_path / f"{name}.svg").read_text().startswith("<?xml")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    plots.draw(results, tmp_path)
    assert first == {path.name: path.read_bytes() for path in tmp_path.iterdir()}, "the same results give the same bytes"
