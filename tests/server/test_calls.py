"""Calls through a whole server: what reaches the program, what comes back, with what status, and what a client gets when it goes wrong."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime

import pytest

from tests.server.conftest import StartNode
from tests.support.nodes import Node, Reply, deploy, resident, until_closed, wait_for

OK = b"HTTP/1.1 200 OK\r\n"
HOST = b"Host: x\r\n"


def raw(node: Node, answer: bytes, *, query: str = "", method: str = "POST", headers: dict[str, str] | None = None) -> Reply:
    """A call whose program answers with exactly these bytes."""
    return node.call(f"/default/peer/raw{query}", answer, method, headers)


def answered_by(node: Node, answer: bytes, query: bytes = b"", version: bytes = b"HTTP/1.1") -> bytes:
    """The same, with the bytes that the client gets."""
    head = b"POST /default/peer/raw%b %b\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (query, version, len(answer))
    return node.exchange(head + answer)


# ---- what passes


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


# ---- streaming


def test_parts_pass_as_they_come(node: Node) -> None:
    with node.connected() as connection:
        connection.sendall(b"GET /default/peer/stream?count=5&size=3&pause=0.1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        times = []
        while part := connection.recv(65536):
            times.append((time.monotonic(), part))
    assert times[-1][0] - times[0][0] > 0.3
    assert len(times) >= 5
    assert b"".join(part for _, part in times).endswith(b"3\r\n444\r\n0\r\n\r\n")


@pytest.mark.parametrize("framing", ["chunked", "length", "eof"])
def test_a_large_answer_arrives_whole(node: Node, framing: str) -> None:
    reply = node.call(f"/default/peer/stream?count=320&size=65536&framing={framing}")
    assert len(reply.body) == 320 * 65536
    assert hashlib.sha256(reply.body).digest() == hashlib.sha256(b"".join(b"%d" % (n % 10) * 65536 for n in range(320))).digest()


def test_both_directions_stream_at_once(node: Node) -> None:
    """The program answers each part of the request as it comes; the client goes on only when it has seen the answer."""
    with node.connected() as connection:
        connection.sendall(b"POST /default/peer/duplex HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\nConnection: close\r\n\r\n")
        came = b""
        while b"\r\n\r\n" not in came:
            came += connection.recv(65536)
        for number in range(4):
            part = b"%d" % number * 10
            connection.sendall(part)
            while not came.endswith(part):
                came += connection.recv(65536)
        assert connection.recv(1) == b""


def test_a_slow_reader_takes_no_memory(start_node: StartNode) -> None:
    node = start_node()
    deploy(node.data, "peer")
    node.wait_ready("peer")
    before = resident(node.process.pid)
    size = 1600 * 65536
    with node.connected() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(
            b"GET /default/peer/stream?count=1600&size=65536&framing=length HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        assert connection.recv(1000)
        assert node.call("/default/peer/").status == 200  # a while in which the rest could have come
        assert resident(node.process.pid) - before < 20 << 20
        got = 0
        while part := connection.recv(1 << 20):
            got += len(part)
        assert size - 1000 <= got <= size + 1000


def test_a_program_that_reads_slowly_takes_no_memory(start_node: StartNode) -> None:
    node = start_node()
    deploy(node.data, "peer")
    node.wait_ready("peer")
    size = 64 << 20
    before, most = resident(node.process.pid), 0
    with node.connected() as connection:
        connection.sendall(b"POST /default/peer/sink?pause=0.001 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
        sender = threading.Thread(target=connection.sendall, args=(b"z" * size,))
        sender.start()
        while sender.is_alive():
            most = max(most, resident(node.process.pid))
            sender.join(0.02)
        assert b"%d" % size in connection.recv(65536)
    assert most - before < 20 << 20


@pytest.mark.parametrize("size", [5, 3000, 100_000])
def test_an_answer_before_the_body_was_read_counts(node: Node, size: int) -> None:
    """The program answers at once and closes; most of the request is never read."""
    body = b"z" * (8 << 20)
    for _ in range(10):
        with node.connected() as connection:
            connection.sendall(b"POST /default/peer/early?size=%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (size, len(body)))
            sender = threading.Thread(target=_send, args=(connection, body))
            sender.start()
            came = until_closed(connection)
            sender.join()
        head, _, answer = came.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK"), came
        assert answer == b"x" * size
        assert b"Connection: close" in head


def _send(connection: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):  # the server has closed: its answer does not need the rest
        connection.sendall(data)


def test_continue_is_said_once_and_only_when_an_instance_is_there(node: Node) -> None:
    head = b"POST /default/%b/ HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
    with node.connected() as connection:
        connection.sendall(head % b"peer")
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"hello")
        came = until_closed(connection)
    assert came.startswith(b"HTTP/1.1 200 OK")
    got = json.loads(came.partition(b"\r\n\r\n")[2])
    assert got["body"] == "hello"
    assert not any(field.lower().startswith("expect") for field in got["fields"])
    assert node.exchange(head % b"nobody").startswith(b"HTTP/1.1 404")
    assert node.exchange(head % b"peer" + b"hello").count(b"HTTP/1.1") in (1, 2)


# ---- what the server answers itself


@pytest.mark.parametrize("path", ["/default/nobody", "/nobody/peer", "/default/peer2/x"])
def test_an_unknown_function_is_404(node: Node, path: str) -> None:
    reply = node.call(path, b"hello")
    assert reply.status == 404
    assert "no such function" in reply.error
    assert reply.headers["Content-Type"].startswith("application/json")


def test_a_body_over_the_limit_is_413(start_node: StartNode) -> None:
    node = start_node(request_bytes=1000)
    deploy(node.data, "peer")
    node.wait_ready("peer")
    assert node.call("/default/peer/", b"x" * 1000).status == 200
    assert node.call("/default/peer/", b"x" * 1001).status == 413
    # One that is announced is refused before it is sent, one that is not when it is too much.
    head = b"POST /default/peer/%b HTTP/1.1\r\nHost: x\r\n"
    announced = node.exchange(head % b"" + b"Content-Length: 5000000\r\n\r\n")
    assert announced.startswith(b"HTTP/1.1 413")
    assert b"Connection: close" in announced
    with node.connected() as connection:
        connection.sendall(head % b"hang" + b"X-Call-Id: large\r\nTransfer-Encoding: chunked\r\n\r\n1f4\r\n" + b"x" * 500 + b"\r\n")
        wait_for(lambda: node.log_of("large"), "the call runs")
        connection.sendall(b"1f5\r\n" + b"x" * 501 + b"\r\n0\r\n\r\n")
        assert until_closed(connection).startswith(b"HTTP/1.1 413")
    receipt = node.receipt("large")
    assert (receipt["status"], receipt["monitor"]["cause"]) == (413, "abandoned")


def test_a_malformed_body_is_400_and_ends_the_call(node: Node) -> None:
    head = b"POST /default/peer/hang HTTP/1.1\r\nHost: x\r\nX-Call-Id: malformed\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    with node.connected() as connection:
        connection.sendall(head)
        wait_for(lambda: node.log_of("malformed"), "the call runs")
        connection.sendall(b"zz\r\n")
        came = until_closed(connection)
    assert came.startswith(b"HTTP/1.1 400")
    assert came.count(b"HTTP/1.") == 1
    assert node.receipt("malformed")["monitor"]["cause"] == "abandoned"


def test_a_body_that_ends_early_is_the_end_of_the_call(node: Node) -> None:
    with node.connected() as connection:
        connection.sendall(b"POST /default/peer/hang HTTP/1.1\r\nHost: x\r\nX-Call-Id: short\r\nContent-Length: 10\r\n\r\nhello")
        wait_for(lambda: node.log_of("short"), "the call runs")
        connection.shutdown(socket.SHUT_WR)
        until_closed(connection)
    assert node.receipt("short")["status"] == 499


def test_the_functions_timeout_is_408(start_node: StartNode) -> None:
    node = start_node()
    deploy(node.data, "peer", timeout_ms=300)
    node.wait_ready("peer")
    began = time.monotonic()
    reply = node.call("/default/peer/hang", headers={"X-Call-Id": "late"})
    assert reply.status == 408
    assert 0.25 < time.monotonic() - began < 3
    assert reply.json["error"] == {"message": "the function did not answer within 0.3 s", "call": "late"}
    assert reply.headers["X-Mayfly-Instance"] is None
    receipt = node.receipt("late")
    assert (receipt["status"], receipt["monitor"]["cause"]) == (408, "abandoned")
    assert node.call("/default/peer/").status == 200


def test_the_callers_own_timeout_is_408_too(node: Node) -> None:
    began = time.monotonic()
    assert node.call("/default/peer/hang", headers={"X-Mayfly-Timeout": "0.2"}).status == 408
    assert time.monotonic() - began < 3


def test_a_timeout_in_the_middle_of_an_answer_cuts_the_connection(node: Node) -> None:
    head = b"GET /default/peer/stream?count=50&size=5&pause=0.1 HTTP/1.1\r\nHost: x\r\nX-Mayfly-Timeout: 0.5\r\n\r\n"
    came = node.exchange(head)
    assert came.startswith(b"HTTP/1.1 200 OK")
    assert not came.endswith(b"0\r\n\r\n")
    assert came.count(b"HTTP/1.1") == 1


BROKEN = {
    "nothing": b"",
    "half a head": OK + b"Content-Len",
    "length and chunked": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi!",
    "status 99": b"HTTP/1.1 99 x\r\n\r\n",
    "a header injected": OK + b"X: a\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
    "an upgrade": b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "no HTTP": b"Traceback (most recent call last):\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\n\r\n",
    "a giant head": OK + b"X: a\r\n" * 50_000,
    "a giant announced": OK + b"Content-Length: 99999999999\r\n\r\nhi",
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_answer_is_502_with_a_reason(node: Node, answer: bytes) -> None:
    reply = raw(node, answer)
    assert reply.status == 502
    assert reply.error
    assert "Traceback" not in reply.error
    assert reply.json["error"]["call"] == reply.headers["X-Call-Id"]
    assert reply.headers["X-Mayfly-Revision"]
    assert reply.headers["Set-Cookie"] is None


def test_an_instance_that_closes_without_an_answer_is_502(node: Node) -> None:
    reply = node.call("/default/peer/close", headers={"X-Call-Id": "closed"})
    assert (reply.status, reply.error) == (502, "the instance closed the connection without an answer")
    receipt = node.receipt("closed")
    assert (receipt["status"], receipt["error"]) == (502, reply.error)


def test_an_instance_that_dies_between_head_and_body_is_502(node: Node) -> None:
    reply = raw(node, OK + b"Content-Length: 10\r\n\r\n")
    assert (reply.status, reply.error) == (502, "the instance closed the connection in the middle of its answer")


def test_a_head_whose_body_comes_in_parts_is_sent_at_once(node: Node) -> None:
    """A stream of events begins before its first event."""
    answer = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    with node.connected() as connection:
        connection.sendall(b"POST /default/peer/raw-then-stay HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")


CUT = {
    "short of its length": OK + b"Content-Length: 10\r\n\r\nhello",
    "without its last chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "with a chunk that lies": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello!!\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("answer", CUT.values(), ids=CUT.keys())
@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
def test_an_answer_cut_half_way_never_looks_whole(node: Node, answer: bytes, version: bytes) -> None:
    head = b"POST /default/peer/raw?step=20 %b\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (version, len(answer))
    with node.connected() as connection:
        connection.sendall(head + answer)
        came, reset = b"", False
        try:
            while part := connection.recv(65536):
                came += part
        except ConnectionResetError:
            reset = True
    assert came.startswith(b"HTTP/1.")
    assert b" 200 OK" in came
    assert not came.endswith(b"0\r\n\r\n")
    assert reset or b"Content-Length: 10" in came or b"Transfer-Encoding: chunked" in came


@pytest.mark.parametrize(("query", "whole"), [("", True), ("?cause=exited&code=0", True), ("?cause=exited&code=1", False)])
@pytest.mark.parametrize(("cause", "judged"), [("", None), ("signal", False), ("deadline", False), ("output", False)])
def test_an_answer_that_ends_with_its_connection_is_whole_if_the_receipt_says_so(
    node: Node, query: str, whole: bool, cause: str, judged: bool | None
) -> None:
    query = f"?cause={cause}&code=9" if cause else query
    came = answered_by(node, OK + b"\r\nhello", query.encode())
    assert b"5\r\nhello\r\n" in came
    assert came.endswith(b"0\r\n\r\n") is (whole if judged is None else judged)


def test_an_answer_over_the_limit_is_cut(start_node: StartNode) -> None:
    node = start_node(response_bytes=100_000)
    deploy(node.data, "peer")
    node.wait_ready("peer")
    assert len(node.call("/default/peer/stream?count=10&size=10000").body) == 100_000
    came = node.exchange(b"GET /default/peer/stream?count=1000&size=10000&pause=0.001 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert came.startswith(b"HTTP/1.1 200")
    assert not came.endswith(b"0\r\n\r\n")
    assert len(came) < 200_000
    assert node.call("/default/peer/stream?count=11&size=10000&framing=length").status == 502


@pytest.mark.parametrize("contract", ["http", "stdin", "kontain"])
def test_a_function_that_failed_is_500_with_the_cause(start_node: StartNode, contract: str) -> None:
    node = start_node()
    deploy(node.data, "peer", contract=contract)
    node.wait_ready("peer")
    reply = node.call("/default/peer/fail?reason=exit%20status%203&tail=secret", b"in")
    assert reply.status == 500
    assert reply.error == "the function failed: exit status 3"
    assert reply.headers["X-Mayfly-Failure"] == "exit status 3"
    assert b"secret" not in reply.body
    assert node.receipt(reply.headers["X-Call-Id"])["monitor"]["tail"] == "secret"
    assert node.call("/default/peer/fail?reason=%C3%A4").headers["X-Mayfly-Failure"] == "unknown"


@pytest.mark.parametrize(("reason", "status"), [("deadline", 408), ("internal", 502)])
def test_what_is_not_the_functions_failure_has_a_status_of_its_own(node: Node, reason: str, status: int) -> None:
    reply = node.call(f"/default/peer/fail?reason={reason}")
    assert reply.status == status
    assert reply.headers["X-Mayfly-Failure"] is None


def test_a_preflight_is_answered(node: Node) -> None:
    asks = {"Origin": "https://app.test", "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "x-mine, content-type"}
    reply = node.call("/default/peer/a", method="OPTIONS", headers=asks)
    assert (reply.status, reply.body) == (204, b"")
    assert reply.headers["Access-Control-Allow-Origin"] == "*"
    assert "PUT" in reply.headers["Access-Control-Allow-Methods"]
    assert reply.headers["Access-Control-Allow-Headers"] == "x-mine, content-type"
    assert reply.headers["X-Mayfly-Instance"] is None
    assert node.call("/default/nobody", method="OPTIONS", headers=asks).status == 404
    assert node.call("/default/peer/", method="OPTIONS", headers={"Origin": "x"}).json["request"] == "OPTIONS / HTTP/1.1"


def test_a_browser_may_read_the_answer(node: Node) -> None:
    assert node.call("/default/peer/", headers={"Origin": "https://app.test"}).headers["Access-Control-Allow-Origin"] == "*"
    assert node.call("/default/peer/").headers["Access-Control-Allow-Origin"] is None
    own = raw(node, OK + b"Access-Control-Allow-Origin: https://one.test\r\nContent-Length: 0\r\n\r\n", headers={"Origin": "x"})
    assert own.headers.get_all("Access-Control-Allow-Origin") == ["https://one.test"]


def test_with_cors_off_a_preflight_is_a_call(start_node: StartNode) -> None:
    node = start_node(cors_origins="")
    deploy(node.data, "peer")
    node.wait_ready("peer")
    asks = {"Origin": "https://app.test", "Access-Control-Request-Method": "PUT"}
    reply = node.call("/default/peer/", method="OPTIONS", headers=asks)
    assert reply.json["request"] == "OPTIONS / HTTP/1.1"
    assert reply.headers["Access-Control-Allow-Origin"] is None


# ---- admission


def test_calls_beyond_concurrency_wait_and_beyond_the_queue_are_429(start_node: StartNode) -> None:
    node = start_node(function_calls_waiting=2)
    deploy(node.data, "peer", concurrency=2)
    deploy(node.data, "other")
    node.wait_ready("peer")
    node.wait_ready("other")
    with ThreadPoolExecutor(8) as pool:
        slow = [pool.submit(node.call, "/default/peer/sleep?seconds=1") for _ in range(4)]
        wait_for(lambda: (node.status("peer") or {})["waiting"] == 2, "two calls wait")
        refused = node.call("/default/peer/")
        assert refused.status == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert node.call("/default/other/").status == 200
        assert [call.result().status for call in slow] == [200] * 4


def test_the_node_has_a_limit_of_its_own(start_node: StartNode) -> None:
    node = start_node(calls=2, calls_waiting=1)
    deploy(node.data, "peer")
    deploy(node.data, "other")
    node.wait_ready("peer")
    node.wait_ready("other")
    with ThreadPoolExecutor(8) as pool:
        slow = [pool.submit(node.call, f"/default/{name}/sleep?seconds=1") for name in ("peer", "other", "peer")]
        wait_for(lambda: node.call("/_mayfly/node").json["calls"]["waiting"] == 1, "a call waits")
        refused = node.call("/default/other/")
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert [call.result().status for call in slow] == [200] * 3


def test_a_call_that_waits_for_its_whole_budget_is_503_and_never_runs(start_node: StartNode) -> None:
    node = start_node()
    deploy(node.data, "peer", concurrency=1)
    node.wait_ready("peer")
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(node.call, "/default/peer/sleep?seconds=1")
        wait_for(lambda: (node.status("peer") or {})["running"] == 1, "a call runs")
        refused = node.call("/default/peer/", headers={"X-Mayfly-Timeout": "0.2"})
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert slow.result().status == 200
    assert wait_for(lambda: node.status("peer"), "status")["running"] == 0


def test_a_client_that_leaves_the_queue_frees_its_place(start_node: StartNode) -> None:
    node = start_node()
    deploy(node.data, "peer", concurrency=1)
    node.wait_ready("peer")
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(node.call, "/default/peer/sleep?seconds=1")
        wait_for(lambda: (node.status("peer") or {})["running"] == 1, "a call runs")
        with node.connected() as connection:
            connection.sendall(b"GET /default/peer/ HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_for(lambda: (node.status("peer") or {})["waiting"] == 1, "a call waits")
        wait_for(lambda: (node.status("peer") or {})["waiting"] == 0, "it has left")
        assert slow.result().status == 200
    assert node.call("/default/peer/").status == 200


def test_a_client_that_leaves_ends_its_instance(node: Node) -> None:
    with node.connected() as connection:
        connection.sendall(b"GET /default/peer/hang HTTP/1.1\r\nHost: x\r\nX-Call-Id: left\r\n\r\n")
        wait_for(lambda: node.log_of("left"), "the call runs")
    receipt = node.receipt("left")
    assert (receipt["status"], receipt["monitor"]["cause"]) == (499, "abandoned")


def test_a_client_that_leaves_with_its_answer_has_not_abandoned_it(node: Node) -> None:
    for number in range(50):
        node.call("/default/peer/", b"x" * 1000, headers={"X-Call-Id": f"satisfied-{number}"})
    assert {node.receipt(f"satisfied-{number}")["status"] for number in range(50)} == {200}


def test_a_client_that_leaves_in_the_middle_of_an_answer_ends_its_instance(node: Node) -> None:
    with node.connected() as connection:
        connection.sendall(b"GET /default/peer/stream?count=1000&size=100000 HTTP/1.1\r\nHost: x\r\nX-Call-Id: left-mid\r\n\r\n")
        connection.recv(1000)
    receipt = node.receipt("left-mid")
    assert (receipt["status"], receipt["monitor"]["cause"]) == (499, "abandoned")


# ---- the node


def test_health_readiness_and_metrics(node: Node) -> None:
    assert node.call("/healthz").json == {"alive": True}
    ready = node.call("/readyz")
    assert ready.status == (200 if ready.json["ready"] else 503)
    assert all("kvm" in reason for reason in ready.json["reasons"])
    node.call("/default/peer/")
    page = node.call("/metrics")
    assert page.headers["Content-Type"].startswith("text/plain")
    assert 'mayfly_calls_total{code="200",function="peer",namespace="default"}' in page.body.decode()
    assert 'mayfly_function_ready{function="peer",namespace="default"} 1.0' in page.body.decode()


def test_other_methods_on_the_nodes_own_paths_are_405(node: Node) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert node.call(path, b"x").status in (404, 405)
    assert node.call("/_mayfly/functions", b"x").status in (404, 405)
