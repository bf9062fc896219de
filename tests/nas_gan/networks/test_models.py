import json
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import nas_gan
from nas_gan.checkpoint import (
    Checkpoint,
    build_generator,
    build_saved_discriminator,
    load_checkpoint,
    save_checkpoint,
)
from nas_gan.errors import CheckpointError, InvalidValueError
from nas_gan.losses import make_loss
from nas_gan.networks.latents import latents_of
from nas_gan.networks.models import MODELS, build_model, describe_pair
from nas_gan.training.config import TrainConfig
from nas_gan.training.optimizers import OPTIMIZERS, SCHEDULERS

# Published parameter counts: (architecture, role) -> count.
COUNTS = [
    ({"kind": "dcgan"}, 12_658_435, 2_765_633),
    ({"kind": "wgan"}, 12_658_435, 2_765_633),
    ({"kind": "celeba-dcgan"}, 12_658_432, 11_036_160),
    ({"kind": "celeba-dcgan", "hidden_activation": "shrelu"}, 12_904_192, 11_281_920),
    ({"kind": "celeba-dcgan", "hidden_activation": "mida"}, 13_149_952, 11_527_680),
    ({"kind": "celeba-dcgan", "output_activation": "bhsa"}, 12_683_008, 11_036_162),
    ({"kind": "mnist-condgan"}, 1_488_912, 1_470_465),
    ({"kind": "mnist-condgan", "hidden_activation": "shrelu"}, 1_490_704, 1_472_257),
    ({"kind": "mnist-condgan", "hidden_activation": "mida"}, 1_492_496, 1_474_049),
    ({"kind": "mnist-condgan", "hidden_activation": "mish"}, 1_488_912, 1_470_465),
    ({"kind": "mnist-condgan", "output_activation": "bhsa"}, 1_490_480, 1_470_467),
    ({"kind": "mnist-condgan", "output_activation": "bhata"}, 1_491_264, 1_470_468),
    ({"kind": "mnist-condgan", "output_activation": "bhana"}, 1_491_264, 1_470_468),
    ({"kind": "mnist-dcgan"}, 364_225, 48_097),
    ({"kind": "maxout-gan"}, 2_000_704, 2_666_497),
    ({"kind": "dense-cgan"}, 1_492_496, 538_625),
    ({"kind": "maxout-cgan"}, 1_227_920, 979_761),
    ({"kind": "mmd-gan", "image_size": 32}, 3_811_907, 5_983_760),
    ({"kind": "mmd-gan", "image_size": 48}, 5_151_299, 6_147_600),
    ({"kind": "mmd-gan", "image_size": 64}, 13_258_307, 23_942_672),
    ({"kind": "mmd-nas"}, 20_185_879, 16_805_888),
    ({"kind": "adversarial-nas"}, 8_846_851, 1_053_824),
]
# Every family at a size for a test, and one whose slots are filled; (generator, discriminator).
SMALL = {
    name: ({"kind": name, "gf_dim": 8}, {"kind": name, "df_dim": 8})
    for name, family in MODELS.items()
    if family.generator is not None and name != "layers"
}
SMALL["layers"] = (
    {
        "kind": "layers",
        "input": [6],
        "layers": [
            {"type": "linear", "out": 48},
            {"type": "hidden"},
            {"type": "output"},
            {"type": "reshape", "to": [3, 4, 4]},
        ],
    },
    {
        "kind": "layers",
        "input": [3, 4, 4],
        "layers": [{"type": "flatten"}, {"type": "linear", "out": 2}, {"type": "output"}],
    },
)
SMALL["slots"] = (
    {**SMALL["mnist-condgan"][0], "hidden_activation": "mida", "output_activation": "bhana"},
    {**SMALL["mnist-condgan"][1], "hidden_activation": "shrelu", "output_activation": "bhata"},
)


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("architecture", "g_count", "d_count"),
    COUNTS,
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_the_parameters_are_the_published_ones(architecture, g_count, d_count):
    # Spectral norm adds no parameter, and would run its first rounds.
    off = {"spectral_norm": "none"} if architecture["kind"] == "mmd-gan" else {}
    with torch.device("meta"):
        assert count(build_model(architecture)) == g_count
        if architecture["kind"] == "mmd-nas":
            assert count(build_model({"kind": "mmd-nas"}, "discriminator")) == d_count
        else:
            assert count(build_model({**architecture, **off}, "discriminator")) == d_count


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("name", SMALL)
def test_every_model_survives_its_file(name, suffix, tmp_path, rng):
    architectures = SMALL[name]
    generator: Any = build_model(architectures[0], rng=rng).eval()
    discriminator = build_model(architectures[1], "discriminator", rng=rng).eval()
    checkpoint = Checkpoint(
        architectures[0],
        generator.state_dict(),
        discriminator.state_dict(),
        architectures[1],
    )
    save_checkpoint(checkpoint, tmp_path / f"a{suffix}")
    loaded = load_checkpoint(tmp_path / f"a{suffix}")
    latents = latents_of(loaded.interface, 3, seed=0)
    onehot = (latents[:, -generator.n_classes :],) if generator.n_classes else ()
    with torch.no_grad():
        images = generator(latents)
        assert images.shape == (3, *generator.image_shape)
        assert torch.equal(build_generator(loaded)(latents), images)
        saved = build_saved_discriminator(loaded)
        assert saved is not None
        scores = saved(images, *onehot)
        assert torch.equal(scores, discriminator(images, *onehot))


