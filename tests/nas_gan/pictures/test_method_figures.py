from pathlib import Path

import pytest
from torch import nn

from nas_gan.errors import InvalidValueError
from nas_gan.networks.activations import PMish
from nas_gan.pictures.method_figures import FIGURES, FigureSettings


def test_betas_need_a_generator_with_learned_activations(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="checkpoint must be given for betas"):
        FIGURES["betas"](FigureSettings(tmp_path))
    with pytest.raises(InvalidValueError, match=r"x\.pt: no activation has parameters"):
        FIGURES["betas"](FigureSettings(tmp_path, generator=nn.ReLU(), generator_name="x.pt"))
    assert list(tmp_path.iterdir()) == []
    assert FIGURES["betas"](FigureSettings(tmp_path, generator=nn.Sequential(PMish()))) == [
        tmp_path / "betas.png"
    ]


def test_a_figure_writes_the_files_that_it_returns(tmp_path: Path) -> None:
    paths = FIGURES["losses"](FigureSettings(tmp_path, steps=1))
    assert {path.name for path in paths} == {"losses.gif", "losses.png"}
    assert set(tmp_path.iterdir()) == set(paths)
