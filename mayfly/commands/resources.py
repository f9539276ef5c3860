"""apply, get, describe, delete: the resources of this node, or of a cluster, in the words of kubectl.

They go through the store and need no server: what is applied while nothing runs is in force when `mayfly up` starts.
"""

import asyncio
import shlex
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from faas_resources import Image, NotFound
from faas_resources.conditions import NodeStatus
from mayfly import rendering
from mayfly.commands.options import Context, Data, Kubeconfig, Output, Place, image_names
from mayfly.manifest_files import read_images
from mayfly.rendering import Format
from mayfly.stores import Where
from mayfly.waiting import Awaited, is_ready, parse_duration, progress, wait_until_ready

_TYPE = "image.build.kontain.app"

get = typer.Typer(no_args_is_help=True, help="List resources, or print some.")
describe = typer.Typer(no_args_is_help=True, help="Show all that is known of a resource.")

Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these.", show_default=False, autocompletion=image_names)]


def apply(
    filename: Annotated[list[str], typer.Option("--filename", "-f", metavar="FILE|DIR|-", help="Manifests; may be given more than once.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the functions can be called.")] = False,
    timeout: Annotated[str, typer.Option("--timeout", help="How long to wait, as 30s or 2m.")] = "5m",
    namespace: Place = None,
    output: Output = Format.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    data: Data = None,
) -> None:
    """Create or change resources.

    `spec.image` may name an image layout relative to its manifest, as `oci:image.oci`.
    """
    seconds = parse_duration(timeout)
    where = Where(data, context, kubeconfig)

    async def run() -> list[Image]:
        applied = []
        async with where.opened() as store:
            for image in read_images(filename, namespace, await store.default_namespace()):
                result, change = await store.apply(image)
                applied.append(Awaited(result, unchanged=change == "unchanged"))
                if output in {Format.TABLE, Format.WIDE}:
                    rendering.print_line(f"{_TYPE}/{result.name} {change}")
            return await wait_until_ready(store, applied, seconds) if wait else [item.image for item in applied]

    images = asyncio.run(run())
    _print_machine_readable(images, output, single=len(images) == 1)


@get.command("images")
@get.command("image", hidden=True)
def get_images(
    names: Names = None,
    namespace: Place = None,
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Of every namespace.")] = False,
    output: Output = Format.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    data: Data = None,
) -> None:
    """List the images, or print those named."""
    if names and all_namespaces:
        raise typer.BadParameter("a name belongs to one namespace: leave out either the names or --all-namespaces")
    images, problems, place = asyncio.run(_listed(Where(data, context, kubeconfig), names or [], namespace, everywhere=all_namespaces))
    for key, problem in problems.items():
        rendering.print_note(f"warning: {'/'.join(key)}: the manifest is not in force as it stands: {problem}")
    if _print_machine_readable(images, output, single=len(names or []) == 1):
        return
    if not images:
        rendering.print_note("No images found." if all_namespaces else f"No images found in namespace {place}.")
        return
    columns = ["NAME", "READY", "CONTRACT", "REVISION", "AGE", "MESSAGE"] + (["IMAGE", "DIGEST"] if output is Format.WIDE else [])
    rendering.print_table(
        ["NAMESPACE", *columns] if all_namespaces else columns,
        ([*([image.namespace] if all_namespaces else []), *_row(image, wide=output is Format.WIDE)] for image in images),
    )


async def _listed(
    where: Where, names: list[str], namespace: str | None, *, everywhere: bool = False
) -> tuple[list[Image], dict[tuple[str, str], str], str]:
    """The images, those that are not in force as they stand, and the namespace that was meant."""
    async with where.opened() as store:
        place = namespace or await store.default_namespace()
        problems = {key: text for key, text in (await store.problems(Image)).items() if everywhere or key[0] == place}
        if not names:
            return list(await store.list(Image, None if everywhere else place)), problems, place
        wanted = [name.removeprefix("image/").removeprefix("images/") for name in names]
        images = [await store.get(Image, place, name) for name in wanted]
        return images, {key: text for key, text in problems.items() if key[1] in wanted}, place


def _row(image: Image, *, wide: bool) -> list[str]:
    status = image.status
    ready = status.condition("Ready")
    truth = ready.status.value if ready is not None else "Unknown"
    message = "" if is_ready(image) else progress(image)
    cells = [image.name, truth, image.spec.contract, status.revision or "", rendering.age(image.metadata.creation_timestamp), message]
    return cells + ([image.spec.image, status.digest or ""] if wide else [])


@describe.command("image")
@describe.command("images", hidden=True)
def describe_image(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", autocompletion=image_names)],
    namespace: Place = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    data: Data = None,
) -> None:
    """Show an image's specification, status and conditions."""
    images, problems, _ = asyncio.run(_listed(Where(data, context, kubeconfig), names, namespace))
    for index, image in enumerate(images):
        if index:
            rendering.print_line()
        _describe(image, problems.get((image.namespace, image.name)))