@pytest.mark.parametrize("name", SMALL)
def test_every_architecture_is_plain_data(name):
    for architecture in SMALL[name]:
        assert json.loads(json.dumps(architecture)) == architecture


@pytest.mark.parametrize("kind", ["mnist-condgan", "dcgan"])
def test_a_seed_fixes_every_weight_whatever_the_global_state(kind):
    architecture = {**SMALL[kind][0], "hidden_activation": "mida", "output_activation": "bhaa"}
    states = [
        build_model(architecture, rng=torch.Generator().manual_seed(4)).state_dict()
        for _ in range(2)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))


def test_spectral_norm_is_on_where_layers_ask_or_a_preset_does(rng):
    def normed(kind, **options):
        net = build_model({**SMALL[kind][1], **options}, "discriminator", rng=rng)
        layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        return [parametrize.is_parametrized(layer, "weight") for layer in layers]

    assert normed("mmd-gan", spectral_norm="kernel") == [True] * 8
    assert normed("mmd-gan", spectral_norm="none") == [False] * 8
    assert normed("mnist-condgan") == [False] * 4
    assert normed("mnist-condgan", spectral_norm="operator") == [True] * 4


@pytest.mark.parametrize(
    ("architecture", "role", "message"),
    [
        ({"kind": "dcgann"}, "generator", "'dcgann' is not known; did you mean dcgan"),
        ({}, "generator", "None is not known; .*choose one of mmd-nas"),
        ({"kind": "searched"}, "generator", "searched has no generator"),
        ({"kind": "dcgan", "gf_dims": 8}, "generator", "dcgan generator 'gf_dims'.*gf_dim"),
        ({"kind": "dcgan", "df_dim": 8}, "generator", "option of the dcgan generator 'df_dim'"),
        ({"kind": "dcgan", "gf_dim": "8"}, "generator", "dcgan generator"),
        ({"kind": "dcgan", "image_size": None}, "generator", "option of a wrong type"),
        ({"kind": "dcgan", "hidden_activation": "misch"}, "generator", "did you mean mish"),
        ({"kind": "dcgan", "activation_sharing": "map"}, "generator", "'map' is not known"),
        ({"kind": "mmd-gan", "spectral_norm": "svd"}, "discriminator", "'svd' is not known"),
        ({"kind": "layers", "input": 3, "layers": []}, "generator", "wrong type"),
        ({"kind": "layers", "input": [3]}, "generator", "missing .*'layers'"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(architecture, role, message):
    with pytest.raises(InvalidValueError, match=message) as caught:
        build_model(architecture, role)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_an_unknown_family_offers_the_nearest():
    weights = {"weight": torch.eye(2)}
    with pytest.raises(CheckpointError, match=r"cannot be built: model 'mmd-nass' .*mmd-nas"):
        build_generator(Checkpoint({"kind": "mmd-nass"}, weights))
    with pytest.raises(CheckpointError, match=r"cannot be built: model 'dcgam' .*dcgan"):
        build_saved_discriminator(
            Checkpoint({"kind": "dcgan"}, weights, weights, {"kind": "dcgam"})
        )


def test_flat_settings_describe_both_networks():
    generator, discriminator = describe_pair(
        {
            "model": "mnist-condgan",
            "discriminator": None,
            "latent_dim": 50,
            "df_dim": 16,
            "n_classes": 4,
            "hidden_activation": "mida",
            "d_output_activation": "bhsa",
            "steps": 100,
        }
    )
    assert generator == {
        "kind": "mnist-condgan", "latent_dim": 50, "n_classes": 4, "hidden_activation": "mida",
    }  # fmt: skip
    assert discriminator == {
        "kind": "mnist-condgan", "df_dim": 16, "n_classes": 4, "output_activation": "bhsa",
    }  # fmt: skip
    _, other = describe_pair({"model": "mmd-nas", "discriminator": "mmd-gan"})
    assert other == {"kind": "mmd-gan"}


# Presets: one for each model and data set.

PRESETS = [
    path
    for path in sorted((Path(nas_gan.__file__).parent / "presets").glob("*.toml"))
    if "model" in tomllib.loads(path.read_text())
]
# Settings of the networks and of their training that TrainConfig takes from here.
SETTINGS = {f.name for f in fields(TrainConfig)} | {
    *("model", "discriminator", "image_size", "image_channels", "n_classes", "n_outputs"),
    *("hidden_activation", "output_activation", "d_hidden_activation", "d_output_activation"),
    *("activation_init", "activation_sharing", "freeze_activations_from", "spectral_norm"),
    *("label_real", "label_fake", "label_generator", "g_clip", "d_clip", "weight_decay"),
    *("g_optimizer", "d_optimizer", "g_scheduler", "d_scheduler"),
    *("scheduler_step_size", "scheduler_gamma", "scheduler_last_step"),
}
# mmd-nas and its ancestor are built from these.
# Data sets from packages, for which nothing was published.
PACKAGED = {"crossfire", "noto-emoji", "openclipart"}
SEARCHED = {"mmd-nas", "adversarial-nas"}


def test_every_family_but_the_open_ones_has_a_preset():
    named = {tomllib.loads(path.read_text())["model"] for path in PRESETS}
    assert named | {"mmd-nas", "layers", "searched", "attention-dcgan"} == MODELS.keys()


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_names_things_that_exist_and_a_published_pair(path):
    settings = tomllib.loads(path.read_text())
    assert settings.keys() <= SETTINGS
    assert make_loss(settings["loss"])
    for role in "gd":
        assert settings.get(f"{role}_optimizer", "Adam") in OPTIMIZERS
        assert settings.get(f"{role}_scheduler", "StepLR") in SCHEDULERS
    generator, discriminator = describe_pair(settings | {"spectral_norm": None})
    if settings["model"] == "mmd-gan":
        discriminator["spectral_norm"] = "none"
    with torch.device("meta"):
        pair = count(build_model(generator)), count(build_model(discriminator, "discriminator"))
    if settings.get("dataset") in PACKAGED:
        assert sum(pair) < 5_000_000  # ours, small enough for a few thousand pictures
    elif settings["model"] in SEARCHED:
        assert pair[1] in [d_count for _, _, d_count in COUNTS]
    else:
        slots = "hidden_activation" in settings  # in the generator alone
        assert pair in [
            (g_count, 11_036_160 if slots else d_count) for _, g_count, d_count in COUNTS
        ]
