"""The commands against a node that runs functions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mayfly.image_building import Plan, build
from tests.support.compiling import compiled
from tests.support.node import Node, manifest, until


def c_image(place: Path, name: str, body: str) -> Path:
    """An image of a C program whose `main` has that body."""
    compiled(place / name / name, f"#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\nint main(void) {{ {body} }}\n", "-static")
    build(Plan(place / name, place / f"{name}.oci"))
    return place / f"{name}.oci"


READ = "char buffer[65536]; size_t count = fread(buffer, 1, sizeof buffer, stdin);"


def test_logs_show_what_a_function_wrote(shared_node: Node, tmp_path: Path) -> None:
    image = c_image(tmp_path, "talker", READ + r'fprintf(stderr, "got %zu\n\033[31mred\n", count); puts("answer"); return 0;')
    shared_node.deploy(image, "talker", contract="stdin")
    assert shared_node.call("talker", "-d", "12345")["body"] == "answer\n"
    until(lambda: "got 5" in shared_node.ok("logs", "talker"), "the line in the log")
    lines = shared_node.ok("logs", "talker").splitlines()
    assert lines[lines.index("got 5") + 1] == r"\x1b[31mred"
    assert all(" stderr: " in line or " monitor: " in line for line in shared_node.ok("logs", "talker", "--prefix").splitlines())


def test_logs_can_be_followed(shared_node: Node, tmp_path: Path) -> None:
    image = c_image(tmp_path, "followed", READ + r'fprintf(stderr, "line %.*s\n", (int)count, buffer); return 0;')
    shared_node.deploy(image, "followed", contract="stdin")
    command = [sys.executable, "-m", "mayfly", "logs", "followed", "-f", "-o", "json"]
    with subprocess.Popen(command, env=shared_node.environment, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        try:
            for word in ("one", "two"):
                shared_node.call("followed", "-d", word)
                while json.loads(following.stdout.readline()).get("line") != f"line {word}":
                    pass
        finally:
            following.terminate()


def test_a_receipt_says_how_a_call_ended(shared_node: Node, filter_image: Path) -> None:
    shared_node.deploy(filter_image, "filter", contract="stdin")
    answer = shared_node.call("filter", "-d", "abc")
    receipt = until(lambda: _receipt(shared_node, answer["call"]), "the receipt")
    assert (receipt["instance"], receipt["revision"], receipt["status"]) == (answer["instance"], answer["revision"], 200)
    assert (receipt["monitor"]["cause"], receipt["monitor"]["code"]) == ("exited", 0)
    assert "Cause:           exited" in shared_node.ok("receipt", answer["call"])


def _receipt(node: Node, call: str) -> dict[str, object] | None:
    finished = node.mayfly("receipt", call, "-o", "json")
    receipt = json.loads(finished.stdout) if finished.returncode == 0 else None
    return dict(receipt) if receipt and receipt["monitor"] else None


def test_a_function_that_fails_ends_the_call_with_7(shared_node: Node, tmp_path: Path) -> None:
    image = c_image(tmp_path, "failing", READ + 'fputs("no luck", stderr); return 3;')
    shared_node.deploy(image, "failing", contract="stdin")
    finished = shared_node.mayfly("call", "failing", "-d", "x")
    assert finished.returncode == 7
    assert "default/failing answered 500 Internal Server Error: the function failed: exit status 3" in finished.stderr
    assert "no luck" not in finished.stdout + finished.stderr
    until(lambda: "no luck" in shared_node.ok("logs", "failing"), "the log")


def test_waiting_ends_when_a_function_cannot_start(shared_node: Node, tmp_path: Path) -> None:
    image = c_image(tmp_path, "stillborn", r'fputs("cannot find my soul\n", stderr); return 9;')
    finished = shared_node.mayfly("apply", "-f", "-", "--wait", "--timeout", "50s", stdin=manifest(image, "stillborn", contract="stdin"))
    assert finished.returncode == 1
    assert "default/stillborn does not get ready" in finished.stderr
    assert "cannot find my soul" in finished.stderr
    described = shared_node.ok("describe", "image", "stillborn")
    assert "CannotStart" in described
    assert shared_node.ok("get", "images", "stillborn").splitlines()[1].split()[:2] == ["stillborn", "False"]
    shared_node.ok("delete", "image", "stillborn")


def test_waiting_ends_when_there_is_no_image(shared_node: Node, tmp_path: Path) -> None:
    text = manifest(tmp_path / "nowhere.oci", "nowhere")
    finished = shared_node.mayfly("apply", "-f", "-", "--wait", "--timeout", "50s", stdin=text)
    assert finished.returncode == 1
    assert "is not an OCI image layout" in finished.stderr
    shared_node.ok("delete", "image", "nowhere")


def test_a_rebuilt_layout_is_waited_for_though_its_manifest_is_unchanged(shared_node: Node, tmp_path: Path) -> None:
    image = c_image(tmp_path, "changing", READ + 'fputs("first", stdout); return 0;')
    shared_node.deploy(image, "changing", contract="stdin")
    first = shared_node.call("changing", "-d", "x")
    c_image(tmp_path, "changing", READ + 'fputs("second", stdout); return 0;')
    shared_node.deploy(image, "changing", contract="stdin")
    second = shared_node.call("changing", "-d", "x")
    assert (first["body"], second["body"]) == ("first", "second")
    assert first["revision"] != second["revision"]


def test_a_deleted_function_is_gone(shared_node: Node, filter_image: Path) -> None:
    shared_node.deploy(filter_image, "passing", contract="stdin")
    assert shared_node.call("passing", "-d", "x")["status"] == 200
    shared_node.ok("delete", "image", "passing")
    until(lambda: shared_node.mayfly("call", "passing", "-d", "x").returncode == 4, "the end of the function")


@pytest.mark.slow
def test_the_demonstration_shows_two_instances(root: Path) -> None:
    finished = subprocess.run([sys.executable, str(root / "scripts" / "demo.py")], capture_output=True, text=True, timeout=100, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stdout.count('{"hello": "') == 2


def test_the_doctor_reports_what_the_monitor_finds(shared_node: Node) -> None:
    report = json.loads(shared_node.ok("doctor", "-o", "json"))
    checks = {check["name"]: check["state"] for check in report["checks"]}
    assert report["able"]
    assert {"jail: landlock", "jail: seccomp", "jail: openat2"} <= set(checks)
    assert json.loads(shared_node.ok("version", "-o", "json"))["monitor"].startswith("mayfly-monitor ")
