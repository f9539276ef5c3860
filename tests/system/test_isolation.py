"""No call sees another: each has an instance of its own, which is gone right after it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.figures import Figure
from tests.support.load import Target, calls, spread
from tests.support.node import Node, until
from tests.support.system import descendants, function, management, size

CALLS = size("CALLS", 2000)
AT_A_TIME = 16


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_call_sees_another(node: Node, examples: Path, figure: Figure) -> None:
    node.ok("apply", "-f", examples / "counter" / "image.yaml", "--wait", "--timeout", "50s")
    status = function(node, "counter")
    monitor, pool = status["serving"]["monitor_pid"], status["spec"]["pool"]
    outcomes = calls(Target(node.url, "/default/counter"), CALLS, at_a_time=AT_A_TIME)
    last = time.monotonic()
    # Of all that have run, nothing is left: the processes below the monitor are those that wait for a call and have never run.
    until(lambda: len(descendants(monitor)) <= pool, "the end of all instances", 1.0)
    gone = time.monotonic() - last
    seconds = last - min(outcome.began for outcome in outcomes)
    figure(f"{spread(outcomes)}; {CALLS / seconds:.0f} calls a second; the last instance was gone after {gone * 1000:.0f} ms")

    assert [outcome for outcome in outcomes if not outcome.ok] == []
    assert {outcome.body for outcome in outcomes} == {b"1\n"}
    assert len({outcome.instance for outcome in outcomes}) == len(outcomes) == CALLS
    assert len({outcome.call for outcome in outcomes}) == CALLS
    assert {outcome.revision for outcome in outcomes} == {status["revision"]}

    # The monitor has seen each of them end, and none for another reason than that its call was over.
    def ends() -> dict[str, str]:
        found = management(node, f"/functions/default/counter/receipts?limit={CALLS}")["receipts"]
        return {receipt["instance"]: receipt["monitor"]["cause"] for receipt in found if receipt["monitor"]}

    until(lambda: len(ends()) == CALLS, "all receipts")
    assert ends().keys() == {outcome.instance for outcome in outcomes}
    assert set(ends().values()) <= {"closed", "abandoned"}

    node.ok("delete", "image", "counter")
    until(lambda: not node.monitors(), "the end of the function's processes")


def test_without_a_pool_no_instance_lives_between_calls(node: Node, examples: Path) -> None:
    text = (examples / "counter" / "image.yaml").read_text().replace("oci:image.oci", f"oci:{examples}/counter/image.oci")
    node.ok("apply", "-f", "-", "--wait", "--timeout", "50s", stdin=f"{text.rstrip()}\n  pool: 0\n")
    monitor = function(node, "counter")["serving"]["monitor_pid"]
    outcomes = calls(Target(node.url, "/default/counter"), 48, at_a_time=AT_A_TIME)
    until(lambda: not descendants(monitor), "the end of all instances", 1.0)
    assert [outcome for outcome in outcomes if not outcome.ok] == []
    assert {outcome.body for outcome in outcomes} == {b"1\n"}
    assert len({outcome.instance for outcome in outcomes}) == 48
