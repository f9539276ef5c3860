"""Calls through a whole server: what reaches the program, and what comes back."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime

import pytest

from tests.server.answers import OK, answered_by, raw
from tests.support.nodes import Node, until_closed


def test_a_call_reaches_the_program_and_its_answer_comes_back(node: Node) -> None:
    reply = node.call("/default/peer/a/b?c=d", b"hello", headers={"X-Mine": "1"})
    assert reply.status == 200
    assert reply.json["request"] == "POST /a/b?c=d HTTP/1.1"
    assert reply.json["body"] == "hello"
    assert "X-Mine: 1" in reply.json["fields"]
    status = node.wait_ready("peer")
    assert reply.headers["X-Mayfly-Instance"] == reply.json["instance"]
    assert reply.headers["X-Mayfly-Revision"] == status["revision"] == reply.json["revision"]
    assert reply.headers["Content-Type"] == "application/json"


def test_each_call_has_an_instance_of_its_own(node: Node) -> None:
    with ThreadPoolExecutor(16) as pool:
        instances = list(pool.map(lambda _: node.call("/default/peer/").headers["X-Mayfly-Instance"], range(100)))
    assert len(set(instances)) == 100


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "TRACE"])
def test_any_method_passes(node: Node, method: str) -> None:
    reply = node.call("/default/peer/", method=method)
    assert reply.status == 200
    assert reply.body == b"" if method == "HEAD" else reply.json["request"] == f"{method} / HTTP/1.1"


def test_a_call_without_a_body_has_no_framing(node: Node) -> None:
    fields = [line.lower() for line in node.call("/default/peer/").json["fields"]]
    assert not any(line.startswith(("content-length", "transfer-encoding")) for line in fields)


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_of_any_size_arrive_whole(node: Node, size: int, chunked: bool) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    reply = node.call("/default/peer/raw", OK + b"Content-Length: %d\r\n\r\n" % size + body[:size])
    assert reply.body == body[:size]
    if chunked:
        request = b"POST /default/peer/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        pieces = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[at : min(at + 999, size)] for at in range(0, size, 999)))
        came = node.exchange(request + pieces + b"0\r\n\r\n")
        assert json.loads(came.partition(b"\r\n\r\n")[2])["body"].encode("latin-1") == body[:size]


def test_the_callers_id_is_kept_and_goes_along(node: Node) -> None:
    reply = node.call("/default/peer/", headers={"X-Call-Id": "order-66_a.b"})
    assert reply.headers["X-Call-Id"] == "order-66_a.b" == reply.json["call"]
    assert "X-Call-Id: order-66_a.b" in reply.json["fields"]


@pytest.mark.parametrize("given", [None, "", "a b", "a/b", "x" * 65, "ü", "a\tb", "a;b"])
def test_any_other_id_is_replaced(node: Node, given: str | None) -> None:
    reply = node.call("/default/peer/", headers={} if given is None else {"X-Call-Id": given})
    assert re.fullmatch("[0-9a-f]{32}", reply.headers["X-Call-Id"])
    assert reply.json["call"] == reply.headers["X-Call-Id"]


def test_the_envelope_tells_budget_and_trace(node: Node) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    got = node.call("/default/peer/", headers={"traceparent": trace}).json
    assert got["trace"] == trace
    assert 19_000 < got["milliseconds"] <= 20_000
    assert node.call("/default/peer/", headers={"traceparent": "00-zz 1\r"[:7]}).json["trace"] == "-"
    assert node.call("/default/peer/", headers={"X-Mayfly-Timeout": "2.5"}).json["milliseconds"] <= 2500
    assert node.call("/default/peer/", headers={"X-Mayfly-Timeout": "9999"}).json["milliseconds"] > 19_000


@pytest.mark.parametrize("given", ["0", "-1", "1e3", "soon", "1,5", ""])
def test_a_wrong_budget_is_refused(node: Node, given: str) -> None:
    assert node.call("/default/peer/", headers={"X-Mayfly-Timeout": given}).status == 400


def test_fields_of_the_answer_pass_as_they_are(node: Node) -> None:
    answer = OK + b"sEt-cOOkie: a=b\r\nSet-Cookie: c=d\r\nX-Raw: \xff\xfe\r\nDate: now\r\nServer: mine\r\nContent-Length: 2\r\n\r\nhi"
    head = answered_by(node, answer).partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert head[:6] == [b"HTTP/1.1 200 OK", b"sEt-cOOkie: a=b", b"Set-Cookie: c=d", b"X-Raw: \xff\xfe", b"Date: now", b"Server: mine"]
    assert sum(line.lower().startswith((b"date:", b"server:", b"content-type:")) for line in head) == 2


def test_fields_of_the_connection_and_forged_ones_do_not_come_back(node: Node) -> None:
    dropped = b"Connection: X-Secret, close\r\nX-Secret: 1\r\nKeep-Alive: 9\r\nProxy-Authenticate: x\r\nUpgrade: foo\r\nTrailer: X\r\n"
    forged = b"X-Call-Id: forged\r\nX-Mayfly-Instance: forged\r\nX-Mayfly-Failure: forged\r\n"
    came = answered_by(node, OK + dropped + forged + b"X-Kept: 1\r\nContent-Length: 2\r\n\r\nhi").partition(b"\r\n\r\n")[0]
    assert b"X-Kept: 1" in came
    assert not re.search(rb"secret|keep-alive|authenticate|upgrade|trailer|forged", came, re.IGNORECASE)


def test_a_phrase_of_the_programs_own_does_not_pass(node: Node) -> None:
    assert answered_by(node, b"HTTP/1.1 418 any\0thing\r\nContent-Length: 0\r\n\r\n").startswith(b"HTTP/1.1 418 I'm a Teapot\r\n")
    assert answered_by(node, b"HTTP/1.1 599 x\r\nContent-Length: 0\r\n\r\n").startswith(b"HTTP/1.1 599 \r\n")


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (OK + b"Content-Length: 2\r\n\r\nhi", 200, b"hi"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Trailer: 1\r\n\r\n", 200, b"hi"),
        (OK + b"\r\nhi", 200, b"hi"),
        (b"HTTP/1.0 200 OK\r\n\r\nhi", 200, b"hi"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nhi", 200, b"hi"),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nhi", 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nhi", 304, b""),
        (b"HTTP/1.1 500 Mine\r\nContent-Length: 2\r\n\r\nhi", 500, b"hi"),
        (OK + b"Content-Length: 2\r\n\r\nhi" + OK + b"Content-Length: 6\r\n\r\nsecond", 200, b"hi"),
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_an_answer_however_framed_and_cut_arrives_whole(node: Node, answer: bytes, status: int, body: bytes, step: int) -> None:
    reply = raw(node, answer, query=f"?step={step}")
    assert (reply.status, reply.body) == (status, body)
    assert reply.headers["X-Mayfly-Instance"]
    assert "second" not in str(reply.headers)
    assert reply.headers["X-Trailer"] is None
    assert reply.headers["Link"] is None


def test_a_connection_is_kept_for_the_next_call(node: Node) -> None:
    with node.connected() as connection:
        for _ in range(3):
            connection.sendall(b"GET /default/peer/ HTTP/1.1\r\nHost: x\r\n\r\n")
            came = b""
            while not came.endswith(b"}"):
                came += connection.recv(65536)
            assert came.startswith(b"HTTP/1.1 200")
            assert b"Connection" not in came.partition(b"\r\n\r\n")[0]


def test_pipelined_calls_are_answered_in_order(node: Node) -> None:
    one = b"GET /default/peer/%d HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /default/peer/9 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    came = node.exchange(b"".join(one % number for number in range(9)) + last)
    assert re.findall(rb'"GET /(\d) HTTP', came) == [b"%d" % number for number in range(10)]


def test_head_has_the_length_and_no_body(node: Node) -> None:
    came = node.exchange(b"HEAD /default/peer/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    head, _, body = came.partition(b"\r\n\r\n")
    assert re.search(rb"Content-Length: \d{3}", head)
    assert body == b""


@pytest.mark.parametrize("keep", [False, True])
def test_a_client_of_http_1_0_is_served(node: Node, keep: bool) -> None:
    field = b"Connection: keep-alive\r\n" if keep else b""
    with node.connected() as connection:
        connection.sendall(b"GET /default/peer/stream?count=3&size=4&pause=0.05 HTTP/1.0\r\n" + field + b"\r\n")
        head, _, body = until_closed(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 OK")
    assert b"chunked" not in head.lower()
    assert body == b"000011112222"


def test_an_answer_without_a_date_gets_one(node: Node) -> None:
    dates = raw(node, OK + b"Content-Length: 0\r\n\r\n").headers.get_all("Date")
    assert dates is not None
    (date,) = dates
    assert abs(parsedate_to_datetime(date).timestamp() - time.time()) < 30


def test_a_request_without_a_host_gets_one(node: Node) -> None:
    came = node.exchange(b"GET /default/peer/ HTTP/1.0\r\n\r\n")
    assert "Host: localhost" in json.loads(came.partition(b"\r\n\r\n")[2])["fields"]


def test_no_content_has_no_length(node: Node) -> None:
    assert raw(node, b"HTTP/1.1 204 No Content\r\n\r\n").headers["Content-Length"] is None