def _describe(image: Image, problem: str | None) -> None:
    metadata, spec, status = image.metadata, image.spec, image.status
    rendering.print_fields(
        [
            ("Name", image.name),
            ("Namespace", image.namespace),
            ("Labels", "\n".join(f"{key}={value}" for key, value in metadata.labels.items()) or "<none>"),
            ("Annotations", "\n".join(f"{key}: {value}" for key, value in metadata.annotations.items()) or "<none>"),
            ("Created", metadata.creation_timestamp.isoformat() if metadata.creation_timestamp else "<unknown>"),
            ("Generation", str(image.generation)),
            *([("Problem", f"the manifest is not in force as it stands: {problem}")] if problem else []),
        ]
    )
    rendering.print_line("Spec:")
    rendering.print_fields(
        [
            ("Image", spec.image),
            ("Contract", spec.contract),
            ("Port", str(spec.port or "<the image's>")),
            ("Command", shlex.join(spec.command) or "<the image's>"),
            ("Args", shlex.join(spec.args) or "<the image's>"),
            ("Environment", "\n".join(f"{variable.name}={variable.value}" for variable in spec.env) or "<none>"),
            ("Timeout", spec.timeout),
            ("Memory", spec.memory),
            ("Concurrency", str(spec.concurrency)),
            ("Pool", str(spec.pool)),
        ],
        indent=2,
    )
    rendering.print_line("Status:")
    rendering.print_fields(
        [
            ("Observed generation", str(status.observed_generation or "<none>")),
            ("Digest", status.digest or "<none>"),
            ("Revision", status.revision or "<none>"),
            ("Message", status.message or "<none>"),
        ],
        indent=2,
    )
    rendering.print_line("Conditions:")
    now = datetime.now(UTC)
    rows = [
        (f"  {item.type}", item.status.value, item.reason, rendering.age(item.last_transition_time, now), item.message)
        for item in status.conditions
    ]
    rendering.print_table(("  TYPE", "STATUS", "REASON", "SINCE", "MESSAGE"), rows)
    if status.nodes:
        rendering.print_line("Nodes:")
        rendering.print_table(("  NAME", "READY", "REVISION", "MESSAGE"), (_node_row(entry) for entry in status.nodes))


def _node_row(entry: NodeStatus) -> list[str]:
    ready = next((condition.status.value for condition in entry.conditions if condition.type == "Ready"), "Unknown")
    return [f"  {entry.name}", ready, entry.revision or "", entry.message or ""]


def delete(
    kind_and_names: Annotated[list[str] | None, typer.Argument(metavar="[image NAME...]", show_default=False)] = None,
    filename: Annotated[
        list[str] | None, typer.Option("--filename", "-f", metavar="FILE|DIR|-", help="Delete what these manifests name.")
    ] = None,
    namespace: Place = None,
    ignore_not_found: Annotated[bool, typer.Option("--ignore-not-found", help="Succeed where there is nothing to delete.")] = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    data: Data = None,
) -> None:
    """Delete resources, by name or by manifest: `delete image NAME`, `delete -f FILE`.

    Calls that run come to their end; then the function goes.
    """

    async def run() -> None:
        async with Where(data, context, kubeconfig).opened() as store:
            for place, name in _targets(kind_and_names or [], filename or [], namespace, await store.default_namespace()):
                try:
                    await store.delete(Image, place, name)
                except NotFound:
                    if not ignore_not_found:
                        raise
                else:
                    rendering.print_line(f'{_TYPE} "{name}" deleted')

    asyncio.run(run())


def _targets(words: list[str], filenames: list[str], namespace: str | None, default: str) -> list[tuple[str, str]]:
    if bool(words) == bool(filenames):
        raise typer.BadParameter("name what to delete, either as `image NAME` or with --filename")
    if filenames:
        return [(image.namespace, image.name) for image in read_images(filenames, namespace, default)]
    first, *rest = words
    if "/" in first:
        kind, _, name = first.partition("/")
        names = [name, *(word.partition("/")[2] or word for word in rest)]
    else:
        kind, names = first, rest
    if kind not in {"image", "images", _TYPE, "images.build.kontain.app"}:
        raise typer.BadParameter(f"{kind}: no such kind; the kinds are: image")
    if not names:
        raise typer.BadParameter("name the images to delete")
    return [(namespace or default, name) for name in names]


def _print_machine_readable(images: list[Image], output: Format, *, single: bool) -> bool:
    """Print in the formats that programs read; False for those of people."""
    documents = [_document(image) for image in images]
    whole: Any = documents[0] if single else {"apiVersion": "v1", "kind": "List", "items": documents}
    match output:
        case Format.JSON:
            rendering.print_json(whole)
        case Format.YAML:
            rendering.print_yaml(whole)
        case Format.NAME:
            for image in images:
                rendering.print_line(f"{_TYPE}/{image.name}")
        case _:
            return False
    return True


def _document(image: Image) -> dict[str, Any]:
    """The whole resource, with the specification in its author's words: applied again, it changes nothing."""
    whole = image.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {**whole, "spec": image.manifest()["spec"]}
