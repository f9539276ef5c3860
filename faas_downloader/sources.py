"""From a reference and the settings to where the image comes from."""

from __future__ import annotations

from bundles.references import Reference
from faas_downloader.connecting import Pace
from faas_downloader.copying import LocalSource
from faas_downloader.pulling import Registries, RegistrySource
from faas_downloader.resolving import Source
from faas_downloader.settings import Settings


def registries_of(settings: Settings) -> Registries:
    """What the settings say about registries. Logins and limits of one node are the same for all of its pulls."""
    pace = Pace(settings.connect_timeout, settings.stall_timeout, settings.pull_timeout, settings.minimum_speed)
    return Registries(
        settings.registry_config, settings.trusted_hosts, settings.insecure_registries, settings.registry_ca, pace, settings.image_bytes
    )


def source_of(reference: Reference, registries: Registries) -> Source:
    """Whoever takes it closes it."""
    return LocalSource(reference) if reference.kind == "local" else RegistrySource(reference, registries)
