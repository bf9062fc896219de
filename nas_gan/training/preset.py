"""Presets: TOML files with the settings of a command, read into its configuration."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from nas_gan.errors import InvalidValueError, unknown_name
from nas_gan.reading import read_toml

Config = TypeVar("Config")
PRESETS = Path(__file__).parents[1] / "presets"


def load_preset(path: Path, config_type: type[Config]) -> Config:
    """Read a TOML preset.

    Args:
        path: a file, or the bare name of a packaged preset.
        config_type: a dataclass whose fields all have defaults. Its field `config`, if it has one,
            names a preset and cannot be set by one.

    Raises:
        InvalidValueError: there is no such preset, or it has an unknown key or a wrong value.
    """
    path = find_preset(path, config_type)
    return settings_from(read_toml(path), config_type, str(path))


def settings_from(data: Mapping[str, Any], config_type: type[Config], where: str) -> Config:
    """Plain values as a configuration; errors begin with `where` the values are from."""
    known = _settings(config_type)
    for key in sorted(set(data) - set(known)):
        raise InvalidValueError(f"{where}: {unknown_name('key', key, known)}")
    types = get_type_hints(config_type)
    values = {k: _typed(f"{where}: {k}", v, types[k]) for k, v in data.items()}
    try:
        return config_type(**values)
    except InvalidValueError as error:
        raise InvalidValueError(f"{where}: {error}") from error


def _settings(config_type: type[Any]) -> list[str]:
    assert is_dataclass(config_type)
    return sorted({f.name for f in fields(config_type)} - {"config"})


def find_preset(path: Path, config_type: type[Any]) -> Path:
    """The file of a preset, which is given by its path or by the name of a packaged one.

    Packaged presets with settings that `config_type` does not have belong to another command.

    Raises:
        InvalidValueError: there is none; where a name was given the nearest one is offered.
    """
    if path.is_file():
        return path
    if path.suffix or len(path.parts) > 1:
        raise InvalidValueError(f"{path}: no such preset; see nas_gan/presets")
    packaged = PRESETS / f"{path}.toml"
    if packaged.is_file():
        return packaged
    settings = set(_settings(config_type))
    known = [
        file.stem for file in sorted(PRESETS.glob("*.toml")) if set(read_toml(file)) <= settings
    ]
    raise unknown_name("preset", str(path), known)


def preset_from_arguments(config_type: type[Config]) -> Config:
    """The preset that the command line names by `--config`: the defaults of all other options."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    preset = parser.parse_known_args()[0].config
    return load_preset(preset, config_type) if preset else config_type()


def _typed(where: str, value: Any, expected: Any) -> Any:
    """A TOML value in the type of its field; a path is written as a text."""
    choices = get_args(expected)
    if get_origin(expected) is tuple:  # of any length, written as a list
        if not isinstance(value, list):
            raise InvalidValueError(f"{where} must be a list; got {value!r}")
        return tuple(_typed(where, item, choices[0]) for item in value)
    if NoneType in choices:  # X | None: TOML can only write X
        (expected,) = (choice for choice in choices if choice is not NoneType)
        choices = get_args(expected)
    if get_origin(expected) is Literal:
        if value not in choices:
            raise InvalidValueError(
                f"{where} must be one of {', '.join(map(str, choices))}; got {value!r}"
            )
        return value
    written = {Path: (str,), float: (float, int)}.get(expected, (expected,))
    if type(value) not in written:
        raise InvalidValueError(f"{where} must be {expected.__name__}; got {value!r}")
    if expected is Path and "\0" in value:
        raise InvalidValueError(f"{where} must be a path; got {value!r}")
    return expected(value)
