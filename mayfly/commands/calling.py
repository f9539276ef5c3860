"""call, logs, receipt: functions as their callers see them, through the server."""

import base64
import codecs
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated, Any
from urllib.parse import quote

import typer

from mayfly import rendering, timeline
from mayfly.client import Answer, Body, Call, Client, message_of
from mayfly.commands.options import Data, Namespace, Server, image_names
from mayfly.errors import CallFailed, MayflyError, NotFound
from mayfly.locating import data_directory, server_url
from mayfly.waiting import parse_duration

_MARGIN_SECONDS = 5.0
_METHOD = re.compile(r"[A-Za-z][A-Za-z-]*")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The function.", autocompletion=image_names)]


class Style(StrEnum):
    """The values of `--output` where there is no table."""

    TEXT = "text"
    JSON = "json"


Output = Annotated[Style, typer.Option("--output", "-o", help="How to print the result.")]


def call(
    name: Name,
    body: Annotated[str | None, typer.Option("--body", "-d", metavar="DATA|@FILE|@-", help="The body: text, a file, or stdin.")] = None,
    method: Annotated[
        str | None, typer.Option("--request", "-X", metavar="METHOD", help="The method.", show_default="GET, with a body POST")
    ] = None,
    header: Annotated[list[str] | None, typer.Option("--header", "-H", metavar="'NAME: VALUE'", help="A header; may be repeated.")] = None,
    path: Annotated[str, typer.Option("--path", metavar="PATH[?QUERY]", help="What follows the function in the URL.")] = "/",
    include: Annotated[bool, typer.Option("--include", "-i", help="Print status and headers before the body.")] = False,
    namespace: Namespace = "default",
    timeout: Annotated[
        str | None, typer.Option("--timeout", help="Give up after this long, as 30s.", show_default="the function's own")
    ] = None,
    output: Output = Style.TEXT,
    server: Server = None,
    data: Data = None,
) -> None:
    """Call a function and print its answer.

    The exit status is 0 for a status below 400, else 7; 4 where there is no such function.
    """
    if method is not None and not _METHOD.fullmatch(method):
        raise typer.BadParameter(f"{method!r} is not a method", param_hint="--request")
    seconds = parse_duration(timeout) if timeout is not None else None
    # The server gives up in time and says so; this side only makes sure of it.
    client = Client(server_url(server, data_directory(data)), timeout=seconds + _MARGIN_SECONDS if seconds else None)
    with _body(body) as (content, media_type):
        headers = {"Accept": "*/*", "User-Agent": "mayfly"} | ({"Content-Type": media_type} if media_type else {}) | _headers(header or [])
        if seconds is not None:
            headers["X-Mayfly-Timeout"] = f"{seconds:g}"
        request = Call(namespace, name, (method or ("POST" if content is not None else "GET")).upper(), path, headers, content)
        with client.call(request) as answer:
            if output is Style.JSON:
                rendering.print_json(_document(answer))
            elif answer.status < 400 or answer.from_function:
                _print_answer(answer, include=include)
            _judge(answer, namespace, name)


@contextmanager
def _body(text: str | None) -> Iterator[tuple[Body, str | None]]:
    """What `-d` says, and the media type that goes with it."""
    if text is None:
        yield None, None
    elif text == "@-":
        yield sys.stdin.buffer, "application/octet-stream"
    elif text.startswith("@"):
        with _opened(Path(text[1:])) as file:
            yield file, "application/octet-stream"
    else:
        yield text.encode(), "application/json" if _is_json(text) else "text/plain; charset=utf-8"


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        raise NotFound(f"{path}: no such file", hint="`-d @FILE` sends a file; a text that begins with @ goes through `-d @-`.") from error
    except OSError as error:
        raise MayflyError(f"{path}: cannot be read: {error.strerror}") from error


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict | list)
    except ValueError:
        return False


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip() or any(ord(character) < 0x20 and character != "\t" for character in line):
            raise typer.BadParameter(f"{line!r} is not a header; write 'NAME: VALUE'", param_hint="--header")
        headers[name.strip()] = value.strip()
    return headers


def _print_answer(answer: Answer, *, include: bool) -> None:
    if include:
        rendering.print_line(f"HTTP/1.1 {answer.status} {answer.reason}")
        for name, value in answer.headers:
            rendering.print_line(f"{name}: {value}")
        rendering.print_line()
    sys.stdout.flush()
    if sys.stdout.isatty():
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for block in answer.blocks():
            sys.stdout.write(rendering.printable(decoder.decode(block)))
            sys.stdout.flush()
    else:
        for block in answer.blocks():
            sys.stdout.buffer.write(block)
            sys.stdout.buffer.flush()


