"""A little internet in namespaces of its own: `python outside.py DIRECTORY -- PROGRAM…` runs the program beside servers.

Only the program can reach them. Every address of 192.0.2.0/24 and 2001:db8::/64 leads to the servers without being an address of this
machine; 198.51.100.1 is one. Names come from DIRECTORY/hosts and from a name server. Works as an ordinary user where user namespaces
are allowed.

HTTP on port 8000 answers with what was asked; port 8001 accepts and closes; UDP port 9000 sends back; port 8443 does not listen.
"""

from __future__ import annotations

import http.server
import os
import select
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import NoReturn

IPV6_FREEBIND = 78  # of <linux/in6.h>: answers may come from addresses that are no interface's

bound = threading.Barrier(4)  # the three servers below and who starts them

RESOLVED = {"dns.example": "192.0.2.9", "rebind.example": "127.0.0.1", "meta.example": "169.254.169.254"}


class Handler(http.server.BaseHTTPRequestHandler):
    """Says who was asked for what."""

    def do_GET(self) -> None:
        body = f"{self.headers['Host']} {self.path} {self.connection.getsockname()[0]}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Says nothing: standard error is the monitor's."""


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6


def echo(port: int) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
        # A datagram's answer must come from where it went to.
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        server.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
        server.bind(("::", port))
        bound.wait()
        while True:
            data, control, _, peer = server.recvmsg(65536, 1024)
            server.sendmsg([data.upper()], [(level, kind, info) for level, kind, info in control if kind == socket.IPV6_PKTINFO], 0, peer)


def answer(question: bytes) -> bytes:
    """A name server's answer to a question of one name."""
    at, labels = 12, []
    while question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode())
        at += 1 + question[at]
    (kind,) = struct.unpack(">H", question[at + 1 : at + 3])
    known = RESOLVED.get(".".join(labels))
    code = 0 if known else 3
    records = b""
    if known and kind == 1:
        records = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton(known)
    return question[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, bool(records), 0, 0) + question[12 : at + 5] + records


def names() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))
        bound.wait()
        while True:
            question, peer = server.recvfrom(4096)
            server.sendto(answer(question), peer)


def closing(port: int) -> None:
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        bound.wait()
        while True:
            connection, _ = server.accept()
            connection.close()


def prepare(directory: Path) -> None:
    (directory / "hosts").write_text(
        "192.0.2.1 web.example www.web.example\n2001:db8::1 web.example\n10.9.8.7 private.example\n127.0.0.1 here\n"
    )
    (directory / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    for command in (
        "ip link set lo up",
        "ip addr add 198.51.100.1/32 dev lo",
        "ip route add local 192.0.2.0/24 dev lo",
        "ip route add local 169.254.0.0/16 dev lo",
        "ip route add local 100.100.100.200/32 dev lo",
        "ip -6 route add local 2001:db8::/64 dev lo",
        f"mount --bind {directory}/hosts /etc/hosts",
        f"mount --bind {directory}/resolv.conf /etc/resolv.conf",
    ):
        subprocess.run(command.split(), check=True)


def serve(tell: int, program: int) -> NoReturn:
    """The servers, until the program is gone; it is no parent of this process: the monitor ends children that it did not make."""
    for stream in (0, 1):
        os.dup2(os.open("/dev/null", os.O_RDWR), stream)
    web = Server(("::", 8000), Handler)
    for target, arguments in ((web.serve_forever, ()), (echo, (9000,)), (names, ()), (closing, (8001,))):
        threading.Thread(target=target, args=arguments, daemon=True).start()
    bound.wait()
    os.write(tell, b"x")
    select.select([program], [], [])
    os._exit(0)


def main() -> NoReturn:
    directory = Path(sys.argv[1])
    program = sys.argv[sys.argv.index("--") + 1 :]
    if os.environ.get("OUTSIDE") != "made":
        os.environ["OUTSIDE"] = "made"
        privilege = [] if os.geteuid() == 0 else ["--map-root-user"]
        words = ["unshare", *privilege, "--net", "--mount", sys.executable, *sys.argv]
        os.execvp("unshare", words)
    prepare(directory)
    told, tell = os.pipe()
    itself = os.pidfd_open(os.getpid())
    between = os.fork()
    if between == 0:
        if os.fork() == 0:
            serve(tell, itself)
        os._exit(0)
    os.waitpid(between, 0)
    os.read(told, 1)
    os.execvp(program[0], program)


if __name__ == "__main__":
    main()
