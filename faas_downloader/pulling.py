"""Images from registries: the only module that speaks to one, with oras for the protocol's addresses and logins.

oras moves bytes; it checks no digest, knows no platform, and when something fails it sleeps for up to two minutes. So this module uses its
`Registry` for authenticated requests only, without its retries, on our own session, one per pull, and checks everything itself:

1. the first request tells how the registry wants to be logged in to (oras must be told beforehand);
2. the manifest is asked for with all media types we read, and its raw bytes are hashed;
3. of an index, the image for this platform is chosen, and its manifest checked against the index;
4. the configuration comes before the layers: an image for another machine is refused before gigabytes move;
5. each blob is hashed and counted while it streams into the layout, where it appears whole or not at all.

Nothing of `~/.docker`, `~/.netrc`, proxies or oras' own environment variables is used: logins come from the file that the settings name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import oras.auth.utils
import oras.container
import oras.defaults
import oras.provider
import requests

from bundles.digests import Digest
from bundles.errors import DigestError, ManifestError, VerificationError
from bundles.layout import Layout
from bundles.manifests import ACCEPTED, MAX_CONFIG, MAX_MANIFEST, Descriptor, check_image, parse_config
from bundles.references import DEFAULT_REGISTRY, Reference
from faas_downloader.connecting import Line, Pace, Session, failed
from faas_downloader.credentials import login_for
from faas_downloader.destinations import Destinations
from faas_downloader.errors import BadAnswer, Denied, DownloadError, Missing
from faas_downloader.resolving import Resolved, check_bytes, resolve

_ACCEPT = ", ".join(ACCEPTED)

# oras writes to a stream of its own, in colours; whatever it has to say is in our errors.
logging.getLogger("oras.logger").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Registries:
    """What the node says about registries."""

    config: Path | None = None  # docker config file with logins
    trusted: frozenset[str] = frozenset()
    insecure: frozenset[str] = frozenset()
    ca: Path | None = None
    pace: Pace = field(default_factory=Pace)
    image_bytes: int = 8 << 30


class _Registry(oras.provider.Registry):  # type: ignore[misc]  # oras has no types
    """oras' registry without its retries: it sleeps 3 + 5 + 11 + 29 + 83 seconds, and nobody could end that."""

    do_request = oras.provider.Registry.do_request.__wrapped__


