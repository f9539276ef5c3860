"""Metrics: which series there are, and that only deployed functions have some."""

from __future__ import annotations

from faas_server.metrics import FunctionMetrics, Gauges, Metrics
from faas_server.monitor import Ended

KEY = ("default", "peer")


def ended(cause: str) -> Ended:
    return Ended.model_validate({"time": 1.0, "instance": "0" * 16, "call": "c", "cause": cause, "cpu_us": 2_000_000})


def test_calls_and_ends_are_counted() -> None:
    metrics = Metrics()
    peer = FunctionMetrics(metrics, KEY)
    peer.call(200, 0.01, 0.001)
    peer.call(200, 0.01, 0.001)
    peer.ended(ended("signal"))
    page = metrics.page().decode()
    assert 'mayfly_calls_total{code="200",function="peer",namespace="default"} 2.0' in page
    assert 'mayfly_call_seconds_count{function="peer",namespace="default"} 2.0' in page
    assert 'mayfly_instance_ends_total{cause="signal",function="peer",namespace="default"} 1.0' in page
    assert 'mayfly_cpu_seconds_total{function="peer",namespace="default"} 2.0' in page


def test_a_program_that_answers_with_every_status_makes_few_series() -> None:
    metrics = Metrics()
    peer = FunctionMetrics(metrics, KEY)
    for status in range(200, 600):
        peer.call(status, 0.01, 0.0)
    assert metrics.page().decode().count("mayfly_calls_total{") < 80


def test_the_series_of_a_function_go_with_it() -> None:
    metrics = Metrics()
    peer = FunctionMetrics(metrics, KEY)
    FunctionMetrics(metrics, ("default", "other")).call(200, 0.01, 0.0)
    for _ in range(2):  # what still comes of a function that is gone does not bring them back
        peer.call(200, 0.01, 0.0)
        peer.ended(ended("closed"))
        peer.ran(3, again=True)
        peer.forget()
        peer.call(404, 0.01, 0.0)
        peer.ended(ended("drained"))
    page = metrics.page().decode()
    assert 'function="peer"' not in page
    assert 'function="other"' in page


def test_gauges_are_asked_for_at_each_scrape() -> None:
    metrics = Metrics()
    running = [3]
    metrics.observe(lambda: [Gauges(KEY, running[0], 2, 1, ready=True)])
    assert 'mayfly_calls_running{function="peer",namespace="default"} 3.0' in metrics.page().decode()
    running[0] = 4
    page = metrics.page().decode()
    assert 'mayfly_calls_running{function="peer",namespace="default"} 4.0' in page
    assert 'mayfly_calls_waiting{function="peer",namespace="default"} 2.0' in page
    assert 'mayfly_instances_parked{function="peer",namespace="default"} 1.0' in page
    assert 'mayfly_function_ready{function="peer",namespace="default"} 1.0' in page
