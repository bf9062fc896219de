"""The options of a command, read off its configuration: their help, their panels, their parser."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable
from dataclasses import MISSING, Field, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import tyro

from nas_gan.errors import InvalidValueError
from nas_gan.panels import Address, Panel
from nas_gan.remote.addresses import address_of, is_remote
from nas_gan.settings import settings_field, tables_of


def option_name(setting: str) -> str:
    """How the option of a setting is spelled on the command line."""
    return f"--{setting.replace('_', '-')}"


def panel_of(config_type: type[Any]) -> dict[str, Panel | None]:
    """The panel of every field of a configuration; None is the first one."""
    hints = get_type_hints(config_type, include_extras=True)
    found = {}
    for option in fields(config_type):
        panels = [extra for extra in _extras(hints[option.name]) if isinstance(extra, Panel)]
        found[option.name] = panels[-1] if panels else None
    return found


def help_of(config_type: type[Any]) -> dict[str, str]:
    """The help of every field that has one, on one line: the string below it in the source."""
    found: dict[str, str] = {}
    for parent in reversed(config_type.__mro__):
        if "__dataclass_fields__" in vars(parent):
            found |= _strings_below(parent)
    return found


def _strings_below(cls: type[Any]) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except OSError:  # made at a prompt
        return {}
    [node] = ast.parse(source).body
    assert isinstance(node, ast.ClassDef)
    found = {}
    for statement, below in zip(node.body, node.body[1:], strict=False):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[statement.target.id] = " ".join(str(below.value.value).split())
    return found


def nested_type(config_type: type[Any], default: Any = None) -> type[Any]:
    """A configuration as tyro wants it: the first panel's fields, and a dataclass per panel.

    Options are named as if it were flat, but those of a table of settings are `--TABLE.KEY`.
    `default` is a configuration whose values are the defaults, if it is not None.
    """
    hints = get_type_hints(config_type, include_extras=True)
    texts, panels = help_of(config_type), panel_of(config_type)
    tables = {settings_field(name): name for name in tables_of(config_type)}

    def members(panel: Panel | None) -> list[tuple[str, Any, Any]]:
        return [
            (
                option.name,
                Annotated[
                    hints[option.name],
                    tyro.conf.arg(
                        help=texts.get(option.name),
                        prefix_name=None if panel is None else False,
                    ),
                ],
                _default(option, default),
            )
            for option in fields(config_type)
            if panels[option.name] == panel and option.name not in tables
        ]

    nested = [
        (
            _attribute(panel),
            Annotated[_dataclass(panel.title, members(panel), ""), tyro.conf.arg(name=panel.title)],
            field(),
        )
        for panel in dict.fromkeys(filter(None, panels.values()))
    ]
    inner = [
        (
            option.name,
            Annotated[hints[option.name], tyro.conf.arg(name=tables[option.name])],
            _default(option, default),
        )
        for option in fields(config_type)
        if option.name in tables
    ]
    return _dataclass(config_type.__name__, [*members(None), *nested, *inner], config_type.__doc__)


def flattened(config_type: type[Any], nested: Any) -> dict[str, Any]:
    """The values of a `nested_type` by the names of the flat configuration."""
    values = {}
    tables = {settings_field(name) for name in tables_of(config_type)}
    for name, panel in panel_of(config_type).items():
        holder = nested if panel is None or name in tables else getattr(nested, _attribute(panel))
        values[name] = getattr(holder, name)
    return values


def check_addresses(config: Any) -> None:
    """Raise InvalidValueError if an option that takes a path on this machine got an address."""
    hints = get_type_hints(type(config), include_extras=True)
    for option in fields(config):
        value = getattr(config, option.name)
        if not isinstance(value, Path) or not is_remote(value):
            continue
        if not any(isinstance(extra, Address) for extra in _extras(hints[option.name])):
            raise InvalidValueError(
                f"is {address_of(value)}; it takes a path on this machine", setting=option.name
            )


def _attribute(panel: Panel) -> str:
    return "_" + panel.title.replace(" ", "_")


def _dataclass(name: str, members: Iterable[tuple[str, Any, Any]], doc: str | None) -> type[Any]:
    made = make_dataclass(name, members, frozen=True, kw_only=True)
    made.__doc__ = doc
    return made


def _default(option: Field[Any], config: Any) -> Any:
    if config is not None:
        return field(default_factory=lambda: getattr(config, option.name))
    if option.default_factory is not MISSING:
        return field(default_factory=option.default_factory)
    return field() if option.default is MISSING else field(default=option.default)


def _extras(hint: Any) -> tuple[Any, ...]:
    return get_args(hint)[1:] if hasattr(hint, "__metadata__") else ()
