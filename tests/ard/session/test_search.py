from __future__ import annotations

import copy
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tiny import PixelFeatures, checkpoint_of, lively_generator

from ard.compress import CompressConfig
from ard.costs.cost import LatencyCost, MixedCost, macs_cost, params_cost
from ard.costs.latency_table import LatencyTable
from ard.errors import ArdError, JournalError
from ard.layers import profile_layers
from ard.measuring.bank import Reference
from ard.measuring.fid import FID, WORTH, Worth
from ard.measuring.journal import FileJournal
from ard.measuring.kernel import KID
from ard.pareto import ParetoConfig
from ard.recovery.adversarial import FineTuning
from ard.search.budget import Budget
from ard.session.config import SEEDS, SearchConfig, SweepConfig, check, grid_of
from ard.session.record import fingerprint, open_journal, run_directory
from ard.session.recovering import (
    FEATURE_WEIGHT,
    discriminator_of,
    feature_weight,
    fine_tuning_steps,
    loss_of,
    real_images,
)
from ard.session.search import (
    held_out_bank,
    layer_cost,
    profile_of,
    proxy_evaluator,
    remarks,
    statistics_latents,
)
from ard.session.setting import Setting, fitting_batch, unrecovered_images
from nas_gan.checkpoint import Checkpoint
from nas_gan.data.images import Images
from nas_gan.errors import InvalidValueError, MissingDataError
from nas_gan.generators import GeneratorOptions, open_generator
from nas_gan.metrics.frechet import FrechetReference, statistics_of
from nas_gan.metrics.sampling import extract_features
from nas_gan.networks import memory
from nas_gan.networks.interface import Calling, interface_of
from nas_gan.networks.latents import latent_bank, latents_of
from nas_gan.networks.memory import activations_of
from nas_gan.networks.models import build_model

ROOT = Path(__file__).parents[3]
GOOD = SearchConfig(checkpoint=Path("ckpt.pt"))


@pytest.fixture(scope="module")
def setting() -> Setting:
    generator, features = lively_generator(), PixelFeatures()
    found = extract_features(generator, latent_bank(20, generator.latent_dim, 9), features)
    reference = Reference("a table", FrechetReference(statistics_of(found)), dense=False)
    return Setting(
        checkpoint_of(generator), generator, interface_of(generator), features, FID, reference, 64
    )


# -- memory


@pytest.mark.parametrize(("images", "batch"), [(1000, 64), (40, 32), (0.5, 1)])
def test_images_are_drawn_in_batches_that_fit_into_the_memory(images, batch, monkeypatch):
    opened = open_generator(Path("zoo:fashion_mnist"), GeneratorOptions())
    row = activations_of(opened.generator, latents_of(opened.interface, 2, 0)).alive
    # A quarter of the memory is for activations.
    monkeypatch.setattr(memory, "available_bytes", lambda: int(4 * images * row))
    config = SearchConfig(checkpoint=Path("zoo:fashion_mnist"), batch_size=64)
    assert fitting_batch(opened, config) == batch


# -- settings


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "samples": ({"samples": 1}, "samples must be at least 2; got 1"),
    "sweep samples": ({"sweep_samples": 1}, "sweep_samples must be at least 2"),
    "batch": ({"batch_size": 0}, "batch_size must be at least 1"),
    "threads": ({"threads": 0}, "threads must be at least 1"),
    "latency batch": ({"latency_batch": 0}, "latency_batch must be at least 1"),
    "recover batch": ({"recover_batch": 0}, "recover_batch must be at least 1"),
    "trials": ({"max_trials": 0}, "max_trials must be at least 1"),
    "rounds": ({"max_rounds": 0}, "max_rounds must be at least 1"),
    "recover steps": ({"recover_steps": -1}, "recover_steps must be at least 0"),
    "polish steps": ({"polish_steps": -1}, "polish_steps must be at least 0"),
    "anchors": ({"anchors": -1}, "anchors must be at least 0"),
    "seed": ({"seed": -1}, "seed must be at least 0"),
    "rate": ({"recover_lr": 0.0}, "recover_lr must be above 0"),
    "infinite rate": ({"recover_lr": float("inf")}, "recover_lr must be above 0"),
    "ratio": ({"stage_ratio": 1.0}, "stage_ratio must be above 1; got 1.0"),
    "nan ratio": ({"stage_ratio": float("nan")}, "stage_ratio must be above 1"),
    "weight": ({"feature_weight": -0.1}, "feature_weight must be at least 0"),
    "no fraction": ({"fractions": ()}, "fractions must lie between 0 and 1"),
    "whole": ({"fractions": (0.5, 1.0)}, "fractions must lie between 0 and 1"),
    "nan fraction": ({"fractions": (float("nan"),)}, "fractions must lie between 0 and 1"),
    "methods": ({"methods": ()}, "methods needs at least one of tucker2"),
    "precision": ({"precision": "fp61"}, "did you mean fp16"),
    "multiple": ({"rank_multiple": "0"}, "rank_multiple '0'"),
    "mixed": ({"objective": "mixed"}, "objective mixed needs weights"),
    "weight of what": (
        {"objective": "mixed", "weights": ("parms=1",)}, "did you mean params",
    ),
    "no number": ({"objective": "mixed", "weights": ("params=x",)}, "'params=x' is not a weight"),
    "table": ({"latency_table": Path("nowhere.csv")}, "latency_table nowhere.csv: no such file"),
}  # fmt: skip


