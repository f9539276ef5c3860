"""Manifests, indexes and image configurations: JSON that a stranger wrote, turned into frozen models.

What the models do not have does not exist for the rest of the system: labels, annotations, histories, embedded data and the `urls` of a
layer are dropped here, so nothing can be driven by them. Rules that hold for every document: a size limit before parsing, no duplicate
keys, no NaN, bounded depth, digests in one spelling, sizes not negative, and never both `layers` and `manifests` (CVE-2021-41190: two
readers must not see two images in the same bytes). Go's JSON reader ignores the case of keys and Python's does not; therefore umoci is
never given these documents but only what `canonical_image` writes from the models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, StrictStr, ValidationError

from bundles.digests import Digest
from bundles.errors import ManifestError, PlatformError

MAX_MANIFEST = 4 << 20  # bytes; what the distribution specification asks registries to accept at least
MAX_CONFIG = 4 << 20  # bytes; a configuration of more is history or labels
MAX_LAYERS = 512  # four times what builders produce
MAX_ENTRIES = 1024  # manifests in an index

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"

ACCEPTED = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX)
"""Media types to ask a registry for."""

_LAYERS = {
    OCI_LAYER: OCI_LAYER,
    OCI_LAYER + "+gzip": OCI_LAYER + "+gzip",
    OCI_LAYER + "+zstd": OCI_LAYER + "+zstd",
    DOCKER_LAYER: OCI_LAYER,
    DOCKER_LAYER + ".gzip": OCI_LAYER + "+gzip",
    DOCKER_LAYER + ".zstd": OCI_LAYER + "+zstd",
}
_NAMES = {OCI_MANIFEST: "manifest", DOCKER_MANIFEST: "manifest", OCI_INDEX: "index", DOCKER_INDEX: "index"}

_M = TypeVar("_M", bound=BaseModel)


def _none_is_empty(value: Any) -> Any:
    """Go writes an empty slice or map as null."""
    return () if value is None else value


def _none_is_empty_map(value: Any) -> Any:
    return {} if value is None else value


Strings = Annotated[tuple[StrictStr, ...], BeforeValidator(_none_is_empty)]
Text = Annotated[StrictStr, BeforeValidator(lambda value: "" if value is None else value)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class Platform(_Model):
    """What an image runs on."""

    os: Text = ""
    architecture: Text = ""
    variant: Text = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


HOST = Platform(os="linux", architecture="amd64")
"""What the monitor runs."""


class Descriptor(_Model):
    """A reference to a blob: what it is, which, how large."""

    media_type: StrictStr = Field(alias="mediaType", max_length=255)
    digest: Digest
    size: StrictInt = Field(ge=0, lt=1 << 63)
    platform: Platform | None = None

    def json_dict(self) -> dict[str, Any]:
        """As OCI writes it."""
        document: dict[str, Any] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.platform:
            document["platform"] = {key: value for key, value in self.platform.model_dump().items() if value}
        return document


class Manifest(_Model):
    """One image for one platform."""

    config: Descriptor
    layers: Annotated[tuple[Descriptor, ...], BeforeValidator(_none_is_empty)] = Field(max_length=MAX_LAYERS)

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Configuration and layers, each once: what has to be in the layout before the image can be unpacked."""
        return tuple({descriptor.digest: descriptor for descriptor in (self.config, *self.layers)}.values())


class Index(_Model):
    """The images of one name, by platform."""

    manifests: Annotated[tuple[Descriptor, ...], BeforeValidator(_none_is_empty)] = Field(max_length=MAX_ENTRIES)

    def choose(self, platform: Platform = HOST) -> Descriptor:
        """The image for `platform`; of several variants the most modest one, which runs on every machine of that kind."""
        matching = [
            entry
            for entry in self.manifests
            if entry.platform
            and (entry.platform.os, entry.platform.architecture) == (platform.os, platform.architecture)
            and _NAMES.get(entry.media_type) == "manifest"
        ]
        if not matching and len(self.manifests) == 1 and self.manifests[0].platform is None:
            matching = list(self.manifests)  # some tools say the platform in the configuration only, where `check_image` looks
        if not matching:
            raise PlatformError(f"the image has nothing for {platform}; it has {_listed(self.manifests)}")
        return min(matching, key=lambda entry: entry.platform.variant if entry.platform else "")


class ProcessDefaults(_Model):
    """`config` of an image configuration: how the image wants to be run."""

    user: Text = Field("", alias="User")
    env: Strings = Field((), alias="Env")
    entrypoint: Strings = Field((), alias="Entrypoint")
    cmd: Strings = Field((), alias="Cmd")
    working_dir: Text = Field("", alias="WorkingDir")
    exposed_ports: Annotated[Mapping[str, Any], BeforeValidator(_none_is_empty_map)] = Field({}, alias="ExposedPorts")


class _RootFs(_Model):
    type: StrictStr
    diff_ids: Annotated[tuple[Digest, ...], BeforeValidator(_none_is_empty)] = Field(max_length=MAX_LAYERS)


class ImageConfig(_Model):
    """An image configuration."""

    os: StrictStr
    architecture: StrictStr
    variant: Text = ""
    config: Annotated[ProcessDefaults, BeforeValidator(_none_is_empty_map)] = ProcessDefaults()
    rootfs: _RootFs

    @property
    def platform(self) -> Platform:
        return Platform(os=self.os, architecture=self.architecture, variant=self.variant)


