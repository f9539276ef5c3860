"""Requests that two readers could understand differently: one answer, then the end; a second request never runs."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import threading
import time

import pytest

from tests.server.conftest import StartNode
from tests.support.nodes import Node, deploy, resident, until_closed, wait_for

PEER = b"/default/peer/"
CANARY = b"GET /default/peer/canary HTTP/1.1\r\nHost: x\r\n\r\n"


def request(*fields: bytes, method: bytes = b"POST", target: bytes = PEER, version: bytes = b"HTTP/1.1", body: bytes = b"") -> bytes:
    return b"".join([method, b" ", target, b" ", version, b"\r\n", *(field + b"\r\n" for field in fields), b"\r\n", body])


def statuses(data: bytes) -> list[int]:
    """The status of each response in what came back."""
    return [int(found) for found in re.findall(rb"^HTTP/1\.[01] (\d{3})", data, re.MULTILINE)]


HOST = b"Host: x"
CHUNKED = b"Transfer-Encoding: chunked"
BODY = b"5\r\nhello\r\n0\r\n\r\n"

REFUSED: dict[str, tuple[bytes, set[int]]] = {
    "1 length and chunked": (request(HOST, b"Content-Length: 5", CHUNKED, body=BODY), {400}),
    "1 chunked and length": (request(HOST, CHUNKED, b"Content-Length: 5", body=BODY), {400}),
    "2 two lengths": (request(HOST, b"Content-Length: 5", b"Content-Length: 6", body=b"hello!"), {400}),
    "2 one length twice": (request(HOST, b"Content-Length: 5", b"Content-Length: 5", body=b"hello"), {400}),
    "2 lengths in a list": (request(HOST, b"Content-Length: 5, 5", body=b"hello"), {400}),
    "3 signed length": (request(HOST, b"Content-Length: +5", body=b"hello"), {400}),
    "3 negative length": (request(HOST, b"Content-Length: -5", body=b"hello"), {400}),
    "3 length in other digits": (request(HOST, "Content-Length: ٥".encode(), body=b"hello"), {400}),
    "3 hexadecimal length": (request(HOST, b"Content-Length: 0x5", body=b"hello"), {400}),
    "3 huge length": (request(HOST, b"Content-Length: 99999999999999999999", body=b"hello"), {400}),
    "4 chunked, identity": (request(HOST, b"Transfer-Encoding: chunked, identity", body=BODY), {400}),
    "4 gzip, chunked": (request(HOST, b"Transfer-Encoding: gzip, chunked", body=BODY), {400}),
    "4 identity": (request(HOST, b"Transfer-Encoding: identity", body=b"hello"), {400}),
    "4 chunked twice": (request(HOST, CHUNKED, CHUNKED, body=BODY), {400}),
    "4 xchunked": (request(HOST, b"Transfer-Encoding: xchunked", body=BODY), {400}),
    "4 chunked with a vertical tab": (request(HOST, b"Transfer-Encoding: \x0bchunked", body=BODY), {400}),
    "4 chunked in HTTP/1.0": (request(HOST, CHUNKED, version=b"HTTP/1.0", body=BODY), {400}),
    "5 bare LF": (b"GET /default/peer/ HTTP/1.1\nHost: x\n\n", {400}),
    "5 bare LF after a field": (b"GET /default/peer/ HTTP/1.1\r\nHost: x\n\r\n", {400}),
    "6 folded field": (request(HOST, b"X-A: b\r\n c"), {400}),
    "7 space before the colon": (request(HOST, b"Content-Length : 5", body=b"hello"), {400}),
    "7 space before the name": (request(HOST, b" Content-Length: 5", body=b"hello"), {400}),
    "8 NUL in a value": (request(HOST, b"X-A: b\0c"), {400}),
    "8 CR in a value": (request(HOST, b"X-A: b\rc"), {400}),
    "8 a field without a name": (request(HOST, b": b"), {400}),
    "9 chunk without its CRLF": (request(HOST, CHUNKED, body=b"5\r\nhelloX5\r\nhello\r\n0\r\n\r\n"), {400}),
    "9 chunk size that is none": (request(HOST, CHUNKED, body=b"z\r\nhello\r\n0\r\n\r\n"), {400}),
    "9 signed chunk size": (request(HOST, CHUNKED, body=b"+5\r\nhello\r\n0\r\n\r\n"), {400}),
    "9 hexadecimal chunk size": (request(HOST, CHUNKED, body=b"0x5\r\nhello\r\n0\r\n\r\n"), {400}),
    "9 huge chunk size": (request(HOST, CHUNKED, body=b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n"), {400}),
    "10 LF in a chunk extension": (request(HOST, CHUNKED, body=b"5;a\nhello\r\n0\r\n\r\n"), {400}),
    "10 LF ends a chunk size": (request(HOST, CHUNKED, body=b"5\nhello\r\n0\r\n\r\n"), {400}),
    "12 two hosts": (request(HOST, b"Host: y", method=b"GET"), {400}),
    "12 two hosts in one field": (request(b"Host: x, y", method=b"GET"), {400}),
    "12 no host": (request(method=b"GET"), {400}),
    "12 a host with a path": (request(b"Host: x/y@z", method=b"GET"), {400}),
    "12 absolute form": (request(HOST, method=b"GET", target=b"http://x/default/peer/"), {400}),
    "12 absolute form of another host": (request(HOST, method=b"GET", target=b"http://y/default/peer/"), {400}),
    "13 HTTP/0.9": (b"GET /default/peer/\r\n\r\n", {400}),
    "13 HTTP/0.9 in full": (request(HOST, method=b"GET", version=b"HTTP/0.9"), {400, 505}),
    "13 HTTP/2.0": (request(HOST, method=b"GET", version=b"HTTP/2.0"), {400, 505}),
    "13 HTTP/1.2": (request(HOST, method=b"GET", version=b"HTTP/1.2"), {400, 505}),
    "13 the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 505}),
    "a fragment": (request(HOST, method=b"GET", target=b"/default/peer/#a"), {400}),
    "a raw byte above ASCII in the target": (request(HOST, method=b"GET", target=b"/default/peer/\xff"), {400}),
    "a control character in the target": (request(HOST, method=b"GET", target=b"/default/peer/\x01"), {400}),
    "OPTIONS *": (request(HOST, method=b"OPTIONS", target=b"*"), {400}),
    "CONNECT": (request(HOST, method=b"CONNECT", target=b"x:80"), {400, 405}),
    "an unknown method": (request(HOST, method=b"B\x01D"), {400}),
    "28 websocket": (request(HOST, b"Connection: Upgrade", b"Upgrade: websocket", method=b"GET"), {501}),
    "28 an unknown protocol": (request(HOST, b"Connection: Upgrade", b"Upgrade: foo, h2c", method=b"GET"), {501}),
}


@pytest.mark.parametrize(("data", "expected"), REFUSED.values(), ids=REFUSED.keys())
def test_one_refusal_then_the_end(node: Node, data: bytes, expected: set[int]) -> None:
    came = node.exchange(data + CANARY)
    assert len(statuses(came)) == 1, came
    assert set(statuses(came)) <= expected
    assert b"canary" not in came


def test_an_unknown_expectation_is_not_met(node: Node) -> None:
    assert node.call("/default/peer/", b"", headers={"Expect": "200-maybe"}).status == 417


def test_a_request_in_a_trailer_is_not_run(node: Node) -> None:
    body = b"5\r\nhello\r\n0\r\nGET: /default/peer/canary\r\nX-Trailer: 1\r\n\r\n"
    came = node.exchange(request(HOST, CHUNKED, b"Connection: close", body=body))
    assert statuses(came) == [200]
    got = json.loads(came.partition(b"\r\n\r\n")[2])
    assert got["body"] == "hello"
    assert not any("trailer" in field.lower() or "canary" in field for field in got["fields"])


def test_h2c_is_ignored(node: Node) -> None:
    fields = (HOST, b"Connection: Upgrade, HTTP2-Settings, close", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__")
    came = node.exchange(request(*fields, method=b"GET"))
    assert statuses(came) == [200]
    got = json.loads(came.partition(b"\r\n\r\n")[2])
    assert not any("pgrade" in field or "HTTP2" in field for field in got["fields"])


def test_an_upgrade_field_without_a_connection_field_goes_nowhere(node: Node) -> None:
    assert node.call("/default/peer/", headers={"Upgrade": "websocket"}).status == 501


def test_a_chunked_body_arrives_whole_whatever_its_pieces(node: Node) -> None:
    body = b"3;ext=1\r\nhel\r\n002\r\nlo\r\n0\r\n\r\n"
    came = node.exchange(request(HOST, CHUNKED, b"Connection: close", body=body))
    assert json.loads(came.partition(b"\r\n\r\n")[2])["body"] == "hello"


@pytest.mark.parametrize(
    "path",
    [
        "/%64efault/peer/",
        "/default%2fpeer/",
        "/default/%70eer/",
        "/default/pee%72",
        "//default/peer/",
        "/default//peer/",
        "/./default/peer/",
        "/x/../default/peer/",
        "/%2e/default/peer/",
        "/default/./peer/",
        "/default/peer%00/",
        "/default/peer%252f",
        "/default\\peer/",
        "/Default/peer/",
        "/default/PEER/",
        "/d%C1%A5fault/peer/",
        "/default/peer;a=b/",
        "/default/peer%20/",
        "/default/peer./",
        "/default/peer%CC%81/",
        "/default",
        "/default/",
        "/default/?peer",
        "/",
        "/%5fmayfly/functions",
        "/%5Fmayfly/functions",
        "//_mayfly/functions",
        "/./_mayfly/functions",
        "/x/../_mayfly/functions",
        "/%68ealthz",
        "/healthz%20",
        "/_mayfly/functions/default%2Fpeer",
        "/_mayfly/functions/default/peer%2Flogs",
    ],
)
def test_a_name_has_one_spelling(node: Node, path: str) -> None:
    assert node.call(path).status == 404


@pytest.mark.parametrize(
    "rest", ["/../x", "/%2e%2e/x", "/a//b", "/%2f", "/%00", "/%252f", "/a\\b", "/%C0%AF", "/?", "/?a=%zz&b=[]{}|^`", "/;a"]
)
def test_what_follows_the_name_reaches_the_program_byte_by_byte(node: Node, rest: str) -> None:
    came = node.exchange(request(HOST, b"Connection: close", method=b"GET", target=b"/default/peer" + rest.encode()))
    assert statuses(came) == [200]
    assert json.loads(came.partition(b"\r\n\r\n")[2])["request"] == f"GET {rest} HTTP/1.1"


@pytest.mark.parametrize(("path", "target"), [("/default/peer", "/"), ("/default/peer?a=b", "/?a=b"), ("/default/peer/?a", "/?a")])
def test_the_program_sees_a_path_of_its_own(node: Node, path: str, target: str) -> None:
    assert node.call(path).json["request"] == f"GET {target} HTTP/1.1"


def test_giant_heads_are_refused(node: Node) -> None:
    for fields in ((b"X: " + b"a" * 1_000_000,), tuple(b"X-%d: a" % number for number in range(10_000))):
        came = node.exchange(request(HOST, *fields))
        assert statuses(came) in ([400], [431], [])


def test_a_fragmented_giant_head_is_refused_before_it_ends(node: Node) -> None:
    with node.connected() as connection:
        connection.sendall(b"GET /default/peer/ HTTP/1.1\r\nHost: x\r\nX: ")
        sent, too_much = 0, 100_000_000  # the kernel holds tens of MB that nobody has read
        try:
            while sent < too_much:
                connection.sendall(b"a" * 1000)
                sent += 1000
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert sent < too_much
        assert statuses(until_closed(connection)) in ([400], [])


@pytest.mark.slow
def test_a_hundred_thousand_pipelined_requests_take_no_more_memory(node: Node) -> None:
    one = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    count = 100_000
    before = resident(node.process.pid)
    with node.connected() as connection:

        def send() -> None:
            connection.sendall(one * (count - 1) + one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))

        sender = threading.Thread(target=send)
        sender.start()
        answers = until_closed(connection)
        sender.join(20)
    assert answers.count(b"HTTP/1.1 200") == count
    assert resident(node.process.pid) - before < 50 << 20


@pytest.mark.slow
def test_a_client_that_pipelines_and_never_reads_takes_no_more_memory(node: Node) -> None:
    before = resident(node.process.pid)
    with node.connected() as connection:
        connection.settimeout(1)
        batch, sent = b"GET /_mayfly/functions HTTP/1.1\r\nHost: x\r\n\r\n" * 1000, 0
        with contextlib.suppress(TimeoutError):
            while sent < 1 << 30:
                sent += connection.send(batch)
        assert sent < 50 << 20
    assert resident(node.process.pid) - before < 50 << 20


@pytest.mark.slow
def test_a_million_chunks_of_one_byte_arrive(node: Node) -> None:
    count = 1_000_000
    with node.connected() as connection:

        def send() -> None:
            connection.sendall(request(HOST, CHUNKED, b"Connection: close", target=b"/default/peer/raw-length"))
            for _ in range(100):
                connection.sendall(b"1\r\nx\r\n" * (count // 100))
            connection.sendall(b"0\r\n\r\n")

        before = resident(node.process.pid)
        sender = threading.Thread(target=send)
        sender.start()
        came = until_closed(connection)
        sender.join(20)
    assert statuses(came) == [200]
    assert len(json.loads(came.partition(b"\r\n\r\n")[2])["body"]) == count
    assert resident(node.process.pid) - before < 60 << 20


@pytest.mark.slow
def test_a_slow_head_is_cut_at_an_absolute_limit(start_node: StartNode) -> None:
    node = start_node(idle_timeout=1.0)
    with node.connected() as connection:
        began = time.monotonic()
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ")
        connection.settimeout(0.2)
        while True:  # each byte comes in good time, the whole never
            try:
                if not connection.recv(1):
                    break
            except TimeoutError:
                connection.sendall(b"a")
            except ConnectionResetError:
                break
        assert 0.9 < time.monotonic() - began < 5


@pytest.mark.slow
def test_a_slow_head_after_an_answer_is_cut_too(start_node: StartNode) -> None:
    node = start_node(idle_timeout=1.0)
    with node.connected() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /hea")
        assert statuses(until_closed(connection)) == [200]


@pytest.mark.slow
def test_a_slow_body_is_cut_at_the_functions_timeout(start_node: StartNode) -> None:
    node = start_node()
    deploy(node.data, "peer", timeout_ms=1000)
    node.wait_ready("peer")
    with node.connected() as connection:
        began = time.monotonic()
        connection.sendall(request(HOST, b"Content-Length: 100", body=b"h"))
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.1):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

        threading.Thread(target=drip, daemon=True).start()
        came = b""
        while b"\r\n\r\n" not in came and (part := connection.recv(65536)):
            came += part
        assert statuses(came) == [408]
        assert 0.9 < time.monotonic() - began < 5
        until_closed(connection)
        assert time.monotonic() - began < 15
        stop.set()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Forwarded-Host", "evil"),
        ("X-Forwarded-Proto", "https"),
        ("X_Forwarded_For", "6.6.6.6"),
        ("Forwarded", "for=6.6.6.6"),
        ("X-Real-Ip", "6.6.6.6"),
        ("X-Mayfly-Instance", "forged"),
        ("X_Mayfly_Instance", "forged"),
        ("X_Call_Id", "forged"),
        ("Connection", "X-Mine"),
        ("Proxy-Connection", "keep-alive"),
        ("Keep-Alive", "300"),
        ("Te", "trailers"),
        ("Trailer", "X-A"),
        ("Proxy-Authorization", "Basic eDp5"),
        ("HTTP2-Settings", "AAA"),
        ("Content_Length", "7"),
        ("Transfer_Encoding", "chunked"),
    ],
)
def test_fields_that_are_ours_or_of_the_connection_do_not_pass(node: Node, field: str, value: str) -> None:
    reply = node.call("/default/peer/", headers={field: value, "X-Mine": "1", "X-Other": "2"})
    fields = [line.lower() for line in reply.json["fields"]]
    assert f"{field}: {value}".lower() not in fields
    assert "x-other: 2" in fields
    assert ("x-mine: 1" in fields) == (field != "Connection")
    assert fields.count("connection: close") == 1
    assert "x-forwarded-for: 127.0.0.1" in fields
    assert "x-forwarded-proto: http" in fields
    assert f"x-forwarded-host: 127.0.0.1:{node.port}" in fields


def test_a_trusted_proxy_may_say_whom_it_forwards_for(start_node: StartNode) -> None:
    node = start_node(trusted_proxies="10.0.0.0/8, 127.0.0.1/32")
    deploy(node.data, "peer")
    node.wait_ready("peer")
    headers = {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Host": "public.test", "X-Forwarded-Proto": "https", "X_Forwarded_For": "7.7.7.7"}
    fields = node.call("/default/peer/", headers=headers).json["fields"]
    assert "X-Forwarded-For: 6.6.6.6, 127.0.0.1" in fields
    assert "X-Forwarded-Host: public.test" in fields
    assert "X-Forwarded-Proto: https" in fields
    assert not any("7.7.7.7" in field for field in fields)


def test_an_encoded_body_passes_as_it_is(node: Node) -> None:
    bomb = gzip.compress(b"\0" * 10_000_000)
    reply = node.call("/default/peer/", bomb, headers={"Content-Encoding": "gzip"})
    assert reply.json["body"].encode("latin-1") == bomb


def test_control_characters_cannot_forge_a_line_of_the_operators_log(node: Node) -> None:
    entries = len(node.log())
    node.exchange(b"GET /default/peer/\x1b[31m\r\nHost: x\r\n\r\n")
    node.call("/default/%0d%0aforged%1b[31m")
    node.exchange(request(HOST, b"X: \x1b[31m\x07"))
    assert all(isinstance(entry, dict) for entry in node.log())
    assert not any("\x1b" in line for line in node.lines)
    assert len(node.log()) - entries <= 1


def test_random_paths_make_no_series(node: Node) -> None:
    def series() -> int:
        return len([line for line in node.call("/metrics").body.decode().splitlines() if not line.startswith("#")])

    node.call("/random/0")
    before = series()
    with node.connected() as connection:
        batch = b"".join(b"GET /ns%d/fn%d HTTP/1.1\r\nHost: x\r\n\r\n" % (number, number) for number in range(10_000))
        sender = threading.Thread(target=connection.sendall, args=(batch,))
        sender.start()
        answers = b""
        while answers.count(b"HTTP/1.1 404") < 10_000:
            part = connection.recv(1 << 20)
            assert part
            answers += part
        sender.join()
    assert series() == before


def test_a_half_closed_connection_counts_as_gone(node: Node) -> None:
    """A client that sends FIN has left: its call ends, and with it the instance."""
    with node.connected() as connection:
        connection.sendall(request(HOST, b"X-Call-Id: half-closed", method=b"GET", target=b"/default/peer/hang"))
        wait_for(lambda: node.log_of("half-closed"), "the call runs")
        connection.shutdown(socket.SHUT_WR)
        assert until_closed(connection) == b""
    receipt = node.receipt("half-closed")
    assert receipt["status"] == 499
    assert receipt["monitor"]["cause"] == "abandoned"
