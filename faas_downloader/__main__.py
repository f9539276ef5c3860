"""`python -m faas_downloader --data DIR`: see `settings` for what else it can be told.

Exit status: 0 stopped by a signal, 1 it cannot run (another downloader has the data directory, or that cannot be used), 2 wrong usage.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError

from bundles.errors import BundlesError
from faas_downloader import app, logs
from faas_downloader.settings import Settings
from faas_resources import ResourceError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the downloader; returns the exit status."""
    try:
        settings = read_settings(sys.argv[1:] if arguments is None else arguments)
    except ValidationError as error:
        for found in error.errors(include_url=False):
            name = "-".join(str(part) for part in found["loc"]).replace("_", "-")
            sys.stderr.write(f"faas_downloader: --{name} (MAYFLY_{name.upper().replace('-', '_')}): {found['msg']}\n")
        return 2
    except SettingsError as error:
        sys.stderr.write(f"faas_downloader: {error}\n")
        return 2
    logs.configure(settings.log_level, settings.log_format)
    try:
        asyncio.run(app.run(settings))
    except (BundlesError, ResourceError) as error:
        sys.stderr.write(f"faas_downloader: {error}\n")
        return 1
    return 0


def read_settings(arguments: Sequence[str]) -> Settings:
    """Settings from a command line and the environment."""
    return CliApp.run(Settings, cli_args=list(arguments))


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # Work that did not end in time is in threads that the interpreter would wait for; on disk nothing needs them.
    os._exit(status)
