"""`mayfly`: the commands put together, and the one place where an error becomes a message and an exit status."""

import os
import sys
from typing import Annotated

import typer

from bundles.errors import BundlesError
from faas_resources import NotFound as ResourceNotFound
from faas_resources import ResourceError
from mayfly import rendering
from mayfly.commands import calling, image, node, resources, syscalls
from mayfly.errors import MayflyError, NotFound

_EPILOG = """Exit status: 0 done · 1 refused or failed · 2 wrong usage · 3 this machine cannot run functions · 4 no such thing · 5 no server
answers · 6 not in time · 7 the function answered with a status of 400 or more · 8 something else serves this directory or address · 130
interrupted."""

app = typer.Typer(
    name="mayfly",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(epilog=_EPILOG)
def mayfly() -> None:
    """Functions of which every call runs in a virtual machine of its own."""


app.command("up")(node.up)
app.command("apply")(resources.apply)
app.add_typer(resources.get, name="get")
app.add_typer(resources.describe, name="describe")
app.command("delete")(resources.delete)
app.command("call")(calling.call)
app.command("logs")(calling.logs)
app.command("receipt")(calling.receipt)
app.add_typer(image.image, name="image")
app.command("syscalls")(syscalls.used)
app.command("doctor")(node.examine)
app.command("version")(node.version)


@app.command()
def completion(shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="The shell.")]) -> None:
    """Print the completion script of a shell: `source <(mayfly completion bash)`."""
    if shell not in {"bash", "zsh", "fish"}:
        raise typer.BadParameter(f"{shell}: no script for this shell; there are bash, zsh and fish")
    # The variable through which the scripts themselves ask for completions; with this value it asks for the script.
    os.environ["_MAYFLY_COMPLETE"] = f"source_{shell}"
    app(prog_name="mayfly")


def main() -> None:
    try:
        app(prog_name="mayfly")
    except (MayflyError, ResourceError, BundlesError, OSError) as error:
        told = _told(error)
        rendering.print_error(told)
        sys.stdout.flush()
        if os.environ.get("MAYFLY_TRACEBACK"):
            raise
        sys.exit(told.exit_code)


def _told(error: MayflyError | ResourceError | BundlesError | OSError) -> MayflyError:
    """The errors of the floors below name input, rule and way out already; only their exit status is decided here."""
    if isinstance(error, MayflyError):
        return error
    if isinstance(error, OSError):
        return MayflyError(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    return NotFound(str(error)) if isinstance(error, ResourceNotFound) else MayflyError(str(error))
