"""A function's network: nothing without a rule, and with rules only what they name, judged on the monitor's own copy of each address.

The "outside" is a network of this machine (tests/support/outside.py); no real one is ever spoken to.
"""

from __future__ import annotations

import ast
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import outside
from tests.support.figures import Figure
from tests.support.serving import MONITOR, Serve, make_bundle

pytestmark = pytest.mark.system

PYTHON = "/usr/bin/python3"
FLIPS = int(os.environ.get("MAYFLY_TEST_FLIPS", "5000"))

# A filter: what it reads is code, what the code puts into `result` is the answer.
FILTER = """
import socket, sys, errno, os, time, threading, urllib.request
def connect(address, kind=socket.SOCK_STREAM):
    family = socket.AF_INET6 if ':' in address[0] else socket.AF_INET
    with socket.socket(family, kind) as made:
        made.settimeout(20)
        try:
            made.connect(address)
            return 'connected'
        except OSError as error:
            return errno.errorcode.get(error.errno, repr(error))
def fetch(url):
    try:
        return urllib.request.urlopen(url, timeout=20).read().decode()
    except OSError as error:
        return repr(error)
code = sys.stdin.read()
exec(code)
print(repr(result))
"""

Rules = list[dict[str, object]]


def rule(*, host: str | None = None, cidr: str | None = None, ports: tuple[int, ...] = (), protocol: str = "tcp") -> dict[str, object]:
    return {"host": host, "cidr": cidr, "ports": [[port, port] for port in ports], "protocol": protocol}


@contextmanager
def function(directory: Path, rules: Rules, *, args: tuple[str, ...] = (PYTHON, "-c", FILTER), contract: str = "stdin") -> Iterator[Serve]:
    """A function of this machine's Python, in the network of `outside`."""
    bundle = make_bundle(directory / "bundle", Path("/"), args, contract=contract, network=rules)
    program = (sys.executable, str(Path(outside.__file__)), str(directory), "--", str(MONITOR))
    with Serve(bundle, directory, pool=1, ready_ms=60_000, program=program) as serve:
        serve.wait_for("ready")
        yield serve


def asked(serve: Serve, code: str, name: str = "call-1") -> object:
    """What a call of the filter answers."""
    answer = serve.call(name, textwrap.dedent(code).encode(), milliseconds=25_000)
    assert answer.status == 200, (answer.status, serve.ended(name)["tail"])
    return ast.literal_eval(answer.body.decode())


def logged(serve: Serve, name: str = "call-1") -> list[str]:
    serve.ended(name)
    return [event["line"] for event in serve.events if event["event"] == "log" and "network.allow" in event["line"]]


def test_without_a_rule_there_is_no_network_and_the_log_says_so_once(tmp_path: Path) -> None:
    with function(tmp_path, []) as serve:
        found = asked(
            serve,
            """
            addresses = ('192.0.2.1', 8000), ('192.0.2.1', 8000), ('2001:db8::1', 8000), ('169.254.169.254', 80)
            result = [connect(address) for address in addresses]
            # Of netlink there is what tells of `lo`.
            result.append(socket.if_nameindex())
            for family, kind, protocol in (16, 3, 15), (40, 1, 0), (17, 3, 0), (2, 3, 0):
                try:
                    socket.socket(family, kind, protocol).close()
                    result.append('made')
                except OSError as error:
                    result.append(errno.errorcode[error.errno])
            """,
        )
        assert found == ["ENETUNREACH"] * 4 + [[(1, "lo")], "EPROTONOSUPPORT"] + ["EAFNOSUPPORT"] * 2 + ["EPERM"]
        lines = logged(serve)
    assert lines.count("mayfly-monitor: network.allow has no rule for 192.0.2.1:8000 (tcp)") == 1
    assert "mayfly-monitor: network.allow has no rule for [2001:db8::1]:8000 (tcp)" in lines


def test_a_network_and_its_ports_are_reached_and_nothing_else(tmp_path: Path) -> None:
    with function(tmp_path, [rule(cidr="192.0.2.0/24", ports=(8000, 8443)), rule(cidr="2001:db8::/64", ports=(8000,))]) as serve:
        found = asked(
            serve,
            """
            result = [
                fetch('http://192.0.2.7:8000/a'), fetch('http://[2001:db8::5]:8000/b'), connect(('192.0.2.7', 8443)),
                connect(('192.0.2.7', 8001)), connect(('198.51.100.1', 8000)), connect(('192.0.3.1', 8000)),
            ]
            """,
        )
        assert isinstance(found, list)
        assert found[0] == "192.0.2.7:8000 /a ::ffff:192.0.2.7"
        assert found[1] == "[2001:db8::5]:8000 /b 2001:db8::5"
        assert found[2:] == ["ECONNREFUSED", "EACCES", "EACCES", "EACCES"]
        assert "mayfly-monitor: network.allow has no rule for 192.0.2.7:8001 (tcp)" in logged(serve)


