"""Structured logs on stderr: a line of JSON per event, or a line for people on a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

import structlog


def configure(level: str, form: str) -> None:
    """Sends structlog's and the standard library's events to stderr. `form` is auto, json or console."""
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: Sequence[structlog.typing.Processor] = (
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    )
    people = form == "console" or (form == "auto" and sys.stderr.isatty())
    last: Sequence[structlog.typing.Processor] = (
        (structlog.dev.ConsoleRenderer(),)
        if people
        else (structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer(default=str))
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for package in ("bundles", "faas_resources", "faas_downloader"):
        logging.getLogger(package).setLevel(number)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(number),
        cache_logger_on_first_use=True,
    )
