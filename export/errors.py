"""What `export` raises on bad input. Its command line prints these as one line and exits with 1."""

from __future__ import annotations

from nas_gan.errors import NasGanError


class ExportError(NasGanError):
    """A generator cannot be exported, or what came out is not what went in."""


class BundleError(ExportError, ValueError):
    """A folder is not a bundle, or its files are not those that its manifest lists."""


class MissingPackageError(ExportError, ImportError):
    """An optional package is asked for and not installed."""
