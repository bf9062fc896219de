"""Files as other projects write them; every network in them is told by the value of its weights."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from nas_gan.checkpoint import build_generator, load_checkpoint
from nas_gan.errors import CheckpointError


class Net(nn.Module):
    """Two layers and their statistics, which it calls by a name of its own, as pix2pix does."""

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


class Bare(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(2, 3), nn.BatchNorm1d(3))


class Wrapped(nn.Module):
    """Somebody's own wrapper around a network, such as one that gives it a latent_dim."""

    def __init__(self):
        super().__init__()
        self.inner = Net()


def weights(value, network=Net, prefix=""):
    state = network().state_dict()
    return OrderedDict(
        (prefix + name, torch.full_like(tensor, value)) for name, tensor in state.items()
    )


G, EMA, D = weights(1), weights(2), weights(-1)
ADAM = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}


def value_in(path, network=Net, **options):
    checkpoint = load_checkpoint(path, **options)
    generator = build_generator(checkpoint, network)
    values = {float(t.flatten()[0]) for t in generator.state_dict().values()}
    assert len(values) == 1, "weights of two networks"
    return values.pop(), checkpoint.provenance["weights"]


def prefixed(**parts):
    return {
        f"{part.replace('__', '.')}.{name}": t for part, s in parts.items() for name, t in s.items()
    }


LAYOUTS = {
    "bare (CycleGAN's latest_net_G.pth)": (G, 1, "the whole file"),
    "DCGAN example": ({"netG": G, "netD": D, "optimizerG": ADAM}, 1, "netG"),
    "state_dict": ({"state_dict": G, "epoch": 3}, 1, "state_dict"),
    "model": ({"model": G, "optimizer": ADAM, "lr": 0.1}, 1, "model"),
    "model_state_dict": ({"model_state_dict": G, "loss": 0.3}, 1, "model_state_dict"),
    "net": ({"net": G, "net_d": D}, 1, "net"),
    "netG_state_dict": ({"netG_state_dict": G, "netD_state_dict": D}, 1, "netG_state_dict"),
    "G_state_dict": ({"G_state_dict": G, "D_state_dict": D, "G_optim": ADAM}, 1, "G_state_dict"),
    "generator_state_dict": (
        {"discriminator_state_dict": D, "generator_state_dict": G}, 1, "generator_state_dict"),
    "gen and disc": (
        {"epoch": 3, "gen": OrderedDict(G), "disc": D, "opt_g": ADAM, "opt_d": ADAM}, 1, "gen"),
    "rosinality": (
        {"g": G, "d": D, "g_ema": EMA, "g_optim": ADAM, "latent_avg": torch.ones(4)}, 2, "g_ema"),
    "style-based": ({"generator": G, "discriminator": D, "g_running": EMA}, 2, "g_running"),
    "genforce": ({"models": {"generator": G, "discriminator": D, "generator_smooth": EMA}}, 2,
                 "models.generator_smooth"),
    "BasicSR": ({"params": G, "params_ema": EMA}, 2, "params_ema"),
    "timm": ({"state_dict": G, "state_dict_ema": EMA}, 2, "state_dict_ema"),
    "ema beside G": ({"G": G, "D": D, "ema": EMA}, 2, "ema"),
    "both averaged": ({"G": G, "D": D, "ema": {"D": D, "G": EMA}}, 2, "ema.G"),
    "averaged discriminator": ({"netG": G, "netD": D, "netD_ema": D}, 1, "netG"),
    "generator deeper": ({"G": {"model": G}, "D": {"model": D}}, 1, "G.model"),
    "optimizer inside": ({"G": {"net": G, "opt": ADAM}, "D": {"net": D}}, 1, "G.net"),
    "very deep": ({"a": {"checkpoint": {"state": {"netG": G, "netD": D}}}}, 1,
                  "a.checkpoint.state.netG"),
    "critic": ({"critic": D, "generator": G, "criticOptimizer": ADAM}, 1, "generator"),
    "a tuple": ((G, ADAM, 3), 1, "0"),
    "a list inside": ({"nets": [{"netG": G, "netD": D}], "sizes": [3, 4]}, 1, "nets.0.netG"),
    "optimizers in a list": (
        {"state_dict": G, "optimizer_states": [ADAM], "lr_schedulers": [{"last_lr": [0.1]}]}, 1,
        "state_dict"),
    "statistics beside": ({"model": G, "mel_stats": {"mean": torch.zeros(2)}}, 1, "model"),
    "metadata in the dict": (G | {"epoch": 7, "name": "x", "meta": {"mean": torch.ones(1)}}, 1,
                             "the whole file"),
    "data parallel": (weights(1, prefix="module."), 1,
                      "the whole file, without the prefix module."),
    "data parallel and compiled": (
        {"netG": weights(1, prefix="_orig_mod.module."), "netD": D}, 1,
        "netG, without the prefix _orig_mod.module."),
    "data parallel inside": (
        {"state_dict": prefixed(model={f"module.{n[6:]}": t for n, t in G.items()})}, 1,
        "state_dict"),
    "Lightning": ({"state_dict": prefixed(discriminator=D, generator=G, loss_fn__vgg=D),
                   "epoch": 1, "optimizer_states": [ADAM], "loops": {"a": {"b": torch.ones(1)}}},
                  1, "state_dict, the part generator."),
    "Lightning, netG": ({"state_dict": prefixed(netD=D, netG=G, lpips=D)}, 1,
                        "state_dict, the part netG."),
    "Lightning, G": ({"state_dict": prefixed(D=D, G=G)}, 1, "state_dict, the part G."),
    "Lightning, average": (
        {"state_dict": prefixed(generator=G, discriminator=D, ema_generator=EMA)}, 2,
        "state_dict, the part ema_generator."),
    "Lightning, AveragedModel": (
        {"state_dict": prefixed(generator=G, discriminator=D, generator_ema__module=EMA)
         | {"generator_ema.n_averaged": torch.tensor(9)}}, 2,
        "state_dict, the part generator_ema., without the prefix module."),
    "Lightning, compiled": (
        {"state_dict": prefixed(generator___orig_mod=G, discriminator=D)}, 1,
        "state_dict, the part generator., without the prefix _orig_mod."),
    "Lightning, wrapped": ({"state_dict": prefixed(model__generator=G, model__discriminator=D)}, 1,
                           "state_dict, the part model.generator."),
    "generator alone, prefixed": ({"state_dict": prefixed(generator=G)}, 1,
                                  "state_dict, without the prefix generator."),
    "discriminator beside plain parts": (G | prefixed(discriminator=D), 1,
                                         "the whole file, without the parts discriminator."),
    "AveragedModel": (prefixed(module=EMA) | {"n_averaged": torch.tensor(3)}, 2,
                      "the whole file, without the prefix module."),
    "ema_pytorch": (prefixed(ema_model=EMA, online_model=G) | {"initted": torch.tensor(True),
                    "step": torch.tensor(5)}, 2, "the whole file, the part ema_model."),
}  # fmt: skip


