"""A server in the way of inetd: it forks for each connection and closes its own copy; the child answers on its standard streams, with
what another program said. The argument `kin` makes a child before the first connection, so that there is no snapshot.
"""

import os
import socket
import subprocess
import sys
import time

listener = socket.create_server(("0.0.0.0", int(os.environ["PORT"])))
if sys.argv[1] == "kin" and os.fork() == 0:
    while True:
        time.sleep(1000)
while True:
    connection, _ = listener.accept()
    if os.fork():
        connection.close()
        continue
    listener.close()
    number = connection.detach()
    os.dup2(number, 0)
    os.close(number)
    os.dup2(0, 1)
    request = b""
    while b"\r\n\r\n" not in request:
        request += os.read(0, 4096)
    # By vfork: between it and the exec, the new process puts pipes where this one has the connection.
    said = subprocess.run(["tr", "a-z", "A-Z"], input=request.split(b" ")[1], capture_output=True, check=True).stdout
    os.write(1, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said))
    os.write(1, said)
    os._exit(0)
