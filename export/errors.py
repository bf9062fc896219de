"""The errors that `export` raises on bad input; its command prints one line and exits with 1."""

from __future__ import annotations

from nas_gan.errors import NasGanError


class ExportError(NasGanError):
    """A generator cannot be exported, or its graph does not draw the same images."""


class BundleError(ExportError, ValueError):
    """A folder is not a bundle, or its files differ from those that its manifest lists."""


class MissingPackageError(ExportError, ImportError):
    """A package that is needed is not installed."""


class MissingDenseError(ExportError, FileNotFoundError):
    """The dense generator that a run compressed cannot be found."""