@dataclass(frozen=True, slots=True)
class CanonicalImage:
    """An image described again, in OCI's media types and with nothing but what an unpacker needs."""

    manifest: bytes
    config: bytes


def parse_manifest(data: bytes, media_type: str | None = None) -> Manifest | Index:
    """Reads a manifest or an index.

    `media_type` is what the registry or the descriptor said; where the document itself says something else, it is refused.
    """
    document = load_object(data, MAX_MANIFEST, "manifest")
    said = document.get("mediaType")
    if said is not None and not isinstance(said, str):
        raise ManifestError("manifest: mediaType must be a string")
    if said and media_type and said != media_type:
        raise ManifestError(f"manifest: it calls itself {said[:100]!r} and was announced as {media_type[:100]!r}")
    version = document.get("schemaVersion")
    if version == 1 and type(version) is int:
        raise ManifestError("manifest: this is Docker's schema 1, which has no digests to check; push the image again with a current tool")
    if version != 2 or type(version) is not int:
        raise ManifestError(f"manifest: schemaVersion must be 2, not {_brief(version)}")
    if "layers" in document and "manifests" in document:
        raise ManifestError("manifest: it has both layers and manifests, so that two readers would see two images")
    kind = "index" if "manifests" in document else "manifest"
    stated = said or media_type
    if stated and _NAMES.get(stated) != kind:
        raise ManifestError(f"manifest: it is announced as {stated[:100]!r} and has the fields of an image {kind}")
    if kind == "index":
        return _validate(Index, document, "index")
    manifest = _validate(Manifest, document, "manifest")
    _check_media_types(manifest)
    return manifest


def parse_config(data: bytes) -> ImageConfig:
    """Reads an image configuration."""
    config = _validate(ImageConfig, load_object(data, MAX_CONFIG, "image configuration"), "image configuration")
    if config.rootfs.type != "layers":
        raise ManifestError(f"image configuration: rootfs.type must be 'layers', not {_brief(config.rootfs.type)}")
    return config


def check_image(manifest: Manifest, config: ImageConfig, platform: Platform = HOST) -> None:
    """Refuses an image for another platform, or one whose two halves do not belong together."""
    if (config.os, config.architecture) != (platform.os, platform.architecture):
        raise PlatformError(f"the image is for {str(config.platform)[:100]!r}; this node runs {platform}")
    if len(manifest.layers) != len(config.rootfs.diff_ids):
        layers, differences = len(manifest.layers), len(config.rootfs.diff_ids)
        raise ManifestError(f"the manifest has {layers} layers and the configuration {differences} diff_ids: they must match")


def canonical_image(manifest: Manifest, config: ImageConfig) -> CanonicalImage:
    """The same image in OCI's own media types: what umoci is given."""
    config_document = {
        "architecture": config.architecture,
        "os": config.os,
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [str(digest) for digest in config.rootfs.diff_ids]},
        "history": [],
    }
    config_bytes = json.dumps(config_document).encode()
    manifest_document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": str(Digest.of(config_bytes)), "size": len(config_bytes)},
        "layers": [{**layer.json_dict(), "mediaType": _LAYERS[layer.media_type]} for layer in manifest.layers],
    }
    return CanonicalImage(json.dumps(manifest_document).encode(), config_bytes)


def _check_media_types(manifest: Manifest) -> None:
    if manifest.config.media_type not in (OCI_CONFIG, DOCKER_CONFIG):
        raise ManifestError(f"manifest: config is {manifest.config.media_type[:100]!r}: not an image that can be run")
    if manifest.config.size > MAX_CONFIG:
        raise ManifestError(f"manifest: the image configuration has {manifest.config.size} bytes; at most {MAX_CONFIG} are read")
    for number, layer in enumerate(manifest.layers):
        if layer.media_type not in _LAYERS:
            foreign = "foreign" in layer.media_type or "nondistributable" in layer.media_type
            reason = "its bytes are not in the registry" if foreign else "layers are tar archives, plain or compressed with gzip or zstd"
            raise ManifestError(f"manifest: layers[{number}] is {layer.media_type[:100]!r}: {reason}")


def load_object(data: bytes, limit: int, what: str) -> dict[str, Any]:
    """Parses a JSON object by this module's rules, or raises ManifestError that begins with `what`."""
    if len(data) > limit:
        raise ManifestError(f"{what}: {len(data)} bytes; at most {limit} are read")
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except ManifestError as error:
        raise ManifestError(f"{what}: {error}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{what}: not UTF-8") from error
    except RecursionError as error:
        raise ManifestError(f"{what}: nested too deeply") from error
    except ValueError as error:  # JSONDecodeError, and integers of thousands of digits
        raise ManifestError(f"{what}: not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ManifestError(f"{what}: it must be a JSON object")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ManifestError(f"key {key[:100]!r} appears twice, so that two readers would see two documents")
            seen.add(key)
    return document


def _no_constant(text: str) -> NoReturn:
    raise ManifestError(f"{text} is not JSON")


def _validate(model: type[_M], document: dict[str, Any], what: str) -> _M:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part)[:60] for part in first["loc"]) or "document"
        raise ManifestError(f"{what}: {place!r}: {first['msg']}") from error


def _brief(value: Any) -> str:
    return repr(value)[:100]


def _listed(entries: tuple[Descriptor, ...]) -> str:
    names = sorted({str(entry.platform) for entry in entries if entry.platform and entry.platform.os != "unknown"})
    return repr(", ".join(names[:8]))[:300] if names else "no platform at all"
