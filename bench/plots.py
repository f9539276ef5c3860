"""The plots of a run, as SVG for pages and PNG for everything else. Needs matplotlib (the extra `bench`)."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.results import Curve, Part, Results, Series

_LATENCY = ("parked", "reuse", "fork", "node parked", "node reuse", "go parked", "go reuse", "floor")
_SIZE = (7.2, 4.2)


def draw(results: Results, directory: Path) -> list[str]:
    """All that the results have data for; the names of the plots, without suffix."""
    directory.mkdir(parents=True, exist_ok=True)
    # The same results give the same bytes.
    mpl.rcParams.update({"svg.hashsalt": "mayfly", "svg.fonttype": "path", "font.size": 9})
    drawn = []
    if any(contender.load for contender in results.contenders):
        drawn.append(_saved(_latency_over_load(results), directory, "latency-over-load"))
    if any(contender.cpu_ms for contender in results.contenders):
        drawn.append(_saved(_cpu(results), directory, "cpu-per-call"))
    drawn += [_saved(_curve(curve), directory, curve.name) for curve in results.curves if any(series.points for series in curve.series)]
    if results.profile:
        drawn.append(_saved(_profile(results.profile), directory, "profile"))
    return drawn


def _axes(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.grid(visible=True, alpha=0.3)
    return figure, axes


def _saved(figure: Figure, directory: Path, name: str) -> str:
    figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
    figure.savefig(directory / f"{name}.png", dpi=110, metadata={"Software": None})
    return name


def _latency_over_load(results: Results) -> Figure:
    figure, axes = _axes("Latency over load: arrivals by a schedule, p50 (line) and p99 (dotted)")
    for name in _LATENCY:
        contender = results.contender(name)
        points = [point for point in contender.load if point.spread is not None] if contender else []
        if points:
            rates = [point.offered for point in points]
            (line,) = axes.plot(rates, [point.spread.p50_ms for point in points if point.spread], marker="o", markersize=3, label=name)
            axes.plot(rates, [point.spread.p99_ms for point in points if point.spread], linestyle=":", color=line.get_color())
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("calls a second")
    axes.set_ylabel("ms from the scheduled moment")
    axes.legend(fontsize=8)
    return figure


def _cpu(results: Results) -> Figure:
    found = [(contender.name, contender.cpu_ms) for contender in results.contenders if contender.cpu_ms]
    figure, axes = _axes("Processor time per call, all processes")
    axes.barh([name for name, _ in found][::-1], [value for _, value in found][::-1])
    axes.set_xscale("log")
    axes.set_xlabel("ms")
    return figure


def _curve(curve: Curve) -> Figure:
    figure, axes = _axes(curve.title)
    for series in curve.series:
        _line(axes, series)
    if curve.log_x:
        axes.set_xscale("log")
    axes.set_xlabel(curve.x)
    axes.set_ylabel(curve.y)
    axes.set_ylim(bottom=0)
    if len(curve.series) > 1:
        axes.legend(fontsize=8)
    return figure


def _line(axes: Axes, series: Series) -> None:
    axes.plot([x for x, _ in series.points], [y for _, y in series.points], marker="o", markersize=4, label=series.name)


def _profile(parts: list[Part]) -> Figure:
    """Spans one under the other, each beginning where the one before ended."""
    figure, axes = _axes("Where the time of one call goes, medians")
    at = 0.0
    for number, part in enumerate(parts):
        axes.barh(number, part.value, left=at)
        axes.annotate(f"{part.value:.0f} µs", (at + part.value, number), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)
        at += part.value
    axes.set_yticks(range(len(parts)), [part.name for part in parts])
    axes.invert_yaxis()
    axes.set_xlim(0, at * 1.12)
    axes.set_xlabel("µs from the server's having read the request's head")
    return figure
