"""Calls, logs and receipts, against a server that answers as written down in the test: what the command makes of each answer."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.cli.conftest import Mayfly

FUNCTION = {"X-Call-Id": "c1", "X-Mayfly-Revision": "0123456789abcdef", "X-Mayfly-Instance": "fedcba9876543210"}


class Handler(BaseHTTPRequestHandler):
    """Answers what `answers` says for a path, and keeps the requests."""

    protocol_version = "HTTP/1.1"
    answers: ClassVar[dict[str, tuple[int, dict[str, str], bytes]]] = {}
    requests: ClassVar[list[dict[str, Any]]] = []

    def answer(self) -> None:
        length = self.headers.get("Content-Length")
        body = self.rfile.read(int(length)) if length else b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        self.requests.append({"method": self.command, "path": self.path, "headers": dict(self.headers), "body": body})
        status, headers, content = self.answers.get(self.path, (404, {}, b'{"error": {"message": "there is nothing here"}}'))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        if int(headers.get("Content-Length", len(content))) > len(content):
            self.close_connection = True

    do_GET = do_POST = do_PUT = answer  # noqa: N815 — the names that http.server asks for

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    Handler.answers, Handler.requests = {}, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield listening
        listening.shutdown()
        thread.join()


@pytest.fixture
def ask(server: ThreadingHTTPServer, mayfly: Mayfly) -> Callable[..., Any]:
    """The command line with the server's address."""

    def run(*arguments: str, **more: str) -> Any:
        return mayfly(*arguments, MAYFLY_SERVER=f"http://127.0.0.1:{server.server_port}", **more)

    return run


def test_call_prints_the_body_as_it_is(ask: Callable[..., Any]) -> None:
    Handler.answers["/default/hello"] = (200, FUNCTION, b"hi\x1b[31m")
    finished = ask("call", "hello")
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "hi\x1b[31m", "")
    (request,) = Handler.requests
    assert (request["method"], request["body"]) == ("GET", b"")


def test_call_sends_what_it_is_told(ask: Callable[..., Any], tmp_path: Path) -> None:
    Handler.answers["/team/hello/a/b?c=d"] = (200, FUNCTION, b"")
    assert (
        ask("call", "hello", "-n", "team", "--path", "a/b?c=d", "-d", '{"a": 1}', "-H", "X-Mine: yes", "--timeout", "90s").returncode == 0
    )
    assert ask("call", "hello", "-n", "team", "--path", "/a/b?c=d", "-d", "text", "-X", "put").returncode == 0
    (tmp_path / "body").write_bytes(b"\0" * 100_000)
    assert ask("call", "hello", "-n", "team", "--path", "/a/b?c=d", "-d", "@body").returncode == 0
    assert ask("call", "hello", "-n", "team", "--path", "/a/b?c=d", "-d", "@-", stdin="from stdin").returncode == 0
    first, second, third, fourth = Handler.requests
    assert (first["method"], first["headers"]["Content-Type"], first["headers"]["X-Mine"]) == ("POST", "application/json", "yes")
    assert first["headers"]["X-Mayfly-Timeout"] == "90"
    assert (second["method"], second["body"], second["headers"]["Content-Type"]) == ("PUT", b"text", "text/plain; charset=utf-8")
    assert (third["body"], third["headers"]["Content-Type"]) == (b"\0" * 100_000, "application/octet-stream")
    assert fourth["body"] == b"from stdin"


def test_call_as_json_has_everything(ask: Callable[..., Any]) -> None:
    Handler.answers["/default/hello"] = (201, {**FUNCTION, "X-Mine": "1"}, "é".encode())
    document = json.loads(ask("call", "hello", "-o", "json").stdout)
    assert (document["status"], document["body"], document["call"], document["headers"]["X-Mine"]) == (201, "é", "c1", "1")
    assert (document["revision"], document["instance"]) == ("0123456789abcdef", "fedcba9876543210")
    assert 0 < document["seconds"] < 60
    Handler.answers["/default/hello"] = (200, FUNCTION, b"\xff\0")
    assert json.loads(ask("call", "hello", "-o", "json").stdout)["bodyBase64"] == "/wA="


def test_include_prints_status_and_headers(ask: Callable[..., Any]) -> None:
    Handler.answers["/default/hello"] = (202, FUNCTION, b"body")
    lines = ask("call", "hello", "-i").stdout.splitlines()
    assert lines[0] == "HTTP/1.1 202 Accepted"
    assert "X-Mayfly-Instance: fedcba9876543210" in lines
    assert lines[-2:] == ["", "body"]


def test_a_function_that_fails_has_exit_status_7(ask: Callable[..., Any]) -> None:
    Handler.answers["/default/hello"] = (500, FUNCTION, b"sorry")
    finished = ask("call", "hello")
    assert (finished.returncode, finished.stdout) == (7, "sorry")
    assert "default/hello answered 500 Internal Server Error\n" in finished.stderr
    assert "`mayfly receipt c1`" in finished.stderr


