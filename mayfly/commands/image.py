"""image build: an OCI image from a folder."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mayfly import rendering
from mayfly.commands.calling import Style
from mayfly.errors import MayflyError

image = typer.Typer(no_args_is_help=True, help="Make images.")

_SUFFIX = "image.oci"
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@image.command("build")
def build_image(
    source: Annotated[Path, typer.Argument(metavar="DIR|PROGRAM", help="A folder with main.py or a built program; or one such file.")],
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="LAYOUT[:TAG]", help="The image layout to write.", show_default="DIR/image.oci")
    ] = None,
    tag: Annotated[str | None, typer.Option("--tag", "-t", help="The image's name in the layout.", show_default="latest")] = None,
    command: Annotated[list[str] | None, typer.Option("--command", metavar="WORD", help="What to start; repeat for more words.")] = None,
    arg: Annotated[list[str] | None, typer.Option("--arg", metavar="WORD", help="An argument; may be repeated.")] = None,
    env: Annotated[list[str] | None, typer.Option("--env", "-e", metavar="NAME=VALUE", help="A variable; may be repeated.")] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="The port that the program listens on.")] = 8080,
    user: Annotated[str, typer.Option("--user", metavar="UID[:GID]", help="Who the program runs as.")] = "65534:65534",
    output: Annotated[Style, typer.Option("--output", help="How to print the result.")] = Style.TEXT,
) -> None:
    """Pack a program into an OCI image layout, without Docker and without network.

    A folder with main.py is packed with this machine's Python interpreter, any other program with the shared libraries it needs. The same
    folder gives the same digest. What is in the folder comes along, but for image.yaml, version control and byte code.
    """
    # Imported here: it is what this command alone needs.
    from mayfly.image_building import Plan, build

    layout, named = _output(out, source)
    plan = Plan(
        source=source,
        output=layout,
        tag=_checked_tag(tag or named or "latest"),
        command=tuple(command or ()),
        args=tuple(arg or ()),
        env=dict(_variable(text) for text in env or ()),
        port=port,
        user=user,
    )
    with rendering.console(stderr=True).status("building …") as status:
        built = build(plan, lambda step: status.update(f"{step} …"))
    for warning in built.warnings:
        rendering.print_note(f"warning: {warning}")
    if output is Style.JSON:
        rendering.print_json(asdict(built))
        return
    total = rendering.size(sum(layer.size for layer in built.layers))
    rendering.print_line(f"{built.reference}@{built.digest}")
    rendering.print_note(f"{total} in {len(built.layers)} layers, starts {' '.join(built.entrypoint)}")


def _output(option: str | None, source: Path) -> tuple[Path, str | None]:
    if option is None:
        return (source if source.is_dir() else source.parent) / _SUFFIX, None
    directory, colon, tag = option.removeprefix("oci:").rpartition(":")
    if colon and "/" not in tag:
        return Path(directory), tag
    return Path(option.removeprefix("oci:")), None


def _checked_tag(tag: str) -> str:
    if not _TAG.fullmatch(tag):
        raise MayflyError(
            f"{tag}: not a tag", hint="A tag has letters, digits, '_', '.', '-', at most 128, and does not begin with '.' or '-'."
        )
    return tag


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not _VARIABLE.fullmatch(name):
        raise typer.BadParameter(f"{text!r} is not a variable; write NAME=VALUE", param_hint="--env")
    return name, value
