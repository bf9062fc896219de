import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nas_gan.errors import InvalidValueError
from nas_gan.networks.genotype import ADVERSARIAL_NAS, MMD_NAS, DiscriminatorGenotype
from nas_gan.networks.interface import GeneratorInterface, interface_of
from nas_gan.networks.models import build_model
from nas_gan.training.build import build_networks
from nas_gan.training.config import TrainConfig
from nas_gan.training.describe import blueprint, describe_networks


@pytest.mark.parametrize(
    ("settings", "shape", "n_classes"),
    [
        ({}, (3, 32, 32), 0),
        ({"shape": "stl10"}, (3, 48, 48), 0),
        ({"image_size": 40, "image_channels": 1}, (1, 40, 40), 0),
        ({"model": "dcgan"}, (3, 64, 64), 0),
        ({"model": "dcgan", "image_size": 32, "n_classes": 4}, (3, 32, 32), 4),
        ({"model": "mnist-condgan"}, (1, 28, 28), 10),
    ],
)
def test_a_blueprint_knows_its_sizes_without_memory(settings, shape, n_classes):
    net = blueprint(describe_networks(TrainConfig(**settings))[0])
    found = interface_of(net)
    assert found.image_shape == shape
    assert found.n_classes == n_classes
    assert all(parameter.is_meta for parameter in net.parameters())


def test_what_nobody_asks_for_is_the_models_own():
    (g, d), (g_old, d_old) = (
        describe_networks(TrainConfig(model=m)) for m in ("mmd-nas", "adversarial-nas")
    )
    assert (g["gf_dim"], g["activation"], d["df_dim"], d["n_outputs"]) == (256, "pmish", 512, 16)
    assert (g_old["activation"], d_old["df_dim"], d_old["n_outputs"]) == ("relu", 128, 1)
    assert g["genotype"]["rows"] == MMD_NAS.rows
    assert g_old["genotype"]["rows"] == ADVERSARIAL_NAS.rows
    assert describe_networks(TrainConfig(model="dcgan")) == ({"kind": "dcgan"}, {"kind": "dcgan"})


@pytest.mark.parametrize("model", ["mmd-nas", "adversarial-nas"])
def test_a_number_of_classes_reaches_both_searched_networks(model, tmp_path):
    genotype = tmp_path / "d.json"
    genotype.write_text(DiscriminatorGenotype(((3, 3, 3, 3, 3, 0, 0),) * 4).to_json())
    asked = TrainConfig(model=model, n_classes=4)
    searched = replace(asked, discriminator="searched", d_genotype=genotype)
    for config in (asked, searched):
        assert [network["n_classes"] for network in describe_networks(config)] == [4, 4]
    assert [network["n_classes"] for network in describe_networks(TrainConfig())] == [0, 0]


def test_networks_of_two_families_meet_at_their_images():
    tiny = TrainConfig(gf_dim=4, df_dim=4)
    crossed = build_networks(replace(tiny, discriminator="dcgan"))
    assert crossed.d_architecture["image_size"] == 32
    scores = crossed.discriminator(torch.zeros(2, *crossed.interface.image_shape))
    assert scores.shape == (2, 1)
    back = build_networks(replace(tiny, model="dcgan", discriminator="mmd-nas"))
    assert back.d_architecture["downsampling"] == 3
    conditional = replace(tiny, model="dcgan", n_classes=10, discriminator="mmd-nas")
    assert build_networks(conditional).d_architecture["n_classes"] == 10
    with pytest.raises(InvalidValueError, match=r"generator has n_classes 0, the discriminator 10"):
        build_networks(replace(tiny, discriminator="mnist-condgan"))


def test_both_networks_can_be_written_down(tmp_path):
    path = tmp_path / "nets.json"
    nets = {
        "generator": {"kind": "layers", "input": [5], "layers": [
            {"type": "linear", "out": 48}, {"type": "output"},
            {"type": "reshape", "to": [3, 4, 4]}]},
        "discriminator": {"kind": "layers", "input": [3, 4, 4], "layers": [
            {"type": "flatten"}, {"type": "linear", "out": 2}, {"type": "output"}]},
    }  # fmt: skip
    path.write_text(json.dumps(nets))
    networks = build_networks(TrainConfig(networks=path))
    assert networks.interface == GeneratorInterface(5, 0, (3, 4, 4))
    path.write_text("{}")
    with pytest.raises(InvalidValueError, match=r"nets\.json: needs {\"generator\""):
        describe_networks(TrainConfig(networks=path))


def test_activation_slots_draw_their_start_where_told():
    config = TrainConfig(
        model="mnist-condgan", hidden_activation="shrelu", d_output_activation="bhsa",
        activation_init_mean=3.0, activation_init_std=0.0, gf_dim=4, df_dim=4,
    )  # fmt: skip
    g, d = describe_networks(config)
    assert g["activation_init"] == {"name": "normal", "mean": 3.0, "std": 0.0}
    values = [p for n, p in build_model(g, rng=torch.Generator()).named_parameters() if ".t" in n]
    assert values
    assert all((value == 3).all() for value in values)
    assert d["output_activation"] == "bhsa"


def test_seeds_make_different_networks():
    a, b = (build_networks(TrainConfig(gf_dim=4, df_dim=4, seed=seed)) for seed in (1, 2))
    first, second = (net.generator.get_parameter("l1.weight") for net in (a, b))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"genotype": Path("none.json")}, "none.json: no such genotype"),
        ({"activation": "gelu"}, "gelu"),
        ({"shape": "cifar11"}, "did you mean cifar10"),
        ({"latent_dim": 100}, "100 does not divide into 3"),
        ({"image_size": 30}, "30 does not divide by 8"),
        ({"model": "dcgan", "image_size": 48}, "image_size must be 4 times a power of two"),
        ({"model": "mmd-gan", "image_size": 40}, "40"),
        ({"hidden_activation": "mish"}, "mmd-nas has no hidden_activation"),
        ({"d_output_activation": "bhsa"}, "mmd-nas has no slot for d_output_activation"),
        ({"spectral_norm": "operater"}, "did you mean operator"),
        ({"spectral_norm": "operator"}, "kernel or none; got operator"),
        ({"discriminator": "searched"}, "needs d_genotype"),
        ({"discriminator": "dcgam"}, "did you mean dcgan"),
        ({"networks": Path("none.json")}, "none.json: no such file"),
    ],
)
def test_networks_that_cannot_be_are_refused_in_one_line(settings, message):
    with pytest.raises(InvalidValueError, match=message) as caught:
        build_networks(TrainConfig(gf_dim=4, df_dim=4, **{"loss": "latest"} | settings))
    assert "\n" not in str(caught.value)
