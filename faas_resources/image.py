"""`Image`: a function, given as an OCI image and how to call it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, JsonValue, ValidationInfo

from bundles.references import MAX_LENGTH, Reference
from faas_resources.conditions import ImageStatus
from faas_resources.metadata import Resource
from faas_resources.model import Model
from faas_resources.network import Network
from faas_resources.quantities import Memory, Timeout, milliseconds, number_of_bytes

GROUP = "build.kontain.app"
VERSION = "v1"

ALLOW_LOCAL = "allow_local"  # key of the validation context: may spec.image be a directory of this machine?

# With this, a server that only knows the CRD refuses what is surely wrong (another transport, `..`, a space, an option).
_COMPONENT = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
IMAGE_PATTERN = (
    r"^(docker://)?(([a-zA-Z0-9][-a-zA-Z0-9.]*|\[[0-9a-fA-F:]{2,45}\])(:[0-9]{1,5})?/)?"
    rf"{_COMPONENT}(/{_COMPONENT})*(:[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(@sha256:[0-9a-f]{{64}})?$"
)
_INT32: dict[str, JsonValue] = {"format": "int32"}
_VARIABLE_PATTERN = r"^[A-Za-z_.-][A-Za-z0-9_.-]*$"


def _check_image(text: str, info: ValidationInfo) -> str:
    local = bool((info.context or {}).get(ALLOW_LOCAL, False))
    Reference.parse(text, allow_local=local)
    return text


def _check_argument(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold a NUL character")
    return text


def _check_variables(variables: tuple[Variable, ...]) -> tuple[Variable, ...]:
    seen: set[str] = set()
    for variable in variables:
        if variable.name in seen:
            raise ValueError(f"holds {variable.name!r} twice; keep one of them")
        seen.add(variable.name)
    return variables


Argument = Annotated[str, AfterValidator(_check_argument), Field(max_length=32768)]
Arguments = Annotated[tuple[Argument, ...], Field(strict=False, max_length=256)]


class Variable(Model):
    """One environment variable."""

    name: Annotated[str, Field(pattern=_VARIABLE_PATTERN, max_length=256)]
    value: Argument = ""


class ImageSpec(Model):
    """What the author of a function decides."""

    image: Annotated[
        str,
        AfterValidator(_check_image),
        Field(
            description="The OCI image, as skopeo writes it: docker://host/name:tag, host/name:tag, or with @sha256:… for fixed content.",
            json_schema_extra={"pattern": IMAGE_PATTERN, "minLength": 1, "maxLength": MAX_LENGTH},
        ),
    ]
    contract: Annotated[
        Literal["http", "stdin", "kontain"],
        Field(description="How a call reaches the program: HTTP on its port, the body on stdin, or the file /.request."),
    ] = "http"
    port: Annotated[
        int | None,
        Field(ge=1, le=65535, description="TCP port of an http program; by default the image's, else 8080.", json_schema_extra=_INT32),
    ] = None
    command: Annotated[Arguments, Field(description="Replaces the image's entrypoint.")] = ()
    args: Annotated[Arguments, Field(description="Replaces the image's command: the arguments of the entrypoint.")] = ()
    env: Annotated[
        tuple[Variable, ...],
        Field(
            strict=False,
            max_length=512,
            description="Environment variables, over those of the image.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
        AfterValidator(_check_variables),
    ] = ()
    network: Annotated[Network, Field(description="What the function may reach outside of its virtual machine.")] = Network()
    timeout: Annotated[Timeout, Field(description="Wall clock for one call: waiting, running and streaming.")] = "60s"
    memory: Annotated[Memory, Field(description="How much memory the program may fill.")] = "256Mi"
    concurrency: Annotated[int, Field(ge=1, le=100_000, description="Calls at a time on one node.", json_schema_extra=_INT32)] = 64
    pool: Annotated[int, Field(ge=0, le=256, description="Instances that wait for a call on one node.", json_schema_extra=_INT32)] = 4

    check: Annotated[
        bool,
        Field(
            description="Whether a new revision is asked GET / (or with no input) a few times, unseen, to warn in status of values that "
            "repeat across calls."
        ),
    ] = True
    runtime: Annotated[
        str | None,
        Field(
            pattern=r"^[a-z][a-z0-9-]{0,30}$",
            description="An OCI runtime that the node offers (crun, runsc…) in the place of Mayfly's own monitor; receipts say so.",
        ),
    ] = None

    @property
    def timeout_ms(self) -> int:
        """`timeout` in milliseconds."""
        return milliseconds(self.timeout)

    @property
    def memory_bytes(self) -> int:
        """`memory` in bytes."""
        return number_of_bytes(self.memory)

    def reference(self) -> Reference:
        """`image`, parsed; whether a local one may stand here was decided when the spec was checked."""
        return Reference.parse(self.image, allow_local=True)


class Image(Resource):
    """A function from an OCI image."""

    API_VERSION: ClassVar[str] = f"{GROUP}/{VERSION}"
    KIND: ClassVar[str] = "Image"
    PLURAL: ClassVar[str] = "images"

    api_version: Literal["build.kontain.app/v1"] = "build.kontain.app/v1"
    kind: Literal["Image"] = "Image"
    spec: ImageSpec
    status: ImageStatus = ImageStatus()
