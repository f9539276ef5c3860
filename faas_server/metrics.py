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
        self._calls = Counter("mayfly_calls", "Calls that were answered, by status.", (*_FUNCTION, "code"), registry=self.registry)
        self._seconds = Histogram(
            "mayfly_call_seconds", "From the request's head to the end of the answer.", _FUNCTION, buckets=_BUCKETS, registry=self.registry
        )
        self._wait = Histogram("mayfly_call_wait_seconds", "Time in queues.", _FUNCTION, buckets=_BUCKETS, registry=self.registry)
        self._refused = Counter("mayfly_refused", "Requests that belong to no function, by status.", ("code",), registry=self.registry)
        self._ends = Counter("mayfly_instance_ends", "Instances that are gone, by cause.", (*_FUNCTION, "cause"), registry=self.registry)
        self._cpu = Counter("mayfly_cpu_seconds", "CPU time of instances.", _FUNCTION, registry=self.registry)
        self._restarts = Counter("mayfly_monitor_restarts", "Monitors started again after their end.", _FUNCTION, registry=self.registry)
        self._bad_lines = Counter("mayfly_monitor_bad_lines", "Malformed lines of monitors.", _FUNCTION, registry=self.registry)

    def observe(self, gauges: Callable[[], Iterable[Gauges]]) -> None:
        """Names the source of what is asked for at each scrape."""
        self.registry.register(_Asked(gauges))

    def call(self, key: Key, status: int, seconds: float, waited: float) -> None:
        """A call is over."""
        self._calls.labels(*key, _KNOWN_STATUS.get(status) or f"{status // 100}xx").inc()
        self._seconds.labels(*key).observe(seconds)
        self._wait.labels(*key).observe(waited)

    def refused(self, status: int) -> None:
        """A request was refused before it belonged to a function."""
        self._refused.labels(_KNOWN_STATUS.get(status, "other")).inc()

    def ended(self, key: Key, event: Ended) -> None:
        """An instance is gone."""
        self._ends.labels(*key, event.cause).inc()
        self._cpu.labels(*key).inc(event.cpu_us / 1e6)

    def restarted(self, key: Key) -> None:
        """A monitor was started again."""
        self._restarts.labels(*key).inc()

    def bad_lines(self, key: Key, count: int) -> None:
        """A monitor that is gone had sent malformed lines."""
        if count:
            self._bad_lines.labels(*key).inc(count)

    def forget(self, key: Key) -> None:
        """A function is gone, and its series with it."""
        labels = dict(zip(_FUNCTION, key, strict=True))
        for metric in (self._calls, self._seconds, self._wait, self._ends, self._cpu, self._restarts, self._bad_lines):
            metric.remove_by_labels(labels)

    def page(self) -> bytes:
        """The page that Prometheus scrapes."""
        return generate_latest(self.registry)


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
