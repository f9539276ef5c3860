"""Node and Go with their threads as records: many calls, some of which use the pool of threads, none of them answered badly.

MAYFLY_TEST_THREADED_CALLS is how many in all [160].
"""

from __future__ import annotations

import concurrent.futures
import json
import os
from pathlib import Path

import pytest

from bench.clone_cost import Function, functions
from tests.support.figures import Figure
from tests.support.serving import Serve, make_bundle

pytestmark = pytest.mark.system

CALLS = int(os.environ.get("MAYFLY_TEST_THREADED_CALLS", "160"))
FUNCTIONS = ("node", "node-pool", "go", "go-pool")
WAYS = ("records", "hybrid")


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Function]:
    return functions(tmp_path_factory.mktemp("functions"))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_call_of_a_threaded_program_is_answered_badly(
    known: dict[str, Function], tmp_path: Path, name: str, way: str, figure: Figure
) -> None:
    function = known[name]
    bundle = make_bundle(tmp_path / "bundle", function.root, function.args, memory_bytes=2 << 30)
    count = max(1, CALLS // (len(FUNCTIONS) * len(WAYS)))
    with Serve(bundle, tmp_path, "--clones", way, pool=4, ready_ms=60_000) as serve:
        ready = serve.wait_for("ready")
        assert ready["snapshot"] is not None, ready["reason"]
        assert ready["snapshot"]["threads"] > 2

        def call(number: int) -> tuple[int, str]:
            answer = serve.call(f"c-{number}", json.dumps({"n": number}).encode(), path=function.path, milliseconds=60_000)
            assert answer.status == 200, answer
            assert json.loads(answer.body) == {"n": number + 1}
            return number, answer.instance

        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            answered = list(pool.map(call, range(count)))
        assert len({instance for _, instance in answered}) == count
        for number, _ in answered:
            assert serve.ended(f"c-{number}")["cause"] == "closed"
        figure(f"{count} calls, 0 bad")
