"""syscalls: which system calls a function or an image makes, and which of them are missing."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from bundles.references import Reference
from bundles.revisions import Bundle, RevisionStore, is_label
from bundles.runtime_config import Deployment
from faas_server.node import examine as examine_machine
from mayfly import doctor, rendering
from mayfly.commands.calling import Output, Style
from mayfly.commands.options import Data, Monitor, Namespace, image_names
from mayfly.errors import MayflyError, NotFound
from mayfly.locating import data_directory
from mayfly.waiting import parse_duration

# Of an image by itself nothing says what it may have: as much as the functions that ask for most.
_MEMORY = 1 << 30


def used(
    subject: Annotated[
        str, typer.Argument(metavar="NAME|IMAGE", help="A function, or an image: oci:DIR[:TAG], HOST/NAME:TAG.", autocompletion=image_names)
    ],
    contract: Annotated[Literal["http", "stdin", "kontain"], typer.Option("--contract", help="How an image is called.")] = "http",
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="The port of an image.", show_default="what it exposes, else 8080")
    ] = None,
    ready: Annotated[str, typer.Option("--ready-timeout", help="How long the program may take to be ready.")] = "30s",
    namespace: Namespace = "default",
    data: Data = None,
    monitor: Monitor = None,
    output: Output = Style.TEXT,
) -> None:
    """Run a function or an image for one call and list its system calls, and those that are missing.

    A name without `/` and `:` is a function of this machine's node (`--data`). An image is unpacked as the downloader does it, by the same
    settings (MAYFLY_REGISTRY_CONFIG and so on), into a temporary directory. The program runs without network until it is ready and for one
    call. The exit status is 1 where it was not ready.
    """
    milliseconds = max(1, round(parse_duration(ready) * 1000))
    program = doctor.find_monitor(monitor)
    doctor.require(doctor.check_monitor(program))
    assert program is not None  # check_monitor found it
    doctor.require(doctor.check_kvm(examine_machine(program)))
    with _published(subject, namespace, data_directory(data)) if is_label(subject) else _unpacked(subject, contract, port) as bundle:
        command = [str(program), "syscalls", "--used-by", str(bundle.path), "--ready-timeout", str(milliseconds)]
        status = subprocess.run([*command, *(["--json"] if output is Style.JSON else [])], check=False).returncode
    raise typer.Exit(status if status >= 0 else 128 - status)


@contextmanager
def _published(name: str, namespace: str, data: Path) -> Iterator[Bundle]:
    """The revision of a function that answers calls; kept from being collected."""
    store = data / "bundles"
    # A store that is opened is made where there is none.
    bundle = RevisionStore(store).current(namespace, name) if store.is_dir() else None
    if bundle is None:
        raise NotFound(
            f"{namespace}/{name}: no such function is published below {data}",
            hint="`mayfly get images` lists the functions; --namespace and --data name others. "
            "An image is written oci:DIR[:TAG] or HOST/NAME:TAG.",
        )
    with bundle.hold():
        yield bundle


@contextmanager
def _unpacked(text: str, contract: Literal["http", "stdin", "kontain"], port: int | None) -> Iterator[Bundle]:
    """An image as a bundle of its own, for as long as this lasts."""
    # Imported here: the registries' libraries are what this command alone needs.
    from faas_downloader.errors import DownloadError
    from faas_downloader.publishing import Publisher
    from faas_downloader.settings import Settings
    from faas_downloader.sources import registries_of, source_of

    reference = Reference.parse(text, allow_local=True, base=Path.cwd())
    doctor.require(doctor.check_umoci())
    deployment = Deployment(namespace="default", name="image", reference=str(reference), contract=contract, port=port, memory_bytes=_MEMORY)
    with tempfile.TemporaryDirectory(prefix="mayfly-syscalls-") as directory:
        settings = Settings(data=Path(directory))
        publisher = Publisher(RevisionStore(settings.data / "bundles"), settings)
        source = source_of(reference, registries_of(settings))
        try:
            with rendering.console(stderr=True).status(f"{reference} …"):
                bundle = publisher.fetch_and_publish(source, source.resolve(), deployment, [])
        except DownloadError as error:
            raise MayflyError(f"{reference}: {error}", hint="A function's name has no '/' and no ':'.") from error
        finally:
            source.close()
        yield bundle
