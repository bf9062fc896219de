from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from nas_gan.errors import InvalidValueError
from nas_gan.training.config import TrainConfig
from nas_gan.training.preset import load_preset, preset_from_arguments


@dataclass(frozen=True)
class Settings:
    config: Path | None = None
    run_dir: Path = Path("runs")
    steps: int = 10
    rate: float = 0.5
    threads: int | None = None
    quick: bool = False
    loss: Literal["hinge", "mmd"] = "hinge"
    scores: tuple[Literal["fid", "kid"], ...] = ()


def write(tmp_path, text):
    path = tmp_path / "preset.toml"
    path.write_text(text)
    return path


def test_a_preset_changes_what_it_names_and_nothing_else(tmp_path):
    path = write(tmp_path, "run_dir = 'x'\nrate = 2\nthreads = 3\nquick = true\nloss = 'mmd'")
    found = load_preset(path, Settings)
    assert found == Settings(run_dir=Path("x"), rate=2.0, threads=3, quick=True, loss="mmd")
    assert isinstance(found.rate, float)


def test_a_list_in_a_preset_is_a_tuple(tmp_path):
    assert load_preset(write(tmp_path, "scores = ['kid', 'fid']"), Settings).scores == (
        *("kid", "fid"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step = 8", "key 'step' is not known; did you mean steps"),
        ("config = 'other.toml'", "key 'config' is not known"),
        ("steps = 2.5", "steps must be int; got 2.5"),
        ("steps = true", "steps must be int"),
        ("rate = 'fast'", "rate must be float"),
        ("run_dir = 3", "run_dir must be Path"),
        ("threads = 'all'", "threads must be int"),
        ("loss = 'hing'", "loss must be one of hinge, mmd; got 'hing'"),
        ("steps = [", "not a TOML file"),
        ("scores = 'fid'", "scores must be a list; got 'fid'"),
        ("scores = ['fid', 'kit']", "scores must be one of fid, kid; got 'kit'"),
    ],
)
def test_a_preset_that_cannot_be_is_refused_by_key(text, message, tmp_path):
    with pytest.raises(InvalidValueError, match=message):
        load_preset(write(tmp_path, text), Settings)


def test_a_table_is_settings_of_its_own_and_a_flat_name_works_as_before(tmp_path):
    text = """
        d_optimizer = "RMSprop"
        [loss]
        name = "soft_labels"
        real = [0.7, 1]
        fake = 0.1
        [g_optimizer]
        name = "SGD"
        lr = 0.1
        momentum = 0.5
        [d_scheduler]
        name = "MultiStepLR"
        milestones = [3, 5]
        """
    found = load_preset(write(tmp_path, text), TrainConfig)
    flat = TrainConfig(
        loss="soft_labels", g_optimizer="SGD", d_optimizer="RMSprop", g_lr=0.1,
        d_scheduler="MultiStepLR",
    )  # fmt: skip
    assert (found.loss, found.g_optimizer, found.d_optimizer) == (
        *(flat.loss, flat.g_optimizer, flat.d_optimizer),
    )
    assert (found.g_lr, found.d_scheduler) == (flat.g_lr, flat.d_scheduler)
    assert (found.loss_settings.real, found.loss_settings.fake) == ((0.7, 1.0), 0.1)
    assert (found.g_optimizer_settings.momentum, found.d_optimizer_settings.momentum) == (0.5, None)
    assert found.d_scheduler_settings.milestones == (3, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[loss]\nlowr = 1.0", r"preset\.toml: \[loss\]: key 'lowr' is not known; .* lower"),
        ("[loss]\nlower = 'a'", r"\[loss\]: lower must be float; got 'a'"),
        ("[loss]\nlower = true", r"\[loss\]: lower must be float; got True"),
        ("[loss]\nlower = nan", "lower: nan is not a finite number"),
        ("[loss]\nextra_epochs = 1.5", r"\[loss\]: extra_epochs must be int; got 1.5"),
        ("[loss]\nextra = 'l3'", r"\[loss\]: extra must be one of sq_l2_mean"),
        ("[loss]\nsigmas = 1.0", r"\[loss\]: sigmas must be a list; got 1.0"),
        ("[loss]\nname = 3", "loss must be str; got 3"),
        ("[g_optimizer]\nbetas = [0.5]", r"\[g_optimizer\]: betas must be a list of 2"),
        ("g_lr = 0.1\n[g_optimizer]\nlr = 0.2", "g_lr is given twice, once as g_optimizer.lr"),
        ("[steps]\nname = 3", "steps has one value, and is no table of settings; the tables are"),
        ("[los]\nname = 'rep'", "los is no table of settings"),
        ("loss_settings = 3", "key 'loss_settings' is not known"),
    ],
)
def test_a_table_that_cannot_be_is_refused_by_table_and_key(text, message, tmp_path):
    with pytest.raises(InvalidValueError, match=message):
        load_preset(write(tmp_path, text), TrainConfig)


def test_a_bare_name_is_a_packaged_preset():
    assert load_preset(Path("dcgan"), TrainConfig).model == "dcgan"
    with pytest.raises(InvalidValueError, match="preset 'smokee' is not known; did you mean smoke"):
        load_preset(Path("smokee"), TrainConfig)
    with pytest.raises(InvalidValueError, match="preset 'search_cifar' is not known") as caught:
        load_preset(Path("search_cifar"), TrainConfig)
    assert "search" not in str(caught.value).partition("choose")[2]  # those of another command


def test_a_choice_may_be_left_open(tmp_path):
    assert load_preset(write(tmp_path, "init = 'dcgan'"), TrainConfig).init == "dcgan"
    with pytest.raises(InvalidValueError, match="init must be one of normal, orth"):
        load_preset(write(tmp_path, "init = 'dcgann'"), TrainConfig)


def test_the_command_line_names_its_preset(tmp_path, monkeypatch):
    path = write(tmp_path, "steps = 8")
    monkeypatch.setattr(sys, "argv", ["x", "--rate", "1", "--config", str(path)])
    assert preset_from_arguments(Settings) == Settings(steps=8)
    monkeypatch.setattr(sys, "argv", ["x", "--rate", "1"])
    assert preset_from_arguments(Settings) == Settings()
    monkeypatch.setattr(sys, "argv", ["x", "--config", "none.toml"])
    with pytest.raises(InvalidValueError, match=r"none\.toml: no such preset"):
        preset_from_arguments(Settings)


def test_a_value_that_the_configuration_refuses_names_the_file(tmp_path):
    path = write(tmp_path, "steps = 0")
    with pytest.raises(InvalidValueError, match=r"preset\.toml: steps must be at least 1; got 0"):
        load_preset(path, TrainConfig)