def test_under_the_widest_rule_the_machine_its_link_and_metadata_stay_out_of_reach(tmp_path: Path) -> None:
    with function(tmp_path, [rule(cidr="0.0.0.0/0", protocol="any"), rule(cidr="::/0", protocol="any")]) as serve:
        found = asked(
            serve,
            """
            addresses = ['169.254.169.254', '169.254.0.1', '100.100.100.200', '198.51.100.1', '::ffff:169.254.169.254',
                         '::ffff:198.51.100.1', '64:ff9b::169.254.169.254', 'fd00:ec2::254',
                         'fe80::1', '224.0.0.1', '2002:a9fe:a9fe::1', '::169.254.169.254']
            result = [connect((address, 8000)) for address in addresses]
            result.append(connect(('192.0.2.1', 8000)))
            result.append(connect(('127.0.0.1', 8000)))
            """,
        )
        assert found == ["EACCES"] * 12 + ["connected", "ECONNREFUSED"]


def test_what_is_named_exactly_is_reached(tmp_path: Path) -> None:
    with function(tmp_path, [rule(cidr="198.51.100.1/32", ports=(8000,)), rule(cidr="169.254.169.254", ports=(8000,))]) as serve:
        found = asked(
            serve, "result = [connect(('198.51.100.1', 8000)), connect(('169.254.169.254', 8000)), connect(('198.51.100.1', 8001))]"
        )
        assert found == ["connected", "connected", "EACCES"]


def test_names_are_resolved_by_the_monitor_and_lead_to_what_it_said(tmp_path: Path) -> None:
    rules = [
        rule(host=name, ports=(8000,)) for name in ("web.example", "dns.example", "rebind.example", "meta.example", "here", "*.web.example")
    ]
    with function(tmp_path, rules) as serve:
        found = asked(
            serve,
            """
            before = connect(('192.0.2.9', 8000))
            def look(name):
                try:
                    return sorted({at[4][0] for at in socket.getaddrinfo(name, 8000, type=socket.SOCK_STREAM)})
                except OSError as error:
                    return error.strerror
            result = [
                before, look('web.example'), look('other.example'), look('rebind.example'), look('meta.example'), look('here'),
                fetch('http://dns.example:8000/x'),
                connect(('192.0.2.9', 8000)), connect(('192.0.2.9', 8001)), connect(('192.0.2.10', 8000)),
                fetch('http://www.web.example:8000/y'), look('localhost'), open('/etc/resolv.conf').read(),
            ]
            """,
        )
        assert isinstance(found, list)
        unknown = "Name or service not known"
        assert found[:6] == ["EACCES", ["192.0.2.1", "2001:db8::1"], *[unknown] * 4]
        assert found[6] == "dns.example:8000 /x ::ffff:192.0.2.9"
        assert found[7:10] == ["connected", "EACCES", "EACCES"]
        assert found[10] == "www.web.example:8000 /y ::ffff:192.0.2.1"
        assert "127.0.0.1" in found[11]
        assert found[12] == "nameserver 127.0.0.53\n"
        serve.ended("call-1")
        # Each name once, by the monitor itself; what is not resolvable at all is no matter of the policy.
        said = [event["line"] for event in serve.events if event["event"] == "log" and event["stream"] == "monitor"]
        refused = "network.allow has no rule for the name other.example"
        inside = "network.allow has a rule for the name, but it leads to private addresses, which must be named themselves:"
        assert sorted(said) == sorted([refused, *(f"{inside} {name}" for name in ("rebind.example", "meta.example", "here"))])


