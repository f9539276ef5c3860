"""`/_mayfly/…`: what this node's functions are, did and wrote. Only reads; no namespace can have that name.

| Path under `/_mayfly` | Answer |
|---|---|
| `/functions` | `{"functions": [status, …]}`, by namespace and name |
| `/functions/<ns>/<fn>` | status: specification, revisions and their states, running, waiting |
| `/functions/<ns>/<fn>/receipts?limit=` | `{"receipts": [receipt, …]}`, oldest first |
| `/functions/<ns>/<fn>/logs?tail=&follow=1` | log lines, one JSON object a line; with `follow` it goes on until the client leaves |
| `/receipts/<call>` | the newest receipt of that call id |
| `/node` | this machine: KVM, layers of the jail that it has, and why it lacks others, versions |

Receipts and log lines outlive their function for as long as there is room. Log lines are a guest's words: JSON escapes them, and whoever
shows them has to escape them again for where they are shown.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import re
from contextlib import aclosing
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from aiohttp import web

from faas_server.calling import Calls, error_response
from faas_server.errors import Refusal
from faas_server.fleet import Fleet, Function
from faas_server.logs import Logs
from faas_server.node import Machine, Machines, monitor_program
from faas_server.receipts import Receipts
from faas_server.records import Record
from faas_server.settings import Settings
from faas_server.supervising import Revision

_MOST = 10_000  # records in one answer
_SOME = 100
_FOLLOWERS = 64  # at a time: each is a connection that stays

_CALL = re.compile(r"[A-Za-z0-9._-]{1,64}")


class ManagementFront:
    """Handlers; `routes` says of which paths."""

    def __init__(self, settings: Settings, fleet: Fleet, calls: Calls, receipts: Receipts, logs: Logs, machines: Machines) -> None:
        self._settings = settings
        self._fleet = fleet
        self._calls = calls
        self._receipts = receipts
        self._logs = logs
        self._machines = machines
        self._followers: set[asyncio.Task[Any]] = set()

    def routes(self) -> list[web.RouteDef]:
        """All paths."""
        function = "/_mayfly/functions/{namespace}/{function}"
        return [
            web.get("/_mayfly/functions", self.functions),
            web.get(function, self.function),
            web.get(f"{function}/receipts", self.receipts),
            web.get(f"{function}/logs", self.logs, allow_head=False),
            web.get("/_mayfly/receipts/{call}", self.receipt),
            web.get("/_mayfly/node", self.node),
            web.route("*", "/_mayfly{rest:.*}", self.nothing),
        ]

    def stop(self) -> None:
        """Ends the answers that never end by themselves."""
        for task in self._followers:
            task.cancel()

    async def functions(self, request: web.Request) -> web.Response:
        return web.json_response({"functions": [self._status(function) for _, function in sorted(self._fleet.functions.items())]})

    async def function(self, request: web.Request) -> web.Response:
        key = (request.match_info["namespace"], request.match_info["function"])
        function = self._fleet.functions.get(key)
        if function is None:
            raise Refusal(404, "there is no such function on this node")
        return web.json_response(self._status(function))

    async def receipts(self, request: web.Request) -> web.Response:
        receipts = await self._receipts.last(_name(request), _number(request, "limit", _SOME))
        return web.json_response({"receipts": receipts})

    async def receipt(self, request: web.Request) -> web.Response:
        call = request.match_info["call"]
        receipt = await self._receipts.find(call) if _CALL.fullmatch(call) else None
        if receipt is None:
            raise Refusal(404, "there is no receipt of such a call: it was not made here, reached no instance, or is too long ago")
        return web.json_response(receipt)

    async def logs(self, request: web.Request) -> web.StreamResponse:
        tail = _number(request, "tail", _SOME)
        name = _name(request)
        if request.query.get("follow", "0") in ("0", "false", ""):
            return web.Response(
                body=b"".join(_ndjson(line) for line in await self._logs.last(name, tail)), content_type="application/x-ndjson"
            )
        if len(self._followers) >= _FOLLOWERS:
            raise Refusal(503, f"{_FOLLOWERS} clients follow logs already")
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        task = asyncio.current_task()
        assert task is not None, "a handler runs in a task"
        self._followers.add(task)
        try:
            await response.prepare(request)
            async with aclosing(self._logs.follow(name, tail)) as lines:
                async for line in lines:
                    await response.write(_ndjson(line))
        except ConnectionError:
            pass  # the reader has left
        finally:
            self._followers.discard(task)
        return response

    async def node(self, request: web.Request) -> web.Response:
        machine = await self._machines.now()
        return web.json_response(
            {
                "kvm": {"usable": machine.problem is None, "problem": machine.problem},
                "monitor": str(monitor_program(self._settings.monitor) or "") or None,
                **layers(machine),
                "calls": {"running": self._calls.node.inside, "waiting": self._calls.node.waiting, "limit": self._calls.node.limit},
                "functions": len(self._fleet.functions),
                "processors": os.cpu_count(),
                "versions": {
                    "mayfly": _version("mayfly"),
                    "python": platform.python_version(),
                    "aiohttp": _version("aiohttp"),
                    "kernel": platform.release(),
                },
            }
        )

    async def nothing(self, request: web.Request) -> web.Response:
        return error_response(404, "there is nothing here; see /_mayfly/functions and /_mayfly/node")

    def _status(self, function: Function) -> Record:
        target = function.target()
        return {
            "namespace": function.key[0],
            "name": function.key[1],
            "ready": function.answers,
            "revision": function.serving.id if function.serving is not None else None,
            "serving": _revision(function.serving),
            "coming": _revision(function.coming),
            "draining": [_revision(revision) for revision in self._fleet.draining(function.key)],
            "running": function.gate.inside,
            "waiting": function.gate.waiting,
            "spec": target.spec.model_dump(mode="json", exclude={"version", "namespace", "name"}),
        }


def layers(machine: Machine) -> Record:
    """The layers of the jail that this machine has, and those it lacks with the reason and the way to get them."""
    return {
        "layers": [layer.name for layer in machine.layers if layer.available],
        "missing": [{"name": layer.name, "reason": layer.detail} for layer in machine.missing()],
    }


def _revision(revision: Revision | None) -> Record | None:
    if revision is None:
        return None
    ready, problem = revision.ready, revision.problem
    return {
        "revision": revision.id,
        "image": revision.spec.image,
        "state": str(revision.state),
        "calls": revision.calls,
        "parked": len(revision.parked),
        "monitor_pid": revision.monitor_pid,
        "boot_ms": ready.boot_ms if ready else None,
        "snapshot": ready.snapshot.model_dump() if ready and ready.snapshot else None,
        "no_snapshot_because": ready.reason if ready else None,
        "layers": ready.layers if ready else None,
        "missing": [dict(layer) for layer in ready.missing] if ready else None,
        "isolation": ready.isolation if ready else None,
        "problem": {"reason": problem.reason, "message": problem.message, "output": problem.output} if problem else None,
    }


def _name(request: web.Request) -> str:
    return f"{request.match_info['namespace']}/{request.match_info['function']}"


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, str(default))
    if not text.isdecimal() or not text.isascii() or len(text) > 9:
        raise Refusal(400, f"{name} must be a whole number, such as {default}")
    return min(int(text), _MOST)


def _ndjson(line: Record) -> bytes:
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
