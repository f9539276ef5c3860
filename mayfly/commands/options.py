"""Options that several commands share, each said once."""

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from faas_resources import Image
from faas_resources.store.directory import DirectoryStore
from mayfly.doctor import MONITOR_VARIABLE
from mayfly.locating import DATA_VARIABLE, SERVER_VARIABLE, data_directory
from mayfly.rendering import Format

Data = Annotated[
    Path | None,
    typer.Option(
        "--data", envvar=DATA_VARIABLE, metavar="DIR", help="The node's data directory.", show_default="the user's data directory"
    ),
]
Server = Annotated[
    str | None,
    typer.Option(
        "--server", envvar=SERVER_VARIABLE, metavar="URL", help="Where the server answers.", show_default="the one that serves --data"
    ),
]
Monitor = Annotated[
    Path | None,
    typer.Option(
        "--monitor", envvar=MONITOR_VARIABLE, metavar="FILE", help="The monitor.", show_default="mayfly-monitor beside this program"
    ),
]
Namespace = Annotated[str, typer.Option("--namespace", "-n", metavar="NAMESPACE", help="The namespace.")]
Place = Annotated[
    str | None,
    typer.Option("--namespace", "-n", metavar="NAMESPACE", help="The namespace.", show_default="default, in a cluster the context's"),
]
Context = Annotated[
    str | None,
    typer.Option("--context", metavar="NAME", help="Work on the cluster of this context of the kubeconfig.", show_default="this machine"),
]
Kubeconfig = Annotated[
    str | None,
    typer.Option(
        "--kubeconfig", metavar="FILE", help="Work on the cluster of this file.", show_default="this machine; with --context KUBECONFIG"
    ),
]
Output = Annotated[Format, typer.Option("--output", "-o", help="How to print the result.")]


def image_names(incomplete: str) -> list[str]:
    """For the shell's completion: the images of the namespace `default` in the directory that the environment names."""
    named = os.environ.get(DATA_VARIABLE)
    store = DirectoryStore(data_directory(Path(named) if named else None))
    return [image.name for image in asyncio.run(store.list(Image, "default")) if image.name.startswith(incomplete)]
