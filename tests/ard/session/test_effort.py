"""An effort is a set of defaults, which the command line and a resumed run may go beyond."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from ard.compress import CompressConfig
from ard.grid import FRACTIONS
from ard.session.config import EffortName, SearchConfig, SweepConfig, check
from ard.session.effort import EFFORTS, effort_defaults
from ard.session.record import effort_raised


@pytest.mark.parametrize("effort", get_args(EffortName))
@pytest.mark.parametrize("config_type", [SweepConfig, SearchConfig, CompressConfig])
def test_every_effort_is_a_valid_configuration_of_every_command(
    effort: str, config_type: type[SweepConfig]
) -> None:
    config = effort_defaults(config_type, ["x.pt", "--effort", effort])
    check(config)
    assert config.effort == effort
    for name, value in EFFORTS[config.effort].items():
        assert not hasattr(config, name) or getattr(config, name) == value


@pytest.mark.parametrize("arguments", [[], ["--effort", "default"], ["--effort"], ["--effort=x"]])
def test_without_an_effort_nothing_changes(arguments: list[str]) -> None:
    assert effort_defaults(CompressConfig, arguments) == CompressConfig()


def test_efforts_grow() -> None:
    quick, default, thorough = (
        effort_defaults(CompressConfig, [f"--effort={effort}"]) for effort in get_args(EffortName)
    )
    for name in ("sweep_samples", "anchors", "recover_steps", "max_trials"):
        least, middle, most = (getattr(config, name) for config in (quick, default, thorough))
        assert least <= middle <= most, name
    # What the default scored of single layers, a thorough run finds again.
    assert default.sweep_samples == thorough.sweep_samples
    assert set(FRACTIONS) <= set(thorough.fractions)


@pytest.mark.parametrize(
    ("before", "after", "raised"),
    [
        ("quick", "default", True),
        ("default", "thorough", True),
        ("default", "default", False),
        ("thorough", "quick", False),
        ("unheard of", "thorough", False),
        (None, "thorough", False),
    ],
)
def test_an_effort_is_raised_over_that_of_the_directory(
    tmp_path: Path, before: str | None, after: EffortName, raised: bool
) -> None:
    config = effort_defaults(CompressConfig, ["--effort", after])
    assert not effort_raised(config, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"effort": before} if before else {}))
    assert effort_raised(config, tmp_path) == raised
