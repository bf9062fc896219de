from dataclasses import replace
from pathlib import Path

import pytest

from nas_gan.errors import InvalidValueError
from nas_gan.runs.experiments import to_toml
from nas_gan.runs.grid import GRIDS, find_grid, plan_runs, read_grid
from nas_gan.training.build import load_images
from nas_gan.training.config import TrainConfig
from nas_gan.training.preset import load_preset, settings_from
from nas_gan.training.run import train

# Runs of each grid without its seeds, by hand: pairs of slots that differ from the preset in one
# network or in both alike, bounds of every row of a table, or everything by everything.
COMBINATIONS = {
    "activations_cifar10": 5,
    "kick_start_cifar10": 7,
    "losses_mmd_gan_celeba": 4 * 16 * 6,
    "losses_mmd_gan_cifar": 4 * 16 * 6,
    "losses_mmd_gan_lsun": 4 * 16 * 6,
    "losses_mmd_gan_stl": 4 * 16 * 6,
    "outputs_mmd_gan_cifar": 5 + 1,
    "slots_celeba_dcgan": 1 + 3 * 3,
    "slots_mnist_condgan": 1 + 3 * 3 + 3 * 3,
    "slots_mnist_condgan_lr001": 1 + 3,
    "upper_bounds_cifar10": 11 + 8 + 5 + 3,
    "upper_bounds_stl10": 6 + 5 + 5 + 3,
}
# What makes any of their runs a matter of a second.
TINY = {
    "dataset": "synthetic", "gf_dim": 4, "df_dim": 4, "batch_size": 4, "steps": 2,
    "eval_every": 0, "sample_every": 0, "save_every": 2, "log_every": 1,
}  # fmt: skip


def test_every_packaged_grid_is_counted_here():
    assert {path.stem for path in GRIDS.glob("*.toml")} == COMBINATIONS.keys()


@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_published_ablation_has_its_runs_and_one_of_them_trains(name, tmp_path):
    grid = read_grid(Path(name))
    assert len(grid.combinations()) == COMBINATIONS[name]
    first = plan_runs(replace(grid, seeds=grid.seeds[:1]), tmp_path / "runs")[-1]
    small = {**first.settings, **TINY}
    if str(small["upper_bound"]).startswith("saturate"):
        small |= {"upper_bound": "fixed"}  # it follows an FID, which takes minutes
    config = settings_from(small, TrainConfig, name)
    config = replace(config, run_dir=tmp_path / "run")
    result = train(config, load_images(config))
    assert (result.status, result.step) == ("finished", 2)


def test_cases_are_changed_together_and_tables_count_as_settings(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(
        """
        presets = ["smoke"]
        seeds = [1]
        [settings.g_optimizer]
        betas = [0.5, 0.9]
        [variants]
        loss.lower = ["default", 0.5]
        [[cases]]
        upper_bound = "fixed"
        upper_bound_start = 2.0
        [[cases]]
        loss.name = "rmb"
        """
    )
    grid = read_grid(path)
    assert grid.combinations() == [
        {"upper_bound": "fixed", "upper_bound_start": 2.0},
        {"loss.lower": 0.5, "upper_bound": "fixed", "upper_bound_start": 2.0},
        {"loss": "rmb"},
        {"loss.lower": 0.5, "loss": "rmb"},
    ]
    last = plan_runs(grid, tmp_path / "runs")[-1]
    # What a run of the grid reads again is what was planned.
    (tmp_path / "settings.toml").write_text(to_toml(last.settings))
    config = load_preset(tmp_path / "settings.toml", TrainConfig)
    assert (config.loss, config.loss_settings.lower) == ("rmb", 0.5)
    assert config.g_optimizer_settings.betas == (0.5, 0.9)
    assert config.d_optimizer_settings.betas is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[cases]]\nloss.lowr = 1.0", r"\[loss\]: key 'lowr' is not known; did you mean lower"),
        ("[[cases]]\nloss = 'hinge'\n'loss.lower' = 1.0", "loss.lower is not taken by the loss"),
        ("cases = 3", "cases must be a list of tables"),
        ("[variants]\nloss = ['rep']\n[[cases]]\nloss = 'rmb'", "loss is in case 1 and in"),
    ],
)
def test_a_case_that_cannot_be_is_refused(text, message, tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(f"presets = ['smoke']\nseeds = [1]\n{text}")
    with pytest.raises(InvalidValueError, match=message):
        plan_runs(read_grid(path), tmp_path / "runs")


def test_a_grid_that_is_not_there_names_the_packaged_ones():
    with pytest.raises(InvalidValueError, match="name one of activations_cifar10, "):
        find_grid(Path("activation"))
