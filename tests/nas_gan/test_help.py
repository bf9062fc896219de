"""Every option says what it does, and the long lists of them are in panels by topic."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import fields
from importlib import import_module
from typing import Any

import pytest

from nas_gan.options import help_of, panel_of

CONFIGS = {
    "nas_gan.train": "TrainConfig",
    "nas_gan.search": "SearchConfig",
    "nas_gan.sample": "SampleConfig",
    "nas_gan.evaluate": "EvaluateConfig",
    "nas_gan.figures": "FiguresConfig",
    "nas_gan.experiments": "ExperimentsConfig",
    "nas_gan.dashboard": "DashboardConfig",
    "ard.compress": "CompressConfig",
    "ard.sweep": "SweepConfig",
    "ard.pareto": "ParetoConfig",
    "ard.select": "SelectConfig",
    "ard.latency": "LatencyConfig",
    "export.__main__": "Config",
}
# What most people need at once.
FIRST_PANEL = 10


def config_of(module: str) -> type[Any]:
    config_type = getattr(import_module(module), CONFIGS[module])
    assert isinstance(config_type, type)
    return config_type


@pytest.mark.parametrize("module", CONFIGS)
def test_every_option_has_a_sentence(module: str) -> None:
    config_type = config_of(module)
    texts = help_of(config_type)
    assert {option.name for option in fields(config_type)} - texts.keys() == set()
    wrong = {name: text for name, text in texts.items() if not re.fullmatch(r"[A-Z0].*\.", text)}
    assert wrong == {}


@pytest.mark.parametrize("module", CONFIGS)
def test_the_first_panel_holds_what_fits_on_half_a_screen(module: str) -> None:
    sizes = Counter(panel_of(config_of(module)).values())
    assert 0 < sizes[None] <= FIRST_PANEL
    titles = [panel.title for panel in sizes if panel is not None]
    assert len(titles) == len(set(titles))


def test_the_options_of_training_are_in_panels_of_at_most_fifteen() -> None:
    sizes = Counter(panel_of(config_of("nas_gan.train")).values())
    assert sum(sizes.values()) == 97
    assert max(sizes.values()) <= 15
