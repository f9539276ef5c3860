"""The command line and `mayfly up`, the supervisor of one node.

Everything here sits on top of the other packages: resources go through the store port, calls through the server's HTTP
interface, images through `bundles`. Nothing imports this package.
"""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("mayfly")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+source"