def test_the_defaults_are_within_their_ranges() -> None:
    check(GOOD)
    check(SweepConfig(checkpoint=Path("ckpt.pt")))


@pytest.mark.parametrize("name", BAD)
def test_a_bad_setting_is_one_line_that_names_it(name: str) -> None:
    changes, message = BAD[name]
    with pytest.raises(InvalidValueError) as caught:
        check(replace(GOOD, **changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_at_the_edge_of_their_ranges_are_good() -> None:
    check(replace(GOOD, samples=2, recover_steps=0, anchors=0, seed=0, feature_weight=0.0))
    check(replace(GOOD, objective="mixed", weights=("params=1", "macs=0.5")))
    check(replace(GOOD, precision="int8", rank_multiple="7", stage_ratio=1.01))


def test_ranks_are_multiples_of_what_the_precision_asks_for() -> None:
    found = [grid_of(replace(GOOD, precision=p)).multiple_of for p in ("fp32", "fp16", "int8")]
    assert found == [1, 8, 32]
    assert grid_of(replace(GOOD, precision="int8", rank_multiple="4")).multiple_of == 4


def test_no_two_uses_of_random_numbers_share_a_seed() -> None:
    assert len(set(SEEDS.values())) == len(SEEDS)
    assert 0 not in SEEDS.values()  # the reference of the dense generator


def test_the_run_directory_is_named_after_the_checkpoint_or_given(tmp_path: Path) -> None:
    assert run_directory(GOOD) == Path("runs/ckpt")
    assert run_directory(replace(GOOD, run_dir=tmp_path)) == tmp_path
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ArdError, match="is a file; use another run directory"):
        run_directory(replace(GOOD, run_dir=file))


# -- what a measurement depends on


MATTERS: dict[str, Any] = {
    "samples": 7,
    "sweep_samples": 7,
    "closed_form": "least_squares",
    "seed": 7,
    "recover_steps": 7,
    "recover_batch": 7,
    "recover_lr": 7.0,
    "feature_weight": 7.0,
    "stage_ratio": 7.0,
    "polish_steps": 7,
    "model": "my_gan:build",
    "model_args": '{"ngf": 64}',
    "state_key": "netG",
}
# What changes which plans are looked at, how fast, or where from, but no score of any of them.
DOES_NOT: dict[str, Any] = {
    **{"executor": "ray", "ray_address": "local", "workers": 2, "gpus_per_worker": 1.0},
    "cpu_workers": 7,
    "dry_run": True,
    "activations": False,
    "effort": "quick",
    "trials_at_once": 7,
    "checkpoint": None,  # the content counts, not the name
    "objective": "macs",
    "weights": ("params=1",),
    "latency_table": Path("t.csv"),
    "latency_batch": 7,
    "methods": ("svd",),
    "fractions": (0.3,),
    "precision": "fp16",
    "rank_multiple": "7",
    "anchors": 7,
    "run_dir": Path("elsewhere"),
    "max_trials": 7,
    "max_rounds": 7,
    "metric": "kid",  # the metric that was found counts
    "features": "efficientnet-lite0",  # the extractor that was found counts
    "inception_weights": Path("w.pth"),
    "reference": "dense",  # the reference that was found counts
    "data_root": Path("data"),
    "batch_size": 7,
    "device": "cuda",
    "threads": 7,
    # The interface that was found counts, and the content of the inputs.
    "latent_shape": "7",
    "latent": "uniform",
    "classes": 7,
    "label_input": "onehot",
    "inputs": Path("images"),
    "input_size": "7x7",
    "input_range": "0,1",
    "output": "7",
    "output_range": "0,1",
    "forward_args": "{}",
}


def test_the_fingerprint_differs_where_a_measurement_does(
    checkpoint: Path, setting: Setting
) -> None:
    config = SearchConfig(checkpoint=checkpoint)
    own = fingerprint(config, setting)
    for name, value in MATTERS.items():
        assert fingerprint(replace(config, **{name: value}), setting) != own, name
    assert fingerprint(config, replace(setting, metric=KID)) != own
    assert (
        fingerprint(
            config, replace(setting, reference=replace(setting.reference, source="another"))
        )
        != own
    )
    width = setting.interface.latent_dim
    for calling in (Calling(("z",), (width,)), Calling(("z",), (width, 1, 1))):
        called = replace(setting.interface, calling=calling)
        assert fingerprint(config, replace(setting, interface=called)) != own


def test_the_fingerprint_is_the_same_where_no_measurement_differs(
    checkpoint: Path, setting: Setting, tmp_path: Path
) -> None:
    config = SearchConfig(checkpoint=checkpoint)
    copied = tmp_path / "copy.pt"
    copied.write_bytes(checkpoint.read_bytes())
    own = fingerprint(config, setting)
    for name, value in {**DOES_NOT, "checkpoint": copied}.items():
        assert fingerprint(replace(config, **{name: value}), setting) == own, name


def test_every_setting_was_considered() -> None:
    named = {field.name for field in fields(SearchConfig)}
    assert named == MATTERS.keys() | DOES_NOT.keys()
    more = {f.name for c in (CompressConfig, ParetoConfig) for f in fields(c)} - named
    assert more == {
        "fid_budget",
        "quality_budget",
        "bundle",
        "budgets",
        "target",
        "targets",
    }  # nor does any of these matter


def test_a_search_goes_on_from_a_sweep_of_the_same_settings(
    checkpoint: Path, setting: Setting, tmp_path: Path
) -> None:
    names = {field.name for field in fields(SweepConfig)}
    search = SearchConfig(checkpoint=checkpoint)
    sweep = SweepConfig(**{name: getattr(search, name) for name in names})
    fewer, more = fingerprint(sweep, setting), fingerprint(search, setting)
    assert fewer.items() < more.items()
    open_journal(sweep, setting, tmp_path)
    open_journal(search, setting, tmp_path)
    assert (tmp_path / "config.json").exists()


# -- evaluators, costs, latents


def test_latents_of_the_statistics_are_none_of_those_that_score(setting: Setting) -> None:
    found = statistics_latents(GOOD, setting)
    assert found.shape == (128, setting.interface.latent_dim)
    for name in ("single", "joint", "final", "selection"):
        others = setting.latents(128, GOOD.seed + SEEDS[name])
        assert not torch.equal(found, others)


@pytest.mark.parametrize(
    ("samples", "enough", "expected"),
    # half of them; half of enough; all, since half of enough are not there; where few are enough
    [(5120, 5120, 2560), (3000, 5120, 2560), (1700, 5120, 1700), (64, 2, 32), (1, 1, 1)],
)
def test_half_of_the_images_score_a_plan_before_its_recovery(
    samples: int, enough: int, expected: int, setting: Setting
) -> None:
    metric = replace(setting.metric, enough_images=lambda extractor: enough)
    assert unrecovered_images(samples, metric, setting.extractor) == expected


def test_there_is_no_proxy_where_every_choice_is_scored(setting: Setting) -> None:
    assert proxy_evaluator(replace(GOOD, anchors=0), setting) is None


def test_the_cost_is_the_objective(setting: Setting, tmp_path: Path) -> None:
    profile = profile_of(GOOD, setting.generator, setting.interface)
    assert layer_cost(GOOD, profile, tmp_path)[0] is params_cost
    assert layer_cost(replace(GOOD, objective="macs"), profile, tmp_path)[0] is macs_cost
    mixed = replace(GOOD, objective="mixed", weights=("params=1", "macs=3"))
    cost, _ = layer_cost(mixed, profile, tmp_path)
    assert isinstance(cost, MixedCost)
    assert [weight for weight, _, _ in cost.parts] == [1.0, 3.0]
    assert list(tmp_path.iterdir()) == []  # nothing was timed


@pytest.mark.slow
def test_times_that_no_table_was_given_for_are_measured_here(
    setting: Setting, tmp_path: Path
) -> None:
    config = replace(GOOD, objective="latency", methods=("svd",), fractions=(0.5,))
    profile = profile_of(config, setting.generator, setting.interface)
    cost, _ = layer_cost(config, profile, tmp_path)
    assert isinstance(cost, LatencyCost)
    table = LatencyTable.read(tmp_path / "latency.csv")
    for layer in profile_layers(setting.generator, setting.latents(2, 0)).layers:
        assert 0 < cost(layer, None) < 1000
        for choice in layer.rank_grid("svd", (0.5,)):
            timed = [table.milliseconds(call, choice) for call in layer.signatures]
            assert cost(layer, choice) == pytest.approx(sum(timed))


def test_an_absolute_budget_in_other_features_comes_with_its_share(setting: Setting) -> None:
    lines = list(remarks(GOOD, setting, Budget.parse("2"), 40.0, "--fid-budget"))
    assert "here 2 is the same as --fid-budget 5%" in lines[1]
    assert len(lines) == 2  # four images per feature are drawn by default
    few = replace(GOOD, samples=32)
    hint = list(remarks(few, setting, Budget.parse("5%"), 40.0, "--fid-budget"))[-1]
    assert "64 images or more make a good interval; one from 32, as in this run" in hint
    assert f"{row_of(2).least:.0%} to {row_of(2).most:.0%} of simulated draws" in hint


@pytest.mark.parametrize(("n", "told"), [(None, False), (15, True), (16, False)])
def test_a_reference_of_fewer_images_than_features_is_doubted(
    n: int | None, told: bool, setting: Setting
) -> None:
    reference = replace(setting.reference, n_images=n)
    given = replace(setting, reference=reference)  # of 16 features
    lines = list(remarks(GOOD, given, Budget.parse("5%"), 40.0, "--fid-budget"))
    assert (
        any("15 reference images in 16 features is mostly bias" in line for line in lines) is told
    )


def row_of(ratio: float) -> Worth:
    return next(row for row in WORTH if row.ratio == ratio)


def test_what_is_said_about_intervals_was_simulated() -> None:
    rows = json.loads((ROOT / "benchmarks/results/coverage.json").read_text())["by_ratio"]
    simulated = [
        Worth(
            row["ratio"],
            round(row["covered_least"], 2),
            round(row["covered_most"], 2),
            float(f"{row['width_relative_to_4']:.2g}"),
        )
        for row in rows
    ]
    assert list(WORTH) == simulated


def test_below_the_table_the_hint_promises_less(setting: Setting) -> None:
    few = list(remarks(replace(GOOD, samples=4), setting, Budget.parse("2"), 40.0, "--fid-budget"))
    assert few[-1].count("and in fewer below") == 1


def test_a_run_from_before_is_not_continued(setting: Setting, tmp_path: Path) -> None:
    # Its single-layer scores are rises of as many images as it drew, not in the limit.
    config = replace(GOOD, checkpoint=tmp_path / "any.pt")
    config.checkpoint.touch()
    now = fingerprint(config, setting)
    FileJournal(tmp_path / "journal.jsonl", {k: v for k, v in now.items() if k != "estimator"})
    with pytest.raises(JournalError, match="estimator is plain there and limit here"):
        FileJournal(tmp_path / "journal.jsonl", now)


def test_every_bank_of_held_out_latents_is_another(setting: Setting) -> None:
    config = replace(GOOD, samples=8)
    banks = [held_out_bank(config, setting, k).latents for k in (0, 1, 2, 1)]
    assert torch.equal(banks[1], banks[3])
    assert not any(torch.equal(banks[a], banks[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


# -- discriminators and images for the recovery


def test_a_discriminator_that_is_asked_for_and_not_there_is_one_line(setting: Setting) -> None:
    assert discriminator_of(GOOD, setting) is None
    for config in (replace(GOOD, feature_weight=1.0), replace(GOOD, polish_steps=5)):
        with pytest.raises(ArdError, match=r"ckpt.pt holds no discriminator.*polish_steps need"):
            discriminator_of(config, setting)


def test_the_discriminator_is_that_of_the_checkpoint(setting: Setting) -> None:
    built = build_model({"kind": "mmd-nas", "df_dim": 4, "n_outputs": 2}, "discriminator")
    own = {name: tensor.clone() for name, tensor in built.state_dict().items()}
    config = {"df_dim": 4, "n_outputs": 2}
    known: Checkpoint = replace(setting.checkpoint, discriminator=own, discriminator_config=config)
    found = discriminator_of(replace(GOOD, polish_steps=1), replace(setting, checkpoint=known))
    assert found is not None
    assert all(torch.equal(found.state_dict()[name], tensor) for name, tensor in own.items())
    having = replace(setting, checkpoint=known)
    assert discriminator_of(GOOD, having) is not None
    assert feature_weight(GOOD, having) == FEATURE_WEIGHT
    assert feature_weight(replace(GOOD, feature_weight=3.0), having) == 3.0
    assert discriminator_of(replace(GOOD, feature_weight=0.0, polish_steps=0), having) is None
    with pytest.raises(ArdError, match=r"recover_batch is 1: .* at least 2"):
        discriminator_of(replace(GOOD, recover_batch=1), having)
    assert discriminator_of(replace(GOOD, recover_batch=1, polish_steps=0), having) is not None


def test_a_recovery_ends_with_adversarial_fine_tuning_where_there_is_a_discriminator(
    setting: Setting,
) -> None:
    having = replace(
        setting,
        checkpoint=replace(setting.checkpoint, discriminator={}, discriminator_config={}),
    )
    assert fine_tuning_steps(replace(GOOD, recover_steps=30), having) == 30
    assert fine_tuning_steps(replace(GOOD, recover_steps=30), setting) == 0
    for found in (setting, having):
        assert fine_tuning_steps(replace(GOOD, polish_steps=7), found) == 7
        assert fine_tuning_steps(replace(GOOD, polish_steps=0), found) == 0


def test_fine_tuning_keeps_to_the_loss_of_the_training(setting: Setting) -> None:
    def trained_by(loss: Any) -> Checkpoint:
        return replace(setting.checkpoint, provenance={"loss": loss})

    assert loss_of(trained_by("hinge")) == "hinge"
    for unknown in ("of somebody else", None):
        assert loss_of(trained_by(unknown)) == FineTuning.loss
    assert loss_of(replace(setting.checkpoint, provenance={})) == FineTuning.loss


def test_the_features_of_a_conditional_discriminator_are_left_alone(setting: Setting) -> None:
    conditional = replace(setting, interface=replace(setting.interface, n_classes=10))
    assert feature_weight(GOOD, conditional) == 0
    assert discriminator_of(GOOD, conditional) is None
    with pytest.raises(ArdError, match=r"feature_weight is 2, .* conditional discriminator"):
        discriminator_of(replace(GOOD, feature_weight=2.0), conditional)


def test_without_data_the_dense_generator_gives_the_real_images(setting: Setting) -> None:
    def missing() -> Any:
        raise MissingDataError("not on this disk")

    config = replace(GOOD, recover_batch=3)
    named = replace(setting, checkpoint=replace(setting.checkpoint, provenance={"dataset": "cats"}))
    for source in (setting, replace(named, load_images=missing)):
        words, images = real_images(config, source)
        assert words.startswith("images of the dense generator")
        assert ("cats is not available" in words) == (source is not setting)
        first, again, other = images(0), images(0), images(1)
        assert isinstance(first, torch.Tensor)
        assert first.shape == (3, *setting.generator.image_shape)  # type: ignore[misc]  # of ours
        assert torch.equal(first, again)  # type: ignore[arg-type]
        assert not torch.equal(first, other)  # type: ignore[arg-type]


def test_of_a_conditional_generator_they_come_with_their_labels(setting: Setting) -> None:
    conditional = build_model(
        {"kind": "dense-cgan", "gf_dim": 4, "image_size": 6, "latent_dim": 5},
        rng=torch.Generator().manual_seed(0),
    ).eval()
    labelled = replace(
        setting, generator=copy.deepcopy(conditional), interface=interface_of(conditional)
    )
    _, draw = real_images(replace(GOOD, recover_batch=3), labelled)
    images, labels = draw(0)
    assert images.shape == (3, 1, 6, 6)
    assert labels.shape == (3, 10)
    assert labels.sum(dim=1).tolist() == [1, 1, 1]


def test_the_images_of_a_data_set_are_the_real_ones(setting: Setting) -> None:
    shades = (0, 90, 255)
    images = torch.stack([torch.full((3, 4, 4), shade, dtype=torch.uint8) for shade in shades])
    having = replace(
        setting,
        checkpoint=replace(setting.checkpoint, provenance={"dataset": "grey"}),
        load_images=lambda: cast(Images, images),
    )
    words, draw = real_images(replace(GOOD, recover_batch=3), having)
    assert words == "grey"
    batch = draw(0)
    assert isinstance(batch, torch.Tensor)
    assert sorted(batch[:, 0, 0, 0].tolist()) == pytest.approx([-1, 90 / 127.5 - 1, 1])
