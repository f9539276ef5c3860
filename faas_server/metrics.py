"""Metrics for Prometheus. Every series belongs to a deployed function or to a fixed word, so no client can make a new one.

Counters and histograms are kept here; what the fleet knows at any moment (running, waiting, parked) is asked for when it is scraped. A
function's series go when it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from faas_server.monitor import Ended

# Of a call that costs a quarter of a millisecond at best and has a minute at most.
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_FUNCTION = ("namespace", "function")
_KNOWN_STATUS = {int(status): str(int(status)) for status in HTTPStatus}

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Gauges:
    """A function at this moment."""

    key: Key
    running: int
    waiting: int
    parked: int
    ready: bool


class Metrics:
    """One registry: a process may hold several servers, as tests do."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.refused = Counter("mayfly_refused", "Requests that belong to no function, by status.", ("code",), registry=self.registry)
        self.calls = self._counter("mayfly_calls", "Calls that were answered, by status.", "code")
        self.seconds = self._histogram("mayfly_call_seconds", "From the request's head to the end of the answer.")
        self.wait = self._histogram("mayfly_call_wait_seconds", "Time in queues.")
        self.ends = self._counter("mayfly_instance_ends", "Instances that are gone, by cause.", "cause")
        self.cpu = self._counter("mayfly_cpu_seconds", "CPU time of instances.")
        self.restarts = self._counter("mayfly_monitor_restarts", "Monitors started again after their end.")
        self.bad_lines = self._counter("mayfly_monitor_bad_lines", "Malformed lines of monitors.")

    def of_functions(self) -> tuple[Counter | Histogram, ...]:
        """Those whose series belong to functions."""
        return (self.calls, self.seconds, self.wait, self.ends, self.cpu, self.restarts, self.bad_lines)

    def observe(self, gauges: Callable[[], Iterable[Gauges]]) -> None:
        """Names the source of what is asked for at each scrape."""
        self.registry.register(_Asked(gauges))

    def page(self) -> bytes:
        """The page that Prometheus scrapes."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, (*_FUNCTION, *labels), registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, _FUNCTION, buckets=_BUCKETS, registry=self.registry)


class FunctionMetrics:
    """The series of one function, looked up once; nothing is counted any more after `forget`."""

    def __init__(self, metrics: Metrics, key: Key) -> None:
        self._metrics = metrics
        self._key = key
        self._forgotten = False
        self._seconds = metrics.seconds.labels(*key)
        self._wait = metrics.wait.labels(*key)
        self._cpu = metrics.cpu.labels(*key)
        self._calls: dict[int, Counter] = {}
        self._ends: dict[str, Counter] = {}

    def call(self, status: int, seconds: float, waited: float) -> None:
        """A call is over."""
        if self._forgotten:
            return
        counter = self._calls.get(status)
        if counter is None:
            code = _KNOWN_STATUS.get(status) or f"{status // 100}xx"
            counter = self._calls[status] = self._metrics.calls.labels(*self._key, code)
        counter.inc()
        self._seconds.observe(seconds)
        self._wait.observe(waited)

    def ended(self, event: Ended) -> None:
        """An instance is gone."""
        if self._forgotten:
            return
        counter = self._ends.get(event.cause)
        if counter is None:
            counter = self._ends[event.cause] = self._metrics.ends.labels(*self._key, event.cause)
        counter.inc()
        self._cpu.inc(event.cpu_us / 1e6)

    def ran(self, bad_lines: int, *, again: bool) -> None:
        """A monitor is gone, and is started again or not."""
        if self._forgotten:
            return
        if bad_lines:
            self._metrics.bad_lines.labels(*self._key).inc(bad_lines)
        if again:
            self._metrics.restarts.labels(*self._key).inc()

    def forget(self) -> None:
        """The function is gone, and its series with it."""
        self._forgotten = True
        labels = dict(zip(_FUNCTION, self._key, strict=True))
        for metric in self._metrics.of_functions():
            metric.remove_by_labels(labels)


class _Asked:
    """Prometheus' collector interface over a function that tells the gauges."""

    def __init__(self, gauges: Callable[[], Iterable[Gauges]]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        running = GaugeMetricFamily("mayfly_calls_running", "Calls that have a place.", labels=_FUNCTION)
        waiting = GaugeMetricFamily("mayfly_calls_waiting", "Calls that wait for the function.", labels=_FUNCTION)
        parked = GaugeMetricFamily("mayfly_instances_parked", "Instances that wait for a call.", labels=_FUNCTION)
        ready = GaugeMetricFamily("mayfly_function_ready", "1: the function answers calls.", labels=_FUNCTION)
        for function in self._gauges():
            running.add_metric(function.key, function.running)
            waiting.add_metric(function.key, function.waiting)
            parked.add_metric(function.key, function.parked)
            ready.add_metric(function.key, function.ready)
        yield from (running, waiting, parked, ready)
