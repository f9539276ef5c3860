"""The demonstration of `make demo`: a node, a function, two calls, each in a virtual machine of its own.

Uses the command line as a person would, on a data directory and a port of its own, and leaves nothing behind. Ends with 0 when two calls
were answered by two instances of one revision; otherwise says what went wrong and shows what the node said.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MAYFLY = Path(sys.executable).parent / "mayfly"
_START_SECONDS = 60.0
_STOP_SECONDS = 60.0
_POLL_SECONDS = 0.05


class Failed(Exception):
    """The demonstration did not show what it is to show."""


def main() -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mayfly-demo-") as name:
        place = Path(name)
        try:
            with node(place) as data:
                show(place, data)
        except Failed as error:
            print(f"\nThe demonstration failed: {error}", file=sys.stderr)
            log = place / "node.log"
            if log.exists():
                print(f"\nWhat the node said:\n{log.read_text(errors='replace')}", file=sys.stderr)
            return 1
    print(f"\nDone in {time.monotonic() - began:.1f} s. A function of your own in five minutes: README.md.")
    return 0


def show(place: Path, data: Path) -> None:
    layout = place / "hello.oci"
    step("An image of the Python example, with this machine's interpreter")
    print(mayfly(data, "image", "build", str(ROOT / "examples" / "hello"), "-o", str(layout)).strip())

    step("Applied, and waited for")
    manifest = (ROOT / "examples" / "hello" / "image.yaml").read_text().replace("oci:image.oci", f"oci:{layout}")
    print(mayfly(data, "apply", "-f", "-", "--wait", "--timeout", "60s", stdin=manifest).strip())
    print(mayfly(data, "get", "images").rstrip())

    step("Two calls")
    answers = [json.loads(mayfly(data, "call", "hello", "-d", who, "--output", "json")) for who in ("Ada", "Grace")]
    for answer in answers:
        show_answer(answer)
    if any(answer["status"] != 200 for answer in answers):
        raise Failed("a call was not answered with 200")
    if len({answer["instance"] for answer in answers}) != 2:
        raise Failed("both calls ran in one instance")
    if len({answer["revision"] for answer in answers}) != 1:
        raise Failed("the calls ran in different revisions")
    print("\nTwo instances, one revision: each call ran in a virtual machine that had never seen another request.")


def show_answer(answer: dict[str, Any]) -> None:
    print(f"  answer    {answer['body'].strip()}")
    print(f"  instance  {answer['instance']}   revision {answer['revision']}   {answer['seconds'] * 1000:.1f} ms\n")


def step(text: str) -> None:
    print(f"\n── {text}", flush=True)


def mayfly(data: Path, *arguments: str, stdin: str | None = None) -> str:
    """Runs a command; its output, or Failed with its error."""
    command = [str(MAYFLY), *arguments]
    finished = subprocess.run(command, input=stdin, env=environment(data), capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise Failed(f"`mayfly {' '.join(arguments)}` ended with {finished.returncode}:\n{finished.stderr.strip()}")
    return finished.stdout


def environment(data: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
    return {**kept, "MAYFLY_DATA": str(data)}


@contextmanager
def node(place: Path) -> Iterator[Path]:
    """`mayfly up` on a directory and a free port of its own, while the block runs."""
    data = place / "data"
    step("mayfly up")
    with (place / "node.log").open("wb") as log:
        process = subprocess.Popen([MAYFLY, "up", "--listen", "127.0.0.1:0"], env=environment(data), stdout=log, stderr=log)
    try:
        wait_until_up(process, data)
        yield data
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.returncode != 0:
        raise Failed(f"the node did not stop in order (exit status {process.returncode})")


def wait_until_up(process: "subprocess.Popen[bytes]", data: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not (data / "run" / "up.json").exists():
        if process.poll() is not None:
            raise Failed(f"`mayfly up` ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise Failed(f"`mayfly up` did not get ready within {_START_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)
    print(json.loads((data / "run" / "up.json").read_text())["url"])


if __name__ == "__main__":
    sys.exit(main())