PARAMETERS = {n: t for n, t in EMA.items() if "running" not in n}
UNNAMED = {n.replace(".", ""): t for n, t in PARAMETERS.items()}


@pytest.mark.parametrize(
    "content",
    [
        {"G": G, "ema": PARAMETERS},
        {"model": G, "model_ema": UNNAMED},
        {"G": G, "ema": {"shadow_params": list(PARAMETERS.values()), "decay": 0.99}},
        prefixed(generator=G, discriminator=D, generator_ema=UNNAMED),
    ],
)
def test_an_average_that_lacks_buffers_or_names_is_passed_over(content, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    assert value_in(tmp_path / "a.pt")[0] == 1


def test_a_single_layer_with_running_statistics_is_one_network(tmp_path):
    torch.save(weights(1, lambda: nn.BatchNorm1d(3)), tmp_path / "a.pt")
    assert value_in(tmp_path / "a.pt", lambda: nn.BatchNorm1d(3)) == (1, "the whole file")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_generator_is_found_as_others_store_it(layout, tmp_path):
    content, value, where = LAYOUTS[layout]
    torch.save(content, tmp_path / "a.pth")
    assert value_in(tmp_path / "a.pth") == (value, where)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if "Lightning" in name])
def test_what_is_found_is_found_in_safetensors_too(layout, tmp_path):
    from safetensors.torch import save_file

    content, value, where = LAYOUTS[layout]
    flat = {name: t.clone() for name, t in content["state_dict"].items()}
    save_file(flat, tmp_path / "a.safetensors")
    where = where.replace("state_dict", "the whole file")
    assert value_in(tmp_path / "a.safetensors") == (value, where)


@pytest.mark.parametrize("network", [Net, Bare, Wrapped])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "net.model.", "generator.module."])
@pytest.mark.parametrize("stored", [Net, Bare])
def test_names_fit_whatever_stands_before_all_of_them(network, prefix, stored, tmp_path):
    torch.save({"state_dict": weights(1, stored, prefix)}, tmp_path / "a.pt")
    assert value_in(tmp_path / "a.pt", network)[0] == 1


