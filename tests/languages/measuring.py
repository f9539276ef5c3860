"""One program of the table: booted by `serve`, called in fresh virtual machines, its answers checked and its figures taken."""

from __future__ import annotations

import contextlib
import json
import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.languages.catalog import Program
from tests.languages.roots import root_of
from tests.support.serving import Answer, Event, Serve, make_bundle

# Until a program is ready, milliseconds: the slowest boots in two seconds on a machine that does nothing else.
READY_MS = 60_000
CALL_MS = 15_000
# After so many wrong answers the rest is not asked for.
ENOUGH = 3


@dataclass
class Row:
    """What the table says of one program. Times in milliseconds, memory in MiB; None: not known."""

    name: str
    title: str
    version: str
    launch: str
    reason: str | None
    threads: int | None
    boot_ms: float
    calls: int
    wrong: list[str] = field(default_factory=list)
    repeated: int = 0
    call_ms: float = 0.0
    exits: float = 0.0
    private_mib: float | None = None

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        fresh = directory / f".{self.name}.new"
        fresh.write_text(json.dumps(asdict(self)))
        fresh.rename(directory / f"{self.name}.json")


def measure(program: Program, directory: Path, calls: int) -> Row:
    """Boots the program and calls it. A program that does not start is an AssertionError with what it said."""
    root = root_of(program.name, program.sources)
    bundle = make_bundle(
        directory / "bundle",
        root,
        program.args,
        contract=program.contract,
        env=["HOME=/root", "LANG=C.UTF-8", *program.env],
        timeout_ms=CALL_MS,
        memory_bytes=program.memory,
    )
    with Serve(bundle, directory, "--log-limit", "1000000", ready_ms=READY_MS) as serve:
        ready = _ready(serve)
        private = _private_mebibytes(serve)
        snapshot = ready["snapshot"]
        row = Row(
            name=program.name,
            title=program.title,
            version="",
            launch="snapshot" if snapshot else "boot for each call",
            reason=ready["reason"],
            threads=snapshot["threads"] if snapshot else None,
            boot_ms=ready["boot_ms"],
            calls=calls,
            private_mib=private,
        )
        randoms: Counter[object] = Counter()
        receipts = []
        for number in range(calls):
            if len(row.wrong) == ENOUGH:
                break
            name = f"call-{number}"
            asked = {"text": f"{program.name} {number}", "number": number}
            answer = serve.call(name, json.dumps(asked).encode() + b"\n", path=program.path, milliseconds=CALL_MS, headers=JSON)
            receipt = serve.ended(name)
            told = _wrong(program, asked, answer)
            if told:
                row.wrong.append(f"{name}: {told}; {_evidence(serve, receipt)}")
            else:
                document = json.loads(answer.body)
                row.version = document["version"]
                randoms[document["random"]] += 1
                receipts.append(receipt)
        row.repeated = sum(count - 1 for count in randoms.values())
        if receipts:
            row.call_ms = statistics.median(receipt["run_us"] for receipt in receipts) / 1000
            row.exits = statistics.median(receipt["exits"] for receipt in receipts)
    return row


JSON = {"Content-Type": "application/json"}


def _ready(serve: Serve) -> Event:
    """The event `ready`; a program that fails says why."""
    event = serve.wait_for("ready", otherwise="failed", patience=2 * READY_MS / 1000)
    if event["event"] == "failed":
        raise AssertionError(f"{event['reason']}: {event['message']}\n{event['output']}\n{serve.errors()}")
    return event


def _wrong(program: Program, asked: Mapping[str, object], answer: Answer) -> str | None:
    """What is wrong with an answer."""
    if answer.status != 200 or not answer.whole:
        return f"status {answer.status}, {dict(answer.headers)}, {answer.body[:200]!r}"
    try:
        document = json.loads(answer.body)
    except ValueError:
        return f"not JSON: {answer.body[:200]!r}"
    number = asked["number"]
    assert isinstance(number, int)
    expected = {"text": asked["text"], "count": 1, "sum": number * (number + 1) * (2 * number + 1) // 6, **program.proof}
    for key, value in expected.items():
        if document.get(key) != value:
            return f"{key} is {document.get(key)!r}, not {value!r}"
    if len(document["random"]) != 32 or not document["version"]:
        return f"random {document['random']!r}, version {document['version']!r}"
    return None


def _evidence(serve: Serve, receipt: Event) -> str:
    lines = [event["line"] for event in serve.events if event["event"] == "log" and event["call"] == receipt["call"]]
    return f"{receipt['cause']} {receipt['code']} {receipt['message']}; {lines[-20:]}; {serve.errors()[-2000:]}"


def _private_mebibytes(serve: Serve) -> float | None:
    """Memory of a parked instance that is nobody else's; known to root only."""
    pid = serve.wait_for("parked", patience=2 * READY_MS / 1000)["pid"]
    with contextlib.suppress(OSError):
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        private = [int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_")]
        return sum(private) / 1024
    return None