def _document(answer: Answer) -> dict[str, Any]:
    body = answer.read()
    try:
        content = {"body": body.decode()}
    except UnicodeDecodeError:
        content = {"bodyBase64": base64.b64encode(body).decode()}
    return {
        "status": answer.status,
        "headers": dict(answer.headers),
        "call": answer.header("X-Call-Id"),
        "revision": answer.header("X-Mayfly-Revision"),
        "instance": answer.header("X-Mayfly-Instance"),
        "seconds": round(answer.seconds, 6),
        **content,
    }


def _judge(answer: Answer, namespace: str, name: str) -> None:
    """Raises what the exit status of the command follows from."""
    if answer.status < 400:
        return
    message = f"{namespace}/{name} answered {answer.status} {answer.reason}"
    identity = answer.header("X-Call-Id")
    hint = f"`mayfly receipt {identity}` says how it ended, `mayfly logs {name} -n {namespace}` what it wrote." if identity else None
    if answer.from_function:
        raise CallFailed(message, hint=hint)
    if answer.status == 404:
        raise NotFound(f"{namespace}/{name}: no such function", hint="`mayfly get images -A` lists what there is, ready or not.")
    raise CallFailed(f"{message}: {message_of(answer)}", hint=hint)


def logs(
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines as they come.")] = False,
    tail: Annotated[int, typer.Option("--tail", min=0, help="How many of the last lines.")] = 100,
    prefix: Annotated[bool, typer.Option("--prefix", help="Begin each line with its time, instance and stream.")] = False,
    namespace: Namespace = "default",
    output: Output = Style.TEXT,
    server: Server = None,
    data: Data = None,
) -> None:
    """Print the last lines that a function wrote, of all its instances."""
    client = Client(server_url(server, data_directory(data)))
    function = f"/functions/{quote(namespace, safe='')}/{quote(name, safe='')}"
    if not follow:
        _check_known(client, function, f"{namespace}/{name}")
    for line in client.stream_json(f"{function}/logs", {"tail": str(tail), "follow": "1" if follow else "0"}):
        if output is Style.JSON:
            sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
        else:
            rendering.print_line(_log_line(line, prefix=prefix))
        sys.stdout.flush()


def _check_known(client: Client, function: str, name: str) -> None:
    """A name without lines is either a quiet function or a slip of the pen: only the second is an error."""
    if next(client.stream_json(f"{function}/logs", {"tail": "1"}), None) is None:
        try:
            client.get_json(function)
        except NotFound as error:
            raise NotFound(f"{name}: no such function, and no lines of one", hint="`mayfly get images -A` lists what there is.") from error


def _log_line(line: dict[str, Any], *, prefix: bool) -> str:
    if "lost" in line:
        return f"… {line['lost']} lines are lost: they came faster than they could be sent"
    text = f"{line['line']}{' …' if line.get('truncated') else ''}"
    if not prefix:
        return text
    moment = datetime.fromtimestamp(line["time"], UTC).isoformat(timespec="milliseconds")
    return f"{moment} {line.get('instance') or '-'} {line['stream']}: {text}"


def receipt(
    identity: Annotated[str, typer.Argument(metavar="CALL", help="The X-Call-Id of the answer.")],
    time: Annotated[bool, typer.Option("--time", help="Draw where the call's time went.")] = False,
    output: Output = Style.TEXT,
    server: Server = None,
    data: Data = None,
) -> None:
    """Show what a call cost and how it ended."""
    document = Client(server_url(server, data_directory(data))).get_json(f"/receipts/{quote(identity, safe='')}")
    if output is Style.JSON:
        rendering.print_json(document)
    elif time:
        _print_time(identity, document)
    else:
        rendering.print_fields(_receipt_fields(document))


def _print_time(identity: str, document: dict[str, Any]) -> None:
    parts = timeline.spans(document)
    if not parts:
        raise MayflyError(f"{identity}: the call reached no instance", hint=f"`mayfly receipt {identity}` says what became of it.")
    for line in timeline.picture(parts):
        rendering.print_line(line)
    rendering.print_note(f"the caller's answer was through after {document['total_us'] / 1000:.3f} ms")


def _receipt_fields(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The receipt line by line, times and sizes in units for people; what a newer server adds is shown as it is."""
    for key, value in document.items():
        if key != "monitor" and value is not None:
            yield _field(key, value)
    monitor = document.get("monitor")
    if monitor is None:
        yield "Instance's end", "not reported"
        return
    for key, value in monitor.items():
        if value is not None and value != "":
            yield _field(key, value)


def _field(key: str, value: Any) -> tuple[str, str]:
    if key == "time":
        return "Time", datetime.fromtimestamp(value, UTC).isoformat(timespec="milliseconds")
    name = key.removesuffix("_us").replace("_", " ").capitalize()
    if key.endswith("_us"):
        return name, f"{value / 1000:.3f} ms"
    return name, str(value)
