"""Named efforts: how much a run measures and trains, as the defaults of its other options."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import Any, TypeVar

from ard.session.config import EffortName, SweepConfig
from nas_gan.errors import unknown_name

Config = TypeVar("Config", bound=SweepConfig)
DEFAULT: EffortName = "default"
# What differs from the defaults of the options. A quick run takes 1.5 images per feature of
# Inception, so its intervals are wide. Single layers are scored alike by the other two, so a run
# that is resumed with more effort keeps those scores.
EFFORTS: Mapping[EffortName, Mapping[str, Any]] = MappingProxyType(
    {
        "quick": {
            "samples": 3072,
            "sweep_samples": 400,
            "fractions": (0.5, 0.3, 0.18, 0.1, 0.06),
            "anchors": 10,
            "recover_steps": 50,
            "recover_batch": 16,
            "max_trials": 4,
        },
        "default": {},
        "thorough": {
            "fractions": (0.7, 0.5, 0.35, 0.25, 0.17, 0.12, 0.08, 0.05, 0.03),
            "anchors": 48,
            "recover_steps": 2000,
            "stage_ratio": 2.5,
            "max_trials": 15,
        },
    }
)


def effort_settings(config_type: type[SweepConfig], effort: EffortName) -> dict[str, Any]:
    """The settings of an effort that a configuration has; a sweep recovers nothing.

    Raises:
        InvalidValueError: there is no such effort; the message suggests the closest name.
    """
    if effort not in EFFORTS:
        raise unknown_name("effort", effort, EFFORTS)
    names = {field.name for field in fields(config_type)}
    chosen = {name: value for name, value in EFFORTS[effort].items() if name in names}
    return {**chosen, "effort": effort}


def effort_defaults(config_type: type[Config], arguments: Sequence[str]) -> Config:
    """The defaults of all other options, by the effort that a command line names.

    Args:
        config_type: the configuration of the command.
        arguments: the command line without the program.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--effort", default=DEFAULT)
    try:
        effort = parser.parse_known_args(list(arguments))[0].effort
    except argparse.ArgumentError:  # without a value; the command itself says so
        effort = DEFAULT
    return config_type(**effort_settings(config_type, effort if effort in EFFORTS else DEFAULT))
