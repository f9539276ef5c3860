"""Image resources to verified, unpacked, atomically published bundles; one downloader per node."""

from faas_downloader.app import Downloader, run
from faas_downloader.errors import DownloadError
from faas_downloader.settings import Settings

__all__ = ["DownloadError", "Downloader", "Settings", "run"]
