"""What repeats in the clones of a Python program, made anew in each before its first request. See docs/functions.md.

An instance is a copy of the program as it was when it first waited for a request, so generators of random numbers that were seeded before
would give every call the same numbers. `import mayfly_resume` anywhere in the program is enough for servers that accept connections through
`socket` or an event loop (asyncio, uvloop): `random` and numpy's global generator are seeded again before the first connection is handed to
the program. What else a program keeps can join with `@mayfly_resume.on_resume`; a program that is no server calls `resumed()` itself when
it has its input. Outside Mayfly all this does no harm: the first connection is the first connection.

The standard library only; any Python from 3.8.
"""

from __future__ import annotations

import asyncio
import importlib.util
import random
import socket
import sys
from typing import Any, Callable, TypeVar

Callback = TypeVar("Callback", bound=Callable[[], object])

_callbacks: list[Callable[[], object]] = []
_due = True


def on_resume(callback: Callback) -> Callback:
    """Has `callback` called, without arguments, before the first request that this instance gets; usable as a decorator."""
    _callbacks.append(callback)
    return callback


def resumed() -> None:
    """Tells that the program goes on in an instance: seeds again, calls the callbacks. Only the first time does anything."""
    global _due
    if _due:
        _due = False
        for callback in _callbacks:
            callback()


@on_resume
def _seed() -> None:
    random.seed()  # from the kernel, which gives each instance bytes of its own
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()


def _told(create: Any) -> Any:
    """`create_server` and `create_unix_server` of an event loop, whose protocols are made after the first connection was accepted."""

    def create_and_tell(self: Any, protocol_factory: Any, *args: Any, **kwargs: Any) -> Any:
        def factory() -> Any:
            resumed()
            return protocol_factory()

        return create(self, factory, *args, **kwargs)

    return create_and_tell


def _install() -> None:
    # In place, because others have imported the class by its name already.
    setattr(socket.socket, "accept", _accept(socket.socket.accept))  # noqa: B010 - a method is replaced on purpose
    loops: list[type[Any]] = [asyncio.BaseEventLoop]
    if importlib.util.find_spec("uvloop") is not None:
        import uvloop

        loops.append(uvloop.Loop)
    for loop in loops:
        for name in ("create_server", "create_unix_server"):
            if hasattr(loop, name):
                setattr(loop, name, _told(getattr(loop, name)))


def _accept(accept: Any) -> Any:
    def accept_and_tell(self: Any) -> Any:
        accepted = accept(self)
        resumed()
        return accepted

    return accept_and_tell


_install()