def test_a_404_of_the_function_is_its_own_answer(ask: Callable[..., Any]) -> None:
    Handler.answers["/default/hello"] = (404, FUNCTION, b"no such page")
    finished = ask("call", "hello")
    assert (finished.returncode, finished.stdout) == (7, "no such page")


def test_a_404_of_the_server_has_exit_status_4(ask: Callable[..., Any]) -> None:
    finished = ask("call", "gone")
    assert (finished.returncode, finished.stdout) == (4, "")
    assert finished.stderr.startswith("error: default/gone: no such function\n")


def test_a_refusal_of_the_server_is_told_in_its_words(ask: Callable[..., Any]) -> None:
    Handler.answers["/default/hello"] = (408, {"X-Call-Id": "c1"}, b'{"error": {"message": "it did not answer within 2 s", "call": "c1"}}')
    finished = ask("call", "hello")
    assert finished.returncode == 7
    assert "answered 408 Request Timeout: it did not answer within 2 s" in finished.stderr


def test_an_answer_that_is_cut_is_an_error(ask: Callable[..., Any]) -> None:
    Handler.answers["/default/hello"] = (200, {**FUNCTION, "Content-Length": "100"}, b"half")
    finished = ask("call", "hello", "-o", "json")
    assert finished.returncode == 1
    assert "the connection broke" in finished.stderr
    streamed = ask("call", "hello")
    assert (streamed.returncode, streamed.stdout) == (1, "half")


@pytest.mark.parametrize(("option", "value"), [("--path", "/a b"), ("--path", "/a\r\nX: y"), ("-X", "GE T\r\n")])
def test_nothing_can_be_smuggled_into_the_request(ask: Callable[..., Any], option: str, value: str) -> None:
    finished = ask("call", "hello", option, value)
    assert finished.returncode in {1, 2}
    assert "Traceback" not in finished.stderr
    assert Handler.requests == []


@pytest.mark.parametrize("header", ["novalue", ": x", "a: b\r\nc: d"])
def test_a_wrong_header_is_wrong_usage(ask: Callable[..., Any], header: str) -> None:
    assert ask("call", "hello", "-H", header).returncode == 2
    assert Handler.requests == []


def test_a_body_that_is_not_there_is_named(ask: Callable[..., Any]) -> None:
    finished = ask("call", "hello", "-d", "@gone")
    assert (finished.returncode, "gone: no such file" in finished.stderr) == (4, True)


def test_no_server_has_exit_status_5(mayfly: Mayfly) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        finished = mayfly("call", "hello", "--server", f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert (finished.returncode, "nothing answers there" in finished.stderr) == (5, True)
    unknown = mayfly("logs", "hello")
    assert unknown.returncode == 5
    assert "no `mayfly up` serves" in unknown.stderr
    assert mayfly("call", "hello", "--server", "ftp://x").returncode == 1


def test_logs_are_printed_line_by_line_and_escaped(ask: Callable[..., Any]) -> None:
    lines = [
        {"number": 1, "time": 0.5, "instance": "a" * 16, "call": "c", "stream": "stderr", "line": "red \x1b[31m", "truncated": False},
        {"number": 2, "time": 1.5, "instance": None, "call": None, "stream": "monitor", "line": "cut", "truncated": True},
        {"lost": 3},
    ]
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    Handler.answers["/_mayfly/functions/default/hello/logs?tail=1"] = (200, {}, body)
    Handler.answers["/_mayfly/functions/default/hello/logs?tail=100&follow=0"] = (200, {}, body)
    assert ask("logs", "hello").stdout.splitlines()[:2] == [r"red \x1b[31m", "cut …"]
    prefixed = ask("logs", "hello", "--prefix").stdout.splitlines()
    assert prefixed[0] == rf"1970-01-01T00:00:00.500+00:00 {'a' * 16} stderr: red \x1b[31m"
    assert prefixed[2].startswith("… 3 lines are lost")
    assert [json.loads(line) for line in ask("logs", "hello", "-o", "json").stdout.splitlines()] == lines


def test_logs_of_a_name_nobody_has_are_an_error(ask: Callable[..., Any]) -> None:
    Handler.answers["/_mayfly/functions/default/typo/logs?tail=1"] = (200, {}, b"")
    finished = ask("logs", "typo")
    assert finished.returncode == 4
    assert "default/typo: no such function" in finished.stderr


def test_a_receipt_is_shown_in_units(ask: Callable[..., Any]) -> None:
    receipt = {
        "call": "c1",
        "time": 0.0,
        "status": 200,
        "error": None,
        "total_us": 1500,
        "monitor": {"cause": "closed", "cpu_us": 900, "tail": ""},
    }
    Handler.answers["/_mayfly/receipts/c1"] = (200, {}, json.dumps(receipt).encode())
    lines = [line.split(maxsplit=1) for line in ask("receipt", "c1").stdout.splitlines()]
    assert ["Total:", "1.500 ms"] in lines
    assert ["Cause:", "closed"] in lines
    assert "Error:" not in {name for name, _ in lines}
    assert json.loads(ask("receipt", "c1", "-o", "json").stdout) == receipt
    assert ask("receipt", "gone").returncode == 4
    assert ask("receipt", "../node").returncode == 4
