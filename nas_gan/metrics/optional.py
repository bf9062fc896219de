"""Packages that only some metrics need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from nas_gan.errors import MissingDataError


def import_for(metric: str, module: str) -> Any:
    """Import a module by its dotted name, for the metric that needs it.

    Raises:
        MissingDataError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDataError(
            f"{metric} needs {module.partition('.')[0]} ({error}); "
            'run: pip install "ard-gan[metrics]"'
        ) from error
