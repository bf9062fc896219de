"""The settings of a command: checking them, writing them as JSON, comparing runs by them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from nas_gan.errors import InvalidValueError
from nas_gan.remote.addresses import address_of

# A field of a configuration that is a dataclass and ends in this is a table of settings.
_TABLE = "_settings"


def tables_of(config_type: type[Any]) -> dict[str, type[Any]]:
    """The tables of settings in a configuration: their names, and the dataclasses they are.

    The table `loss` is the field `loss_settings`, `[loss]` in a preset and `--loss.KEY` on a
    command line.
    """
    hints = get_type_hints(config_type)
    return {
        field.name.removesuffix(_TABLE): hints[field.name]
        for field in fields(config_type)
        if field.name.endswith(_TABLE) and is_dataclass(hints[field.name])
    }


def settings_field(table: str) -> str:
    """The field of a configuration that holds a table of settings."""
    return f"{table}{_TABLE}"


def check_finite(table: str, values: Mapping[str, Any]) -> None:
    """Raise InvalidValueError if a number in a table of settings is NaN or infinite."""
    for key, value in values.items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise InvalidValueError(f"must be finite; got {number}", setting=f"{table}.{key}")


def plain_settings(config: Any) -> dict[str, Any]:
    """Every field of a configuration, a dataclass, as JSON has it: a path becomes its text."""
    return {k: address_of(v) if isinstance(v, Path) else v for k, v in asdict(config).items()}


def chosen_settings(config: Any, names: Iterable[str]) -> dict[str, Any]:
    """The fields called `names`, as JSON has them and in that order.

    Those that decide what a run computes are its fingerprint: with another value it is another run.
    """
    plain = plain_settings(config)
    return {name: plain[name] for name in names}


def settings_but(config: Any, free: Collection[str]) -> list[str]:
    """The names of all fields but the `free` ones, which two parts of one run may differ in."""
    return [field.name for field in fields(config) if field.name not in free]


def as_text(settings: Mapping[str, Any]) -> dict[str, str]:
    """Every value as Python writes it, so that any two can be compared."""
    return {name: str(value) for name, value in settings.items()}


def check_at_least(name: str, value: float | None, least: float) -> None:
    """Raise InvalidValueError if the setting `name` is below `least`; None is not given."""
    if value is not None and not value >= least:
        raise InvalidValueError(f"must be at least {least:g}; got {value}", setting=name)


def check_above(name: str, value: float | None, bound: float) -> None:
    """Raise InvalidValueError unless the setting `name` is above `bound`; None is not given."""
    if value is not None and not value > bound:
        raise InvalidValueError(f"must be above {bound:g}; got {value}", setting=name)


def check_fraction(name: str, value: float) -> None:
    """Raise InvalidValueError unless the setting `name` is in [0, 1)."""
    if not 0 <= value < 1:
        raise InvalidValueError(f"must be in [0, 1); got {value}", setting=name)
