"""What a call in a clone costs: critical path, CPU, page faults and exits, for ways of making clones, interleaved in one run.

`mayfly-monitor serve` is called directly, without the server in front, one process for each way; every call meets an instance that is
parked already. The critical path is from connecting to the end of the answer; CPU is the receipt's, the whole life of the instance's
process; what `serve` itself needs for each call stands beside it.

    .venv/bin/python -m bench.clone_cost [--calls 200] [--functions cpython,node,go] [--ways cold,touched] [--against MONITOR]

`--against` measures each way with another binary of the monitor too, interleaved with the first.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.serving import MONITOR, Serve, make_bundle

_TICKS = os.sysconf("SC_CLK_TCK")

CPYTHON = """
import json, os
from http.server import BaseHTTPRequestHandler, HTTPServer
class Hello(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        value = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or '{"n": 0}')
        body = json.dumps({"n": value["n"] + 1}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST
    def log_message(self, *_): pass
HTTPServer(("0.0.0.0", int(os.environ["PORT"])), Hello).serve_forever()
"""

# Before it is ready, the thread pool is used once, so that its threads are there.
NODE = """
const http = require('http'), fs = require('fs'), crypto = require('crypto');
const server = http.createServer((request, response) => {
  let body = '';
  request.on('data', piece => body += piece);
  request.on('end', () => {
    const n = JSON.parse(body || '{"n":0}').n;
    const answer = () => response.end(JSON.stringify({n: n + 1}));
    if (request.url == '/pool')
      fs.readFile('/etc/hostname', () => crypto.pbkdf2('a', 'b', 10, 32, 'sha256', answer));
    else answer();
  });
});
fs.readFile('/etc/hostname', () => server.listen(process.env.PORT));
"""

GO = """
package main

import (
	"encoding/json"
	"net/http"
	"os"
	"sync"
	"syscall"
)

type value struct {
	N int `json:"n"`
}

func blocking(done *sync.WaitGroup) {
	defer done.Done()
	var ends [2]int
	if syscall.Pipe(ends[:]) != nil {
		panic("pipe")
	}
	go func() { syscall.Write(ends[1], []byte("x")) }()
	one := make([]byte, 1)
	if n, _ := syscall.Read(ends[0], one); n != 1 {
		panic("read")
	}
	syscall.Close(ends[0])
	syscall.Close(ends[1])
}

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		var v value
		if json.NewDecoder(r.Body).Decode(&v) != nil {
			w.WriteHeader(400)
			return
		}
		if r.URL.Path == "/pool" {
			var done sync.WaitGroup
			for i := 0; i < 4; i++ {
				done.Add(1)
				go blocking(&done)
			}
			done.Wait()
		}
		json.NewEncoder(w).Encode(value{v.N + 1})
	})
	panic(http.ListenAndServe(":"+os.Getenv("PORT"), nil))
}
"""


_PAUSE = 0.02
_RECEIPT = ("cpu_us", "run_us", "pages", "exits")
_COLUMNS = ("p10 us", "p50 us", "p95 us", "CPU us", "run us", "pages", "exits", "serve us", "calls", "warm")


def row(function: str, way: str, *columns: str) -> str:
    """A line of the table."""
    return f"{function:<10} {way:<18} " + " ".join(f"{column:>8}" for column in columns)


@dataclass(frozen=True)
class Function:
    """A program and the path it is called at."""

    name: str
    root: Path
    args: Sequence[str]
    path: str = "/"


def functions(place: Path) -> dict[str, Function]:
    """The functions by name; those whose language is missing here are left out."""
    found = {"cpython": Function("cpython", Path("/"), [os.path.realpath(sys.executable), "-c", CPYTHON])}
    if node := shutil.which("node"):
        found["node"] = Function("node", Path("/"), [node, "-e", NODE])
        found["node-pool"] = Function("node-pool", Path("/"), [node, "-e", NODE], "/pool")
    if go := shutil.which("go"):
        root = place / "go"
        for name in ("proc", "sys", "dev", "tmp"):
            (root / name).mkdir(parents=True, exist_ok=True)
        (place / "main.go").write_text(GO)
        environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod", "GO111MODULE": "off"}
        subprocess.run([go, "build", "-o", str(root / "main"), str(place / "main.go")], env=environment, check=True)
        found["go"] = Function("go", root, ["/main"])
        found["go-pool"] = Function("go-pool", root, ["/main"], "/pool")
    return found


@dataclass
class Contender:
    """One `serve` and what was measured of it."""

    function: Function
    way: str
    serve: Serve
    warm: int
    calls: int = 0
    cpu_before: float = 0.0
    critical: list[float] = field(default_factory=list)
    receipts: list[dict[str, float]] = field(default_factory=list)

    def await_parked(self) -> None:
        """Until an instance is parked that no call has had."""
        seen: set[str] = {event["instance"] for event in self.serve.events if event["event"] == "accepted"}
        self.serve.wait_for("parked", lambda event: event["instance"] not in seen)

    def call(self, number: int) -> None:
        """One call, checked."""
        self.await_parked()
        name = f"{self.way.replace('+', '-').replace('/', '-')}-{self.calls}"
        began = time.perf_counter()
        answer = self.serve.call(name, json.dumps({"n": number}).encode(), path=self.function.path)
        took = time.perf_counter() - began
        if answer.status != 200 or json.loads(answer.body) != {"n": number + 1}:
            raise SystemExit(f"{self.function.name} {self.way}: a call was answered {answer}; {self.serve.ended(name)}")
        self.calls += 1
        self.critical.append(took * 1e6)
        self.receipts.append(self.serve.ended(name))
        self.serve.events = [event for event in self.serve.events if event["event"] in {"parked", "accepted"}][-200:]

    def serve_cpu(self) -> float:
        """CPU of `serve` itself so far, microseconds."""
        words = Path(f"/proc/{self.serve.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(words[11]) + int(words[12])) * 1e6 / _TICKS


def settle(contenders: Sequence[Contender]) -> None:
    """Until the making of one way's next instance disturbs no other way's call."""
    for contender in contenders:
        contender.await_parked()
    time.sleep(_PAUSE)


def at(values: Sequence[float], share: float) -> float:
    """A percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def main() -> None:
    """Prints a table for each function."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200, help="calls of each function and way [200]")
    parser.add_argument("--functions", default="cpython,node,node-pool,go,go-pool")
    parser.add_argument("--ways", default="default")
    parser.add_argument("--against", type=Path, help="another mayfly-monitor")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as directory:
        known = functions(Path(directory))
        print(f"{platform.system()} {platform.release()}, {os.cpu_count()} CPUs, {options.calls} calls of each")
        print(row("function", "way", *_COLUMNS))
        for name in options.functions.split(","):
            if name in known:
                programs = {"": MONITOR} | ({"other/": options.against} if options.against else {})
                measure(known[name], options.ways.split(","), options.calls, Path(directory), programs)


def measure(function: Function, ways: Sequence[str], calls: int, place: Path, programs: Mapping[str, Path]) -> None:
    """All ways of all programs, interleaved."""
    with ExitStack() as stack:
        contenders = []
        for number, (way, program) in enumerate(itertools.product(ways, programs)):
            directory = place / f"{function.name}-{number}"
            bundle = make_bundle(directory / "bundle", function.root, function.args, memory_bytes=2 << 30)
            arguments = [] if way == "default" else [part for option in way.split("+") for part in ("--clones", option)]
            serve = stack.enter_context(Serve(bundle, directory, *arguments, pool=1, ready_ms=30_000, program=(str(programs[program]),)))
            ready = serve.wait_for("ready")
            if ready["snapshot"] is None:
                raise SystemExit(f"{function.name}: no snapshot: {ready['reason']}")
            contenders.append(Contender(function, program + way, serve, ready["snapshot"]["warm_pages"]))
        for contender in contenders:
            for number in range(10):
                contender.call(number)
            contender.critical.clear()
            contender.receipts.clear()
            contender.cpu_before = contender.serve_cpu()
        for number in range(calls):
            for contender in random.sample(contenders, len(contenders)):
                settle(contenders)
                contender.call(number)
        for contender in contenders:
            values = [at(contender.critical, share) for share in (0.1, 0.5, 0.95)]
            values += [statistics.median(receipt[key] for receipt in contender.receipts) for key in _RECEIPT]
            values += [(contender.serve_cpu() - contender.cpu_before) / calls, len(contender.receipts), contender.warm]
            print(row(function.name, contender.way, *(f"{value:.0f}" for value in values)))


if __name__ == "__main__":
    main()
