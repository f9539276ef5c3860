"""up, doctor, version: this machine and the programs on it."""

import asyncio
import platform
from dataclasses import asdict
from typing import Annotated

import typer

from faas_server.node import examine as examine_machine
from mayfly import __version__, doctor, rendering
from mayfly.commands.calling import Output, Style
from mayfly.commands.options import Data, Monitor
from mayfly.locating import DEFAULT_LISTEN, data_directory
from mayfly.upping import serve_node
from mayfly.waiting import parse_duration


def up(
    data: Data = None,
    listen: Annotated[
        str, typer.Option("--listen", envvar="MAYFLY_LISTEN", metavar="HOST:PORT", help="Where calls are taken.")
    ] = DEFAULT_LISTEN,
    drain: Annotated[str, typer.Option("--drain", help="How long calls may go on when it is stopped.")] = "30s",
    monitor: Monitor = None,
) -> None:
    """Serve functions on this machine until it is stopped.

    Runs the server and the downloader, in the foreground, and starts them again when they end. SIGTERM or ctrl-c lets calls come to their
    end; a second one does not wait for them.
    """
    directory = data_directory(data)
    seconds = parse_duration(drain)
    program = doctor.find_monitor(monitor)
    doctor.require(doctor.check_monitor(program))
    assert program is not None  # check_monitor found it
    doctor.require(doctor.check_kvm(examine_machine(program)))
    doctor.require(doctor.check_umoci())
    doctor.require(doctor.check_disk(directory))
    asyncio.run(serve_node(directory, listen, program, seconds))


def examine(data: Data = None, monitor: Monitor = None, output: Output = Style.TEXT) -> None:
    """Say what this machine has of what functions need, and what to do about each miss.

    The exit status is 1 where something is missing, 0 where functions can run.
    """
    checks = doctor.examine(data_directory(data), doctor.find_monitor(monitor))
    able = all(check.state != "missing" for check in checks)
    if output is Style.JSON:
        rendering.print_json({"able": able, "checks": [asdict(check) for check in checks]})
    else:
        rendering.print_table(("CHECK", "STATE", "DETAIL"), [(check.name, check.state, check.detail) for check in checks])
        for check in checks:
            if check.remedy:
                rendering.print_line(f"\n{check.name}: {check.remedy}")
        rendering.print_line(f"\n{'Functions can run on this machine.' if able else 'Functions cannot run on this machine yet.'}")
    raise typer.Exit(0 if able else 1)


def version(output: Output = Style.TEXT, monitor: Monitor = None) -> None:
    """Print the versions of the programs."""
    program = doctor.find_monitor(monitor)
    found = doctor.check_monitor(program)
    versions = {"mayfly": __version__, "monitor": found.detail, "python": platform.python_version()}
    if output is Style.JSON:
        rendering.print_json(versions)
    else:
        rendering.print_fields(versions.items())
