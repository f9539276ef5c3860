"""A server on asyncio's streams, which runs a part of each call in a thread and another beside a timer."""

import asyncio
import json
import os
import secrets
import sys

calls = 0


def squares(number: int) -> int:
    return sum(n * n for n in range(number + 1))


async def later(text: str) -> str:
    await asyncio.sleep(0.001)
    return text


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    global calls
    calls += 1
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length:"))
    asked = json.loads(await reader.readexactly(length))
    text, total = await asyncio.gather(later(asked["text"]), asyncio.to_thread(squares, asked["number"]))
    answer = {"text": text, "count": calls, "sum": total, "random": secrets.token_hex(16), "version": sys.version.split()[0]}
    body = json.dumps(answer).encode()
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()
    writer.close()


async def main() -> None:
    server = await asyncio.start_server(handle, "0.0.0.0", int(os.environ["PORT"]))
    await server.serve_forever()


asyncio.run(main())