def test_the_broker_has_a_jail(tmp_path: Path) -> None:
    with function(tmp_path, [rule(host="web.example")]) as serve:
        children = Path(f"/proc/{serve.process.pid}/task/{serve.process.pid}/children").read_text().split()
        statuses = [Path(f"/proc/{pid}/status").read_text() for pid in children]
        fields = [dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line) for status in statuses]
        # Of the children of `serve` only the broker keeps the node's process namespace.
        [broker] = [field for field in fields if len(field["NSpid"].split()) == 1]
        assert (broker["Seccomp"], broker["NoNewPrivs"]) == ("2", "1")
        assert all(broker[name] == "0" * 16 for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"))
        assert asked(serve, "result = fetch('http://web.example:8000/a')") is not None


def test_the_resolver_answers_whatever_it_is_asked(tmp_path: Path) -> None:
    with function(tmp_path, [rule(host="web.example")]) as serve:
        found = asked(
            serve,
            """
            import struct
            def question(name, kind=1, flags=0x100, count=1):
                labels = b''.join(bytes([len(label)]) + label.encode() for label in name.split('.'))
                return struct.pack('>HHHHHH', 77, flags, count, 0, 0, 0) + labels + b'\\0' + struct.pack('>HH', kind, 1)
            def code(answer):
                return answer[3] & 15
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                asking.settimeout(20)
                asking.connect(('127.0.0.53', 53))
                def ask(message):
                    asking.send(message)
                    return asking.recv(4096)
                good = question('web.example')
                result = [code(ask(message)) for message in (
                    good, question('no.example'), question('web.example', 16), good[:11], good[:-1], question('web.example', count=2),
                    question('web.example', flags=0x2900), good[:12] + b'\\xc0\\x0c' + good[-4:], os.urandom(2) + b'\\1' + os.urandom(400),
                )]
            with socket.create_connection(('127.0.0.53', 53), timeout=20) as stream:
                for _ in range(2):
                    stream.sendall(struct.pack('>H', len(good)) + good)
                    (length,) = struct.unpack('>H', stream.recv(2, socket.MSG_WAITALL))
                    result.append(stream.recv(length, socket.MSG_WAITALL)[-4:])
            """,
        )
        assert found == [0, 3, 0, 1, 1, 1, 4, 1, 1, b"\xc0\x00\x02\x01", b"\xc0\x00\x02\x01"]


def test_datagrams_go_out_and_come_back_from_where_they_went(tmp_path: Path) -> None:
    with function(
        tmp_path, [rule(cidr="192.0.2.0/24", ports=(9000,), protocol="udp"), rule(cidr="2001:db8::/64", protocol="any")]
    ) as serve:
        found = asked(
            serve,
            """
            result = []
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.settimeout(20)
                for number in range(1, 4):
                    sender.sendto(b'to %d' % number, (f'192.0.2.{number}', 9000))
                    result.append(sender.recvfrom(100))
                for to in ('192.0.2.1', 9001), ('198.51.100.1', 9000), ('169.254.169.254', 9000):
                    try:
                        sender.sendto(b'x', to)
                        result.append('sent')
                    except OSError as error:
                        result.append(errno.errorcode[error.errno])
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
                sender.settimeout(20)
                sender.connect(('2001:db8::7', 9000))
                sender.send(b'six')
                result += [sender.recv(100), sender.getpeername()[:2]]
            """,
        )
        assert found == [
            *((f"TO {number}".encode(), (f"192.0.2.{number}", 9000)) for number in range(1, 4)),
            *["EACCES"] * 3,
            b"SIX",
            ("2001:db8::7", 9000),
        ]


def test_a_connection_works_without_blocking_and_keeps_its_place_in_an_epoll_set(tmp_path: Path) -> None:
    with function(tmp_path, [rule(cidr="192.0.2.0/24")]) as serve:
        found = asked(
            serve,
            """
            import select
            made = socket.socket()
            made.setblocking(False)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            waiting = select.epoll()
            waiting.register(made, select.EPOLLOUT)
            started = made.connect_ex(('192.0.2.1', 8000))
            events = waiting.poll(20)
            waiting.modify(made, select.EPOLLIN)
            result = [errno.errorcode[started], events == [(made.fileno(), select.EPOLLOUT)],
                      made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR),
                      made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), made.getpeername()]
            made.send(b'GET /e HTTP/1.0\\r\\nHost: h\\r\\n\\r\\n')
            result.append(waiting.poll(20) == [(made.fileno(), select.EPOLLIN)])
            refused = socket.socket()
            refused.setblocking(False)
            refused.connect_ex(('192.0.2.1', 8443))
            select.select([], [refused], [], 20)
            result.append(errno.errorcode[refused.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)])
            """,
        )
        assert found == ["EINPROGRESS", True, 0, 1, ("192.0.2.1", 8000), True, "ECONNREFUSED"]


SERVER = """
import http.server, socket, threading, urllib.request
inner = http.server.ThreadingHTTPServer(('127.0.0.1', 7000), type('Inner', (http.server.BaseHTTPRequestHandler,), {
    'do_GET': lambda self: (self.send_response(200), self.end_headers(), self.wfile.write(b'inner ' + self.path.encode())),
    'log_message': lambda *_: None}))
threading.Thread(target=inner.serve_forever, daemon=True).start()
kept = socket.socketpair()
listener = socket.create_server(('127.0.0.1', 7001))
near = socket.create_connection(('127.0.0.1', 7001))
far, _ = listener.accept()
near.sendall(b'before the snapshot')
names = (near.getsockname(), near.getpeername())
class Outer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        found = [urllib.request.urlopen('http://localhost:7000/x').read().decode(), far.recv(100).decode()]
        far.sendall(b'and back')
        found += [near.recv(100).decode(), str(names == (near.getsockname(), near.getpeername()))]
        if self.path == '/self':
            seen = []
            def ask():
                with socket.create_connection(('127.0.0.1', 8080)) as made:
                    seen.append(str(made.getpeername()))
            asking = threading.Thread(target=ask)
            asking.start()
            asking.join()
            found += seen
        body = '|'.join(found).encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
http.server.HTTPServer(('0.0.0.0', 8080), Outer).serve_forever()
"""


def test_a_snapshot_carries_listeners_and_connections_inside(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", Path("/"), [PYTHON, "-c", SERVER])
    with Serve(bundle, tmp_path, ready_ms=60_000) as serve:
        ready = serve.wait_for("ready")
        assert ready["snapshot"] is not None, ready["reason"]
        for number in range(3):
            answer = serve.call(f"call-{number}")
            assert answer.body == b"inner /x|before the snapshot|and back|True", answer
        assert serve.call("call-self", path="/self").body.endswith(b"|('127.0.0.1', 8080)")


def test_instances_do_not_reach_each_other(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", Path("/"), [PYTHON, "-c", FILTER], contract="stdin")
    hold = """
        listener = socket.create_server(('127.0.0.1', 7777))
        named = socket.socket(socket.AF_UNIX)
        named.bind('\\0held')
        named.listen(1)
        print('held', file=sys.stderr, flush=True)
        time.sleep(60)
    """
    look = """
        named = socket.socket(socket.AF_UNIX)
        result = [connect(('127.0.0.1', 7777)), named.connect_ex('\\0held')]
    """
    with Serve(bundle, tmp_path, pool=2, ready_ms=60_000) as serve:
        serve.wait_for("ready")
        code = textwrap.dedent(hold).encode()
        with serve.connect() as holding:
            request = f"MAYFLY/1 hold 30000 -\nPOST / HTTP/1.1\r\nHost: f\r\nConnection: close\r\nContent-Length: {len(code)}\r\n\r\n"
            holding.sendall(request.encode() + code)
            serve.wait_for("log", lambda event: event["line"] == "held")
            assert asked(serve, look, "look") == ["ECONNREFUSED", 111]
        # What a guest listens on is no port of the machine.
        table = "".join(Path("/proc/net", name).read_text() for name in ("tcp", "tcp6"))
        assert f":{7777:04X} " not in table


Program = Callable[..., Path]


@pytest.mark.timeout(120 + FLIPS // 500)
def test_an_address_that_changes_during_the_call_is_judged_as_it_is_used(tmp_path: Path, program: Program, figure: Figure) -> None:
    path = program("sockaddr_race", "-static", "-O1", "-pthread")
    rules = [rule(cidr="192.0.2.0/24", ports=(8001,)), rule(cidr="192.0.2.0/24", ports=(9000,), protocol="udp")]
    root = tmp_path / "root"
    for name in ("proc", "sys", "dev", "tmp", "etc"):
        (root / name).mkdir(parents=True)
    (root / "race").write_bytes(path.read_bytes())
    (root / "race").chmod(0o755)
    bundle = make_bundle(tmp_path / "bundle", root, ["/race", str(FLIPS)], contract="stdin", network=rules)
    runner = (sys.executable, str(Path(outside.__file__)), str(tmp_path), "--", str(MONITOR))
    with Serve(bundle, tmp_path, pool=1, ready_ms=60_000, program=runner) as serve:
        serve.wait_for("ready")
        answer = serve.call("race", milliseconds=3_600_000)
        assert answer.status == 200, serve.ended("race")
        words = dict(word.split("=") for word in answer.body.decode().split())
    figure(answer.body.decode().strip())
    assert int(words["wrong"]) == 0
    assert int(words["allowed"]) > 0
    assert int(words["refused"]) > 0
