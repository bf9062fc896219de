"""Presets: TOML files with the settings of a command, read into its configuration."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from nas_gan.errors import InvalidValueError, unknown_name
from nas_gan.reading import read_toml
from nas_gan.settings import settings_field, tables_of

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
    known, tables = _settings(config_type), tables_of(config_type)
    types = get_type_hints(config_type)
    values: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for key, value in sorted(dotted(data, config_type, where).items()):
        table, dot, name = key.partition(".")
        if not dot:
            if key not in known:
                raise InvalidValueError(f"{where}: {unknown_name('key', key, known)}")
            values[key] = _typed(f"{where}: {key}", value, types[key])
        elif table not in tables:
            what = "has one value, and is" if table in known else "is"
            raise InvalidValueError(
                f"{where}: {table} {what} no table of settings"
                + (f"; the tables are {', '.join(tables)}" if tables else "")
            )
        else:
            kinds = get_type_hints(tables[table])
            if name not in kinds:
                raise InvalidValueError(f"{where}: [{table}]: {unknown_name('key', name, kinds)}")
            typed = _typed(f"{where}: [{table}]: {name}", value, kinds[name])
            inner.setdefault(table, {})[name] = typed
    try:
        return config_type(
            **values, **{settings_field(name): tables[name](**inner[name]) for name in inner}
        )
    except InvalidValueError as error:
        raise InvalidValueError(f"{where}: {error}") from error


def dotted(data: Mapping[str, Any], config_type: type[Any], where: str) -> dict[str, Any]:
    """The values of a preset by flat names: `lower` in the table `[loss]` is `loss.lower`.

    A key of a table that is a setting of its own, as `name` in `[loss]` is `loss`, has that name.

    Raises:
        InvalidValueError: a setting is given in both ways.
    """
    aliases: Mapping[str, str] = getattr(config_type, "ALIASES", {})
    found: dict[str, Any] = {}
    for key, value in data.items():
        items = {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else None
        for written, item in ({key: value} if items is None else items).items():
            name = aliases.get(written, written)  # also of a name with a dot, in quotes
            if name in found:
                raise InvalidValueError(f"{where}: {name} is given twice, once as {written}")
            found[name] = item
    return found


def _settings(config_type: type[Any]) -> list[str]:
    assert is_dataclass(config_type)
    tables = {settings_field(name) for name in tables_of(config_type)}
    return sorted({f.name for f in fields(config_type)} - {"config"} - tables)


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
    if get_origin(expected) in (Union, UnionType):  # X | None: TOML can only write X
        one, *others = (choice for choice in get_args(expected) if choice is not NoneType)
        for choice in others:  # a number or a list of numbers
            if isinstance(value, list) == (get_origin(choice) is tuple):
                one = choice
        expected = one
    choices = get_args(expected)
    if get_origin(expected) is tuple:
        if not isinstance(value, list):
            raise InvalidValueError(f"{where} must be a list; got {value!r}")
        if choices[-1] is not Ellipsis and len(value) != len(choices):
            raise InvalidValueError(f"{where} must be a list of {len(choices)}; got {value!r}")
        return tuple(_typed(where, item, choices[0]) for item in value)
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