def test_layers_called_by_letters_are_one_network(tmp_path):
    class Letters(nn.Module):
        def __init__(self):
            super().__init__()
            for name in "abcdefg":
                self.add_module(name, nn.Linear(2, 2))

    torch.save(weights(1, Letters), tmp_path / "a.pt")
    assert value_in(tmp_path / "a.pt", Letters) == (1, "the whole file")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("G", 1), ("ema", 2), ("deep.one", 3), ("flat.generator", 1), ("flat.average", 2),
        ("dotted.key", 4), ("D", -1), ("flat.deeper.still", 5), ("nested", 1),
        ("listed.1", 6), ("listed.0.two", 7),
    ],
)  # fmt: skip
def test_a_key_chooses(tmp_path, key, value):
    flat = prefixed(generator=G, average=EMA, deeper__still=weights(5))
    content = {
        "G": G, "D": D, "ema": EMA, "deep": {"one": weights(3), "two": G}, "flat": flat,
        "dotted.key": weights(4), "nested": {"model": G, "optimizer": ADAM},
        "listed": [{"one": G, "two": weights(7)}, weights(6)],
    }  # fmt: skip
    torch.save(content, tmp_path / "a.pt")
    assert value_in(tmp_path / "a.pt", state_key=key)[0] == value


def test_a_key_that_keeps_several_networks_still_fits_each(tmp_path):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.generator, self.discriminator = Net(), Net()

    torch.save({"state_dict": prefixed(generator=G, discriminator=D)}, tmp_path / "a.ckpt")
    assert value_in(tmp_path / "a.ckpt", state_key="state_dict")[0] == 1
    both = build_generator(load_checkpoint(tmp_path / "a.ckpt", state_key="state_dict"), Both)
    assert both.get_parameter("discriminator.model.0.weight")[0, 0] == -1


def refused(content, match, tmp_path, **options):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=match) as caught:
        load_checkpoint(tmp_path / "a.pt", **options)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "a.pt") in str(caught.value)
    return caught.value.setting


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"netG_A": G, "netG_B": G, "netD_A": D, "netD_B": D}, "netG_A, netG_B"),
        ({"one": G, "two": G}, "one, two"),
        ({"encoder": G, "decoder": G}, "encoder, decoder"),
        ([EMA, G], "0, 1"),
        ({"state_dict": prefixed(gen_AB=G, gen_BA=G, disc_A=D)},
         r"state_dict\.gen_AB, state_dict\.gen_BA"),
    ],
)  # fmt: skip
def test_two_that_may_be_the_generator_are_listed(content, names, tmp_path):
    assert refused(content, f"state_key must say which of {names} is the", tmp_path) == "state_key"
    chosen = names.replace("\\", "").split(", ")[1]
    assert value_in(tmp_path / "a.pt", state_key=chosen)[0] == 1


def test_a_discriminator_is_not_taken_for_a_generator(tmp_path):
    for content in ({"netD": D}, {"d": D, "d_optim": ADAM}, {"D": {"model": D}, "epoch": 3},
                    prefixed(module__netD=D), prefixed(discriminator=D)):  # fmt: skip
        setting = refused(content, "must choose the generator: all weights", tmp_path)
        assert setting == "state_key"


@pytest.mark.parametrize(
    ("key", "match"),
    [
        ("netQ", r"'netQ' is not in the file; there is netG, netD, epoch, flat \("),
        ("netG.deeper", r"'netG\.deeper' is not in the file; there is model in netG"),
        ("flat.gen", r"there is generator, discriminator in flat"),
        ("epoch", "'epoch' is not a state dict in the file, but a int"),
        ("epoch.x", "not a state dict in the file"),
        ("", "'' is not in the file"),
    ],
)
def test_a_key_that_is_not_there_names_those_that_are(key, match, tmp_path):
    content = {"netG": G, "netD": D, "epoch": 1, "flat": prefixed(generator=G, discriminator=D)}
    assert refused(content, match, tmp_path, state_key=key) == "state_key"


def test_a_file_without_weights_says_what_it_holds(tmp_path):
    many = {f"k{i}": i for i in range(12)}
    refused({"epoch": 3, "name": "x", "scores": [1, 2]},
            r"dict of epoch \(int\), name \(str\), scores \(list of 2\)", tmp_path)  # fmt: skip
    refused(many, r"k7 \(int\) and 4 more", tmp_path)
    refused([{"a": 1}, torch.ones(1)], r"dict of 0 \(dict of 1\)", tmp_path)
    refused([3, torch.ones(1)], "list of int, Tensor", tmp_path)
    refused({"optimizer": ADAM, "epoch": 1}, r"optimizer \(dict of 2\)", tmp_path)
