"""A server whose workers are made before the first connection: arguments are their number and how they wait."""

import ctypes
import os
import select
import signal
import socket
import sys
import time

workers, mode = int(sys.argv[1]), sys.argv[2]
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("0.0.0.0", int(os.environ["PORT"])))
listener.listen(5)


def daemon() -> None:
    """Gets away as daemons do: a session of its own, a parent that ends."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 100)
        while True:
            time.sleep(1000)
    os._exit(0)


def answer(connection: socket.socket) -> None:
    request = b""
    while b"\r\n\r\n" not in request:
        request += connection.recv(4096)
    path = request.split()[1].decode()
    body = b"hello"
    if path == "/pids":
        body = f"{os.getpid()} {os.getppid()}".encode()
    elif path == "/daemon":
        daemon()
    elif path == "/stuck":
        daemon()
        time.sleep(1000)
    elif path == "/kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif path == "/fault":
        ctypes.string_at(16)
    elif path == "/exit":
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nbye")
        os._exit(0)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    connection.close()


def work() -> None:
    if mode != "accept":
        listener.setblocking(False)
    while True:
        if mode == "select":
            select.select([listener], [], [])
        elif mode == "epoll":
            with select.epoll() as waiting:
                waiting.register(listener, select.EPOLLIN)
                waiting.poll()
        try:
            answer(listener.accept()[0])
        except BlockingIOError:
            continue


for _ in range(workers):
    if os.fork() == 0:
        work()
while True:
    os.wait()
    if os.fork() == 0:
        work()
