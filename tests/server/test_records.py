"""What is kept on disk, and how it stays bounded; receipts and log lines over it."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from faas_server.logs import Logs
from faas_server.monitor import Ended, Log
from faas_server.receipts import Receipts
from faas_server.records import Records
from tests.support.nodes import wait_for

KIB = 1024


@asynccontextmanager
async def opened(path: Path, *, each: int = 100 * KIB, total: int = 1000 * KIB) -> AsyncIterator[Records]:
    records = Records(path / "state" / "records.sqlite", bytes_per_function=each, bytes_total=total)
    await records.open()
    try:
        yield records
    finally:
        await records.close()


async def test_a_record_is_found_as_soon_as_it_is_handed_in(tmp_path: Path) -> None:
    async with opened(tmp_path) as records:
        records.add("receipt", "a/b", {"n": 1}, key="k")
        assert await records.by_key("receipt", "k") == {"n": 1}
        assert await records.by_key("log", "k") is None
        assert await records.by_key("receipt", "other") is None


async def test_the_newest_of_a_key_is_found(tmp_path: Path) -> None:
    async with opened(tmp_path) as records:
        for number in range(3):
            records.add("receipt", "a/b", {"n": number}, key="k")
        assert await records.by_key("receipt", "k") == {"n": 2}


async def test_the_last_come_oldest_first(tmp_path: Path) -> None:
    async with opened(tmp_path) as records:
        for number in range(10):
            records.add("log", "a/b", {"n": number})
            records.add("log", "a/c", {"n": -number})
        assert [record["n"] for record in await records.last("log", "a/b", 3)] == [7, 8, 9]
        assert await records.last("log", "a/b", 0) == []


async def test_records_outlive_the_process(tmp_path: Path) -> None:
    async with opened(tmp_path) as records:
        records.add("receipt", "a/b", {"n": 1}, key="k")
    async with opened(tmp_path) as records:
        assert await records.by_key("receipt", "k") == {"n": 1}


async def test_they_are_written_without_being_asked_for(tmp_path: Path) -> None:
    async with opened(tmp_path) as records:
        records.add("receipt", "a/b", {"n": 1}, key="k")
        await asyncio.to_thread(wait_for, lambda: _rows(tmp_path), "a row on disk")


def _rows(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path / "state" / "records.sqlite")) as database:
        return int(database.execute("SELECT COUNT(*) FROM records").fetchone()[0])


async def test_a_chatty_function_pushes_out_only_its_own(tmp_path: Path) -> None:
    async with opened(tmp_path, each=10 * KIB) as records:
        records.add("log", "a/quiet", {"n": 0})
        for number in range(1000):
            records.add("log", "a/chatty", {"n": number, "text": "x" * 100})
            if number % 100 == 0:
                await records.last("log", "a/chatty", 1)
        kept = await records.last("log", "a/chatty", 10_000)
        assert kept[-1]["n"] == 999
        assert 50 < len(kept) < 100
        assert await records.last("log", "a/quiet", 1) == [{"n": 0}]


async def test_all_together_are_bounded(tmp_path: Path) -> None:
    async with opened(tmp_path, each=10 * KIB, total=50 * KIB) as records:
        for function in range(100):
            for _ in range(20):
                records.add("log", f"a/f{function}", {"text": "x" * 100})
            await records.last("log", "a/f0", 1)
        assert await records.last("log", "a/f0", 1) == []
        assert len(await records.last("log", "a/f99", 100)) == 20
    assert (tmp_path / "state" / "records.sqlite").stat().st_size < 500 * KIB


async def test_the_bounds_hold_over_restarts(tmp_path: Path) -> None:
    for _ in range(5):
        async with opened(tmp_path, each=10 * KIB) as records:
            for _ in range(80):
                records.add("log", "a/b", {"text": "x" * 100})
    async with opened(tmp_path, each=10 * KIB) as records:
        assert len(await records.last("log", "a/b", 10_000)) < 100


async def test_a_file_that_cannot_be_read_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "records.sqlite").write_bytes(b"not a database" * 1000)
    async with opened(tmp_path) as records:
        records.add("receipt", "a/b", {"n": 1}, key="k")
        assert await records.by_key("receipt", "k") == {"n": 1}
    assert (tmp_path / "state" / "records.sqlite.unreadable").read_bytes().startswith(b"not a database")


async def test_a_file_that_cannot_be_opened_is_left_alone_and_memory_serves(tmp_path: Path) -> None:
    (tmp_path / "state" / "records.sqlite").mkdir(parents=True)
    async with opened(tmp_path) as records:
        records.add("receipt", "a/b", {"n": 1}, key="k")
        assert await records.by_key("receipt", "k") == {"n": 1}
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["records.sqlite"]


async def test_a_disk_that_refuses_costs_records_and_nothing_else(tmp_path: Path) -> None:
    async with opened(tmp_path) as records:
        records.add("receipt", "a/b", {"n": 1}, key="first")
        await records.by_key("receipt", "first")
        with contextlib.closing(sqlite3.connect(tmp_path / "state" / "records.sqlite", isolation_level=None)) as other:
            other.execute("ALTER TABLE records RENAME TO hidden")
            records.add("receipt", "a/b", {"n": 2}, key="second")
            assert await records.by_key("receipt", "second") is None
            other.execute("ALTER TABLE hidden RENAME TO records")
        records.add("receipt", "a/b", {"n": 3}, key="third")
        assert await records.by_key("receipt", "third") == {"n": 3}
        assert await records.by_key("receipt", "first") == {"n": 1}


# ---- receipts

ONE, TWO = "0" * 15 + "1", "0" * 15 + "2"


def server_view(call: str, **fields: Any) -> dict[str, Any]:
    return {"call": call, "status": 200, **fields}


def monitor_view(instance: str, call: str | None, **fields: Any) -> Ended:
    return Ended.model_validate({"time": 1.0, "instance": instance, "call": call, "cause": "closed", **fields})


async def test_the_two_views_meet_in_either_order(tmp_path: Path) -> None:
    async with opened(tmp_path) as records:
        receipts = Receipts(records)
        receipts.answered("a/b", ONE, server_view("x"))
        receipts.ended("a/b", monitor_view(ONE, "x", cpu_us=5))
        receipts.ended("a/b", monitor_view(TWO, "y", cpu_us=6))
        receipts.answered("a/b", TWO, server_view("y"))
        for call, cpu in (("x", 5), ("y", 6)):
            receipt = await receipts.find(call)
            assert receipt is not None
            assert (receipt["call"], receipt["monitor"]["cpu_us"]) == (call, cpu)
        assert [receipt["call"] for receipt in await receipts.last("a/b", 10)] == ["x", "y"]


async def test_the_moments_of_both_views_are_told_from_the_calls_beginning(tmp_path: Path) -> None:
    async with opened(tmp_path) as records:
        receipts = Receipts(records)
        receipts.answered("a/b", ONE, {**server_view("x"), "time": 100.0, "began_at": 5_000_000})
        moments = {"taken_at": 5_000_300, "answered_at": 5_000_900, "guest_us": 150}
        receipts.ended("a/b", monitor_view(ONE, "x", time=100.002, moments=moments))
        receipt = await receipts.find("x")
        assert receipt is not None
        assert (receipt["taken_us"], receipt["written_us"], receipt["guest_us"]) == (300, 900, 150)
        assert 1990 <= receipt["gone_us"] <= 2000
        assert "began_at" not in receipt
        assert "moments" not in receipt["monitor"]


async def test_calls_with_the_same_id_do_not_mix(tmp_path: Path) -> None:
    async with opened(tmp_path) as records:
        receipts = Receipts(records)
        receipts.answered("a/b", ONE, server_view("same", status=201))
        receipts.answered("a/b", TWO, server_view("same", status=202))
        receipts.ended("a/b", monitor_view(TWO, "same", cpu_us=2))
        receipts.ended("a/b", monitor_view(ONE, "same", cpu_us=1))
        pairs = {(receipt["status"], receipt["monitor"]["cpu_us"]) for receipt in await receipts.last("a/b", 10)}
        assert pairs == {(201, 1), (202, 2)}


async def test_a_reader_waits_a_moment_for_the_monitors_part(tmp_path: Path) -> None:
    async with opened(tmp_path) as records:
        receipts = Receipts(records)
        receipts.answered("a/b", ONE, server_view("x"))
        reading = asyncio.create_task(receipts.find("x"))
        await asyncio.sleep(0)
        receipts.ended("a/b", monitor_view(ONE, "x", cpu_us=5))
        receipt = await reading
        assert receipt is not None
        assert receipt["monitor"]["cpu_us"] == 5


async def test_a_view_without_its_other_half_is_kept_alone(tmp_path: Path) -> None:
    async with opened(tmp_path) as records:
        receipts = Receipts(records)
        receipts.answered("a/b", ONE, server_view("x"))
        receipts.answered("a/b", None, server_view("y"))
        receipts.expire(patience=0.0)
        found = await records.last("receipt", "a/b", 10)
        assert [(receipt["call"], receipt["monitor"]) for receipt in found] == [("y", None), ("x", None)]


async def test_reading_early_takes_nothing_from_a_receipt(tmp_path: Path) -> None:
    async with opened(tmp_path) as records:
        receipts = Receipts(records)
        receipts.answered("a/b", ONE, server_view("x"))
        assert [receipt["monitor"] for receipt in await receipts.last("a/b", 10)] == [None]
        receipts.ended("a/b", monitor_view(ONE, "x", cpu_us=5))
        (receipt,) = await receipts.last("a/b", 10)
        assert receipt["monitor"]["cpu_us"] == 5
        assert await receipts.last("a/b", 0) == []


async def test_an_instance_that_had_no_call_leaves_no_receipt(tmp_path: Path) -> None:
    async with opened(tmp_path) as records:
        receipts = Receipts(records)
        receipts.ended("a/b", monitor_view(ONE, None, cause="drained"))
        assert await receipts.last("a/b", 10) == []


async def test_halves_without_end_take_no_memory(tmp_path: Path) -> None:
    async with opened(tmp_path) as records:
        receipts = Receipts(records)
        for number in range(20_000):
            receipts.ended("a/b", monitor_view(f"{number:016x}", "x"))
        assert len(receipts._halves) < 5_000


async def test_the_ending_is_awaited_but_not_for_ever(tmp_path: Path) -> None:
    async with opened(tmp_path) as records:
        receipts = Receipts(records)
        waiting = asyncio.create_task(receipts.ending("a/b", ONE, 5.0))
        await asyncio.sleep(0)
        receipts.ended("a/b", monitor_view(ONE, "x", cause="signal"))
        ended = await waiting
        assert ended is not None
        assert not ended.well
        assert await receipts.ending("a/b", TWO, 0.01) is None


# ---- log lines


def written(text: str) -> Log:
    return Log.model_validate({"time": 1.0, "instance": ONE, "call": "c", "stream": "stdout", "line": text})


async def test_lines_are_kept_and_followed_without_a_gap_or_a_repetition(tmp_path: Path) -> None:
    async with opened(tmp_path) as records:
        logs = Logs(records)
        for number in range(5):
            logs.add("a/b", "r", written(str(number)))
        following = logs.follow("a/b", 3)
        seen = [(await anext(following))["line"]]
        for number in range(5, 8):  # while the follower is still at the kept ones
            logs.add("a/b", "r", written(str(number)))
            logs.add("a/other", "r", written("no"))
        seen += [(await anext(following))["line"] for _ in range(5)]
        assert seen == ["2", "3", "4", "5", "6", "7"]
        waiting = asyncio.ensure_future(anext(following))
        logs.add("a/b", "r", written("last"))
        assert (await waiting)["line"] == "last"
        await following.aclose()
        assert not logs._followers


async def test_a_slow_follower_loses_lines_and_is_told(tmp_path: Path) -> None:
    async with opened(tmp_path) as records:
        logs = Logs(records)
        logs.add("a/b", "r", written("first"))
        following = logs.follow("a/b", 1)
        await anext(following)
        for number in range(5_000):
            logs.add("a/b", "r", written(str(number)))
        seen = [await anext(following) for _ in range(2_001)]
        assert seen[-1] == {"lost": 3_000}
        await following.aclose()