class RegistrySource:
    """Implements `resolving.Source` for one reference to a registry."""

    def __init__(self, reference: Reference, registries: Registries) -> None:
        self._reference = reference
        self._registries = registries
        self._host = oras.defaults.registry.default_v2_registry["host"] if reference.registry == DEFAULT_REGISTRY else reference.registry
        self._destinations = Destinations(self._host.lower(), registries.trusted, registries.insecure)
        self._line = Line(registries.pace)
        self._session = Session(self._line, self._destinations)
        self._session.verify = str(registries.ca) if registries.ca else True
        self._container = oras.container.Container(reference.repository, registry=self._host)
        # oras takes a repository's first part for a host if it has a dot.
        self._container.registry = self._host
        self._container.namespace, _, self._container.repository = reference.repository.rpartition("/")
        self._registry: _Registry | None = None

    def newest(self) -> Digest | None:
        return _announced(self._request("HEAD", self._wanted))

    def resolve(self) -> Resolved:
        data, media_type = self._manifest(self._wanted)
        if self._reference.digest:
            check_bytes(data, self._reference.digest)
        return resolve(data, media_type, lambda descriptor: self._manifest(descriptor.digest)[0])

    def fetch(self, resolved: Resolved, layout: Layout) -> None:
        layout.put(resolved.document)  # first: it tells a collection what of an unfinished pull is worth keeping
        total = sum(blob.size for blob in resolved.manifest.blobs)
        if total > self._registries.image_bytes:
            raise ManifestError(f"the image has {total} bytes; at most {self._registries.image_bytes} are pulled (--image-bytes)")
        config, *layers = resolved.manifest.blobs
        self._blob(config, layout)
        check_image(resolved.manifest, parse_config(layout.read(config.digest, MAX_CONFIG)))
        for blob in layers:
            self._blob(blob, layout)

    def cut(self, reason: DownloadError) -> None:
        self._line.cut(reason)

    def close(self) -> None:
        self._session.close()
        self._line.close()

    @property
    def _wanted(self) -> str:
        return self._reference.digest or self._reference.tag or "latest"

    def _manifest(self, tag_or_digest: str) -> tuple[bytes, str | None]:
        """A manifest's raw bytes, and what the registry calls it."""
        response = self._request("GET", tag_or_digest)
        data = bytearray()
        with closing(self._session.chunks(response)) as pieces:
            for piece in pieces:
                data += piece
                if len(data) > MAX_MANIFEST:
                    raise ManifestError(f"manifest: more than {MAX_MANIFEST} bytes")
        # A tag promises no bytes, but the registry says what it holds under it: an altered manifest is something else.
        if (announced := _announced(response)) is not None:
            check_bytes(bytes(data), announced)
        media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        return bytes(data), media_type if media_type in ACCEPTED else None

    def _request(self, method: str, tag_or_digest: str) -> requests.Response:
        url = f"{self._destinations.scheme}://{self._container.manifest_url(tag_or_digest)}"
        registry = self._logged_in(url)
        with self._understood():
            response = registry.do_request(url, method, headers={"Accept": _ACCEPT}, stream=method == "GET")
        return self._checked(response, str(self._reference))

    def _blob(self, blob: Descriptor, layout: Layout) -> None:
        if layout.has(blob.digest):
            return
        self._line.check()
        registry = self._logged_in(f"{self._destinations.scheme}://{self._container.manifest_url(self._wanted)}")
        with self._understood():
            response = registry.get_blob(self._container, str(blob.digest), stream=True)
        self._checked(response, f"blob {blob.digest}")
        announced = response.headers.get("Content-Length")
        if announced is not None and announced != str(blob.size):
            response.close()
            raise VerificationError(f"{blob.digest}: the registry announces {announced[:20]!r} bytes, the manifest {blob.size}")
        with closing(self._session.chunks(response)) as pieces, layout.writer(blob.digest, blob.size) as writer:
            for piece in pieces:
                writer.write(piece)

    def _logged_in(self, url: str) -> _Registry:
        """The registry as oras has it, made at the first request: only then it is known which login it wants."""
        if self._registry is None:
            login = login_for(self._reference.registry, self._registries.config)
            with self._understood():
                first = self._session.head(url, headers={"Accept": _ACCEPT}, allow_redirects=True)
            challenge = first.headers.get("WWW-Authenticate", "") if first.status_code == 401 else ""
            basic = "basic" in challenge.lower() and "bearer" not in challenge.lower()
            if basic and login is None:
                raise self._denied("wants a login")
            registry = _Registry(
                hostname=self._host,
                insecure=self._destinations.scheme == "http",
                tls_verify=self._session.verify,
                auth_backend="basic" if basic else "token",
            )
            registry.session.close()
            registry.session = registry.auth.session = self._session
            if login is not None:
                registry.auth.set_basic_auth(login.user, login.password)
            self._registry = registry
        return self._registry

    def _checked(self, response: requests.Response, what: str) -> requests.Response:
        match response.status_code:
            case 200:
                return response
            case 401 | 403:
                raise self._denied("refused the login" if login_for(self._reference.registry, self._registries.config) else "wants a login")
            case 404:
                raise Missing(f"{what}: the registry {self._reference.registry} does not have it; push it, or correct spec.image")
            case _:
                raise failed(response, what)

    def _denied(self, did: str) -> Denied:
        return Denied(
            f"{self._reference}: the registry {self._reference.registry} {did}; "
            f"put one that it takes into {self._registries.config or 'a docker config file and name that with --registry-config'}"
        )

    @contextmanager
    def _understood(self) -> Iterator[None]:
        """Around oras: it takes for granted that a registry's challenge and token have every field, in the right type."""
        try:
            yield
        except (ValueError, AttributeError, TypeError, LookupError) as error:
            if isinstance(error, ValueError) and "authentication" in str(error):
                raise self._denied("gave no token") from error
            raise BadAnswer(f"the registry {self._reference.registry} cannot be understood: {str(error)[:200]!r}") from error


def _announced(response: requests.Response) -> Digest | None:
    """The digest that a registry gives to a manifest; the header is optional, and may speak of another algorithm."""
    try:
        return Digest(response.headers.get("Docker-Content-Digest", ""))
    except DigestError:
        return None
