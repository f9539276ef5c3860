"""The least that a front on aiohttp can be: one route, a connection to the function's socket for each call, the answer passed on.

No admission, no deadline, no receipts, no metrics, no checks of what is refused: what ours costs beyond this is what these cost.
`least_front.py SOCKET PORT [WORKERS]`; several workers share the port by SO_REUSEPORT.
"""

import asyncio
import os
import sys

import httptools
import uvloop
from aiohttp import web


class Exchange(asyncio.Protocol):
    """One call to an instance: all of the answer, then the future."""

    def __init__(self, request, done):
        self.request, self.done = request, done
        self.parser = httptools.HttpResponseParser(self)
        self.greeted = False
        self.fields, self.body = [], []

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data):
        if not self.greeted:
            _, _, data = data.partition(b"\n")
            self.greeted = True
        if data:
            self.parser.feed_data(data)

    def on_header(self, name, value):
        self.fields.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_body(self, body):
        self.body.append(body)

    def on_message_complete(self):
        self.transport.abort()
        if not self.done.done():
            self.done.set_result((self.parser.get_status_code(), self.fields, b"".join(self.body)))

    def connection_lost(self, exc):
        if not self.done.done():
            self.done.set_exception(ConnectionError("no answer"))


async def serve(path, port):
    loop = asyncio.get_running_loop()

    async def call(request):
        body = await request.read()
        done = loop.create_future()
        head = f"MAYFLY/1 call 60000 -\nPOST / HTTP/1.1\r\nHost: f\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        await loop.create_unix_connection(lambda: Exchange(head.encode() + body, done), path)
        status, fields, answer = await done
        kept = [(name, value) for name, value in fields if name.lower() not in ("connection", "content-length")]
        return web.Response(status=status, headers=kept, body=answer)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", call)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, reuse_port=True).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    for _ in range(int(sys.argv[3]) - 1 if len(sys.argv) > 3 else 0):
        if os.fork() == 0:
            break
    uvloop.run(serve(sys.argv[1], int(sys.argv[2])))
