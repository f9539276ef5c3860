"""Kontain FAAS' paths: `/<namespace>/<function>[/path][?query]`, any method.

Names are compared as they stand in the request line. A name has one spelling, so a percent-encoded, doubled or dotted one belongs to no
function. What follows the function's name is the program's business and goes there byte by byte, `..` and `%2F` too.
"""

from __future__ import annotations

import re
import time

from aiohttp import web

from faas_server.calling import Calls, asked_seconds
from faas_server.errors import Refusal
from faas_server.fleet import Fleet
from faas_server.settings import Settings
from faas_server.wanted import Wanted

_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_PATH = re.compile(rf"/({_LABEL})/({_LABEL})(/[^?]*)?(\?.*)?")
_PREFLIGHT = ("Origin", "Access-Control-Request-Method")
_PREFLIGHT_SECONDS = 600
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


class KontainFront:
    """Handles every path that no other front has."""

    def __init__(self, settings: Settings, fleet: Fleet, wanted: Wanted, calls: Calls) -> None:
        self._origins = settings.cors_origins
        self._fleet = fleet
        self._wanted = wanted
        self._calls = calls

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Calls the function, or answers for it what browsers ask before they call."""
        match = _PATH.fullmatch(request.raw_path)
        if match is None:
            raise Refusal(404, "there is no such function; a call's path is /<namespace>/<function>")
        key, waited = (match[1], match[2]), 0.0
        if (function := self._fleet.functions.get(key)) is None:
            began = time.monotonic()
            function = await self._wanted.function(self._fleet.functions, key, asked_seconds(request))
            waited = time.monotonic() - began
        if request.method == "OPTIONS" and self._origins and all(field in request.headers for field in _PREFLIGHT):
            return self._preflight(request)
        target = (match[3] or "/") + (match[4] or "")
        return await self._calls.run(request, function, target.encode("ascii"), waited)

    def _preflight(self, request: web.Request) -> web.Response:
        """Any method and any header: a function is called by whoever may reach it, and no cookie is let through."""
        return web.Response(
            status=204,
            headers={
                "Access-Control-Allow-Origin": self._origins,
                "Access-Control-Allow-Methods": _METHODS,
                "Access-Control-Allow-Headers": request.headers.get("Access-Control-Request-Headers", "*"),
                "Access-Control-Max-Age": str(_PREFLIGHT_SECONDS),
                "Vary": "Access-Control-Request-Headers",
            },
        )
