"""What `export` raises on bad input. Its command prints these as one line and exits with 1."""

from __future__ import annotations

from nas_gan.errors import NasGanError


class ExportError(NasGanError):
    """A generator cannot be exported, or the result does not draw the same images."""


class BundleError(ExportError, ValueError):
    """A folder is not a bundle, or its files differ from what its manifest lists."""


class MissingPackageError(ExportError, ImportError):
    """An optional package is needed but not installed."""


class MissingDenseError(ExportError, FileNotFoundError):
    """The generator that a run compressed cannot be found."""
