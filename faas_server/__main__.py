"""`python -m faas_server`: one server, until SIGTERM or SIGINT, then it drains.

Exit status: 0 drained, 1 a part of it broke, 2 it cannot run with these settings. The log goes to stderr, one JSON object a line, so that
what clients and guests wrote cannot forge a line or reach a terminal.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys

import structlog
import uvloop

from faas_server.app import serving
from faas_server.errors import SettingsError
from faas_server.settings import Settings


def main() -> int:
    """Reads the command line and runs."""
    parser = argparse.ArgumentParser(prog="faas_server", description="The data plane of one node. All other settings: MAYFLY_… variables.")
    parser.add_argument("--data", help="directory that the planes share (MAYFLY_DATA)")
    parser.add_argument("--listen", help="HOST:PORT (MAYFLY_LISTEN, default 127.0.0.1:8080)")
    parser.add_argument("--monitor", help="the monitor's program (MAYFLY_MONITOR, default mayfly-monitor)")
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    _log_as_json()
    _keep_descriptors()
    try:
        uvloop.run(_run(Settings.load(**given)))
    except SettingsError as error:
        print(f"faas_server: {error}", file=sys.stderr)  # noqa: T201 - said to who started it, before there is anything to log
        return 2
    return 0


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(settings) as server:
        server.broken.add_done_callback(lambda _: stop.set())
        await stop.wait()
    if server.broken.done():
        server.broken.result()


def _keep_descriptors() -> None:
    """What whoever started this process left open is not for the monitors: uvloop closes nothing in its children."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):  # the one that the listing itself had open
                os.set_inheritable(int(name), False)


def _log_as_json() -> None:
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.JSONRenderer()],
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it tells of every notice


if __name__ == "__main__":
    sys.exit(main())
