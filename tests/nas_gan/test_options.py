from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro

from nas_gan.cli import run
from nas_gan.errors import InvalidValueError
from nas_gan.options import help_of, panel_of
from nas_gan.panels import DATA, Panel

RATES = Panel("learning rate")


@dataclass(frozen=True)
class Shared:
    """What two commands have."""

    seed: int = 3
    """Seed of all
    random numbers."""
    flip: Annotated[bool, DATA] = False
    """Mirror half of the images."""


@dataclass(frozen=True)
class Config(Shared):
    source: Annotated[Path, tyro.conf.Positional] = tyro.MISSING
    """A file."""
    g_lr: Annotated[float, RATES] = 0.1
    """Rate of the generator."""
    fit: Annotated[Literal["crop", "stretch"], DATA] = "crop"
    names: Annotated[list[str], DATA] = field(default_factory=lambda: ["a"])

    def __post_init__(self) -> None:
        if self.g_lr <= 0:
            raise InvalidValueError(f"must be above 0; got {self.g_lr}", setting="g_lr")


def call(main, *args, **options):
    return run(main, Config, prog="prog", description="Does a thing.", args=args, **options)


def test_help_is_the_string_below_a_field_also_of_an_inherited_one():
    assert help_of(Config) == {
        "seed": "Seed of all random numbers.",
        "flip": "Mirror half of the images.",
        "source": "A file.",
        "g_lr": "Rate of the generator.",
    }


def test_panels_are_those_of_the_annotations():
    assert panel_of(Config) == {
        "seed": None, "source": None, "flip": DATA, "g_lr": RATES, "fit": DATA, "names": DATA,
    }  # fmt: skip


def test_options_in_panels_have_flat_names_and_arrive_in_a_flat_configuration():
    seen: list[Config] = []
    assert call(seen.append, "x") == 0
    assert call(seen.append, "x", "--g-lr", "2", "--flip", "--names", "b", "c", "--seed", "1") == 0
    assert seen == [
        Config(source=Path("x")),
        Config(source=Path("x"), g_lr=2.0, flip=True, names=["b", "c"], seed=1),
    ]


def test_a_default_configuration_fills_every_panel():
    default = Config(source=Path("y"), seed=7, g_lr=0.5, fit="stretch", names=["q"])
    seen: list[Config] = []
    assert call(seen.append, "--seed", "8", default=lambda: default) == 0
    assert seen == [Config(source=Path("y"), seed=8, g_lr=0.5, fit="stretch", names=["q"])]


def test_help_shows_every_option_in_its_panel(capsys):
    assert call(lambda config: 0, "--help") == 0
    shown: dict[str, list[str]] = {}
    for line in capsys.readouterr().out.splitlines():
        # With or without a frame, which depends on the encoding of the terminal.
        if title := re.match(r"\W*((?:[a-z ]+ )?options)\b", line):
            shown[title[1]] = []
        if option := re.match(r"[^\w-]*--([a-z][a-z-]*)", line):
            shown[[*shown][-1]].append(option[1])
    assert shown == {
        "options": ["seed"],
        "data options": ["flip", "fit", "names"],
        "learning rate options": ["g-lr"],
    }


@pytest.mark.parametrize("args", [["x", "--fit", "q"], ["x", "--data.fit", "crop"], []])
def test_a_wrong_option_is_usage(args, capsys):
    assert call(lambda config: 0, *args) == 2
    assert capsys.readouterr().err


def test_a_value_that_the_configuration_refuses_is_one_line_with_its_option_and_usage(capsys):
    assert call(lambda config: 0, "x", "--g-lr", "0") == 2
    assert capsys.readouterr().err == "error: --g-lr must be above 0; got 0.0\n"
